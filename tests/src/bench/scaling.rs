//! Measures how the cost per packet grows when more CPUs do the same.

use std::{sync::Barrier, thread};

use anyhow::{Context as _, Result, anyhow};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use serde::Serialize;

use super::{
    measure::{PACKETS, WARM_UP, median},
    workloads::Workload,
    wrapper::Wrapper,
};
use crate::table::{Align, Table};

/// A workload on a number of CPUs, each of which sends the same packets through one balancer.
#[derive(Clone, Debug, Serialize)]
pub struct Scaling {
    pub workload: &'static str,
    pub cpus: u32,
    /// Median nanoseconds of a packet on the slowest CPU.
    pub ns: f64,
    /// Million packets per second on all CPUs together.
    pub mpps: f64,
    /// `mpps` over that of one CPU, for each CPU.
    pub efficiency: f64,
}

/// Measures workloads on 1 to `cpus` CPUs.
///
/// # Errors
///
/// The machine has fewer CPUs, or a program failed.
pub fn measure(
    workloads: &[Workload],
    cpus: u32,
    rounds: usize,
    mut progress: impl FnMut(&str),
) -> Result<Vec<Scaling>> {
    let mut wrappers: Vec<_> = (0..cpus).map(|_| Wrapper::load()).collect::<Result<_>>()?;
    let mut lines = Vec::new();
    for workload in workloads {
        progress(workload.name);
        let dataplane = workload.prepare(&mut wrappers[0]).context(workload.name)?;
        for wrapper in &mut wrappers {
            wrapper.choose_balancer(&dataplane)?;
        }
        let mut of_one = f64::NAN;
        for active in 1..=cpus {
            let mut times = Vec::new();
            for _ in 0..rounds {
                let wrappers = &mut wrappers[..active as usize];
                times.push(slowest(workload, wrappers).context(workload.name)?);
            }
            let ns = median(times);
            let mpps = f64::from(active) * 1000.0 / ns;
            if active == 1 {
                of_one = mpps;
            }
            lines.push(Scaling {
                workload: workload.name,
                cpus: active,
                ns,
                mpps,
                efficiency: mpps / of_one / f64::from(active),
            });
        }
    }
    Ok(lines)
}

/// Runs a workload with each wrapper on a CPU of its own. Returns the nanoseconds per packet of the
/// slowest.
fn slowest(workload: &Workload, wrappers: &mut [Wrapper]) -> Result<f64> {
    let ready = Barrier::new(wrappers.len());
    let one = |cpu: usize, wrapper: &mut Wrapper| -> Result<f64> {
        let mut only = CpuSet::new();
        only.set(cpu)?;
        // Of this thread, which ends with the measurement.
        let pinned = sched_setaffinity(Pid::from_raw(0), &only);
        let mut plan = workload.packets.plan();
        // Before an error, so that no other thread waits for ever.
        ready.wait();
        pinned.with_context(|| format!("run on CPU {cpu}"))?;
        wrapper.run(&mut plan, WARM_UP)?;
        let (spent, _) = wrapper.run(&mut plan, PACKETS)?;
        Ok(spent.as_nanos() as f64 / f64::from(PACKETS))
    };
    let times: Vec<f64> = thread::scope(|scope| {
        let threads: Vec<_> = (wrappers.iter_mut().enumerate())
            .map(|(cpu, wrapper)| scope.spawn(move || one(cpu, wrapper)))
            .collect();
        let joined = threads.into_iter().map(|thread| {
            let result = thread.join();
            result.map_err(|_| anyhow!("a measurement panicked"))?
        });
        joined.collect::<Result<_>>()
    })?;
    Ok(times.into_iter().fold(0.0, f64::max))
}

/// Returns the result as a table.
#[must_use]
pub fn table(lines: &[Scaling]) -> Table {
    let mut table = Table::new(&[
        ("workload", Align::Left),
        ("CPUs", Align::Right),
        ("ns", Align::Right),
        ("Mpps", Align::Right),
        ("efficiency", Align::Right),
    ]);
    for line in lines {
        table.row([
            line.workload.to_owned(),
            line.cpus.to_string(),
            format!("{:.1}", line.ns),
            format!("{:.1}", line.mpps),
            format!("{:.2}", line.efficiency),
        ]);
    }
    table
}
