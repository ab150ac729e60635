//! Loads the benchmark's programs, and measures a program through the wrapper that makes its packets.
//!
//! See [`lb_common::bench`] for what the wrapper does and why.

use std::{fmt, time::Duration};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Array, MapData, ProgramArray},
    programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp, loaded_programs},
};
use lb_common::bench::Plan;
use lb_dataplane::{BENCH_OBJECT, Dataplane};
use nix::time::{ClockId, clock_gettime};

const WRAPPER: &str = "evenkeel_wrapper";

/// A [`Plan`] as the type that aya can read and write.
type PlanWords = [u64; size_of::<Plan>() / 8];

/// What a program is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Floor {
    /// Sends the packet back unchanged.
    Tx,
    /// Prepends a fixed IPv4 header.
    Encap4,
    /// Prepends a fixed IPv6 header.
    Encap6,
}

impl Floor {
    const ALL: [Self; 3] = [Self::Tx, Self::Encap4, Self::Encap6];

    /// The program's name, also in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tx => "floor_tx",
            Self::Encap4 => "floor_encap4",
            Self::Encap6 => "floor_encap6",
        }
    }
}

/// The wrapper and the floors, loaded.
pub struct Wrapper {
    ebpf: Ebpf,
    measured: ProgramArray<MapData>,
    plan: Array<MapData, PlanWords>,
}

impl fmt::Debug for Wrapper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wrapper").finish_non_exhaustive()
    }
}

impl Wrapper {
    /// Loads the wrapper and the floors.
    pub fn load() -> Result<Self> {
        let mut ebpf = Ebpf::load(BENCH_OBJECT).context("load the benchmark's object (as root)")?;
        for name in Floor::ALL.map(Floor::name).into_iter().chain([WRAPPER]) {
            program(&mut ebpf, name)?
                .load()
                .with_context(|| format!("load program {name}"))?;
        }
        let mut take = |name| ebpf.take_map(name).with_context(|| format!("map {name}"));
        Ok(Self {
            measured: take("MEASURED")?.try_into()?,
            plan: take("PLAN")?.try_into()?,
            ebpf,
        })
    }

    /// Measures a floor from now on.
    pub fn choose_floor(&mut self, floor: Floor) -> Result<()> {
        let fd = program(&mut self.ebpf, floor.name())?.fd()?.try_clone()?;
        self.choose(&fd)
    }

    /// Measures a balancer from now on.
    pub fn choose_balancer(&mut self, dataplane: &Dataplane) -> Result<()> {
        let id = dataplane.program_id()?;
        let program = loaded_programs()
            .filter_map(Result::ok)
            .find(|info| info.id() == id)
            .with_context(|| format!("program {id} of the balancer is not loaded"))?;
        self.choose(&program.fd()?)
    }

    fn choose(&mut self, fd: &ProgramFd) -> Result<()> {
        self.measured.set(0, fd, 0).context("write map MEASURED")
    }

    /// Sends packets through the chosen program, going on with the plan where it stopped. Returns
    /// the CPU time of this thread and the verdict on the last packet.
    pub fn run(&mut self, plan: &mut Plan, packets: u32) -> Result<(Duration, u32)> {
        self.plan
            .set(0, bytemuck::cast::<Plan, PlanWords>(*plan), 0)
            .context("write map PLAN")?;
        let frame = vec![0; plan.frame_len as usize];
        let options = TestRunOptions {
            data_in: Some(&frame),
            repeat: packets,
            ..TestRunOptions::new()
        };
        let wrapper = program(&mut self.ebpf, WRAPPER)?;
        let start = thread_time();
        let result = wrapper
            .test_run(options)
            .with_context(|| format!("run program {WRAPPER}"))?;
        let spent = thread_time().saturating_sub(start);
        let after = self.plan.get(&0, 0).context("read map PLAN")?;
        plan.made = bytemuck::cast::<PlanWords, Plan>(after).made;
        Ok((spent, result.return_value))
    }
}

/// CPU time of this thread, which does not count what other processes did meanwhile.
fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("program {name}"))?;
    Ok(program.try_into()?)
}
