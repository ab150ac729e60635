//! Measures workloads in rounds, and verifies each round by counters.

use anyhow::{Context as _, Result, bail, ensure};
use lb_common::{bench::Plan, counters::VipCounters, reason::REASONS};
use lb_dataplane::Dataplane;

use super::{
    Line,
    workloads::{Tracking, Workload},
    wrapper::Wrapper,
};

/// Minimum of packets per measurement.
pub(super) const PACKETS: u32 = 1 << 18;
/// Packets before a measurement, to warm up caches.
pub(super) const WARM_UP: u32 = 1 << 15;
/// One of this many packets may miss a half full tracking table because its bucket is full. (By chance, one in
/// 1,300 flows is in a full bucket; among few flows it may be twice as many.)
const FULL_BUCKETS: u64 = 400;

const XDP_DROP: u32 = 1;

/// A workload that is being measured.
struct Running {
    workload: Workload,
    dataplane: Dataplane,
    plan: Plan,
    ns: Vec<f64>,
    floor_ns: Vec<f64>,
}

/// Measures workloads in interleaved rounds. Calls `progress` with descriptions.
pub fn measure(
    workloads: &[Workload],
    rounds: usize,
    mut progress: impl FnMut(&str),
) -> Result<Vec<Line>> {
    let mut wrapper = Wrapper::load()?;
    let mut running = Vec::new();
    for workload in workloads {
        progress(workload.name);
        let dataplane = workload.prepare(&mut wrapper).context(workload.name)?;
        running.push(Running {
            plan: workload.packets.plan(),
            workload: *workload,
            dataplane,
            ns: Vec::new(),
            floor_ns: Vec::new(),
        });
    }
    for round in 1..=rounds {
        progress(&format!("round {round} of {rounds}"));
        for one in &mut running {
            one.round(&mut wrapper)
                .with_context(|| format!("workload {}, round {round}", one.workload.name))?;
        }
    }
    Ok(running.into_iter().map(Running::line).collect())
}

impl Running {
    fn round(&mut self, wrapper: &mut Wrapper) -> Result<()> {
        wrapper.choose_floor(self.workload.floor)?;
        let floor_ns = self.timed(wrapper)?;
        self.floor_ns.push(floor_ns);
        wrapper.choose_balancer(&self.dataplane)?;
        let before = Counted::read(&self.dataplane, &self.workload)?;
        let made = self.plan.made;
        let ns = self.timed(wrapper)?;
        self.ns.push(ns);
        let after = Counted::read(&self.dataplane, &self.workload)?;
        self.verify(&before, &after, self.plan.made - made)
    }

    /// Returns the nanoseconds per packet of the chosen program.
    fn timed(&mut self, wrapper: &mut Wrapper) -> Result<f64> {
        wrapper.run(&mut self.plan, WARM_UP)?;
        let flows = self.workload.packets.flow_mask().saturating_add(1);
        let packets = if flows == u32::MAX {
            PACKETS
        } else {
            flows.max(PACKETS)
        };
        let (spent, verdict) = wrapper.run(&mut self.plan, packets)?;
        ensure!(verdict > XDP_DROP, "the last packet was dropped: {verdict}");
        Ok(spent.as_nanos() as f64 / f64::from(packets))
    }

    fn verify(&self, before: &Counted, after: &Counted, packets: u64) -> Result<()> {
        for (index, reason) in REASONS.iter().enumerate() {
            let counted = after.reasons[index] - before.reasons[index];
            let expected = if index == self.workload.reason as usize {
                packets
            } else {
                0
            };
            if counted != expected {
                bail!(
                    "{counted} of {packets} packets were counted as {}, expected {expected}",
                    reason.name
                );
            }
        }
        let hits = after.vips.track_hits - before.vips.track_hits;
        let misses = after.vips.track_misses - before.vips.track_misses;
        let is_expected = match self.workload.tracking {
            Tracking::NoLookup => hits + misses == 0,
            Tracking::Hit => hits + misses == packets && misses <= packets / FULL_BUCKETS,
            Tracking::Miss => misses == packets,
        };
        ensure!(
            is_expected,
            "{packets} packets had {hits} hits and {misses} misses in the tracking table, expected \
             {:?}",
            self.workload.tracking
        );
        Ok(())
    }

    fn line(self) -> Line {
        let best = |ns: &[f64]| ns.iter().copied().fold(f64::INFINITY, f64::min);
        let best_ratio = best(&self.ns) / best(&self.floor_ns);
        let (ns, floor_ns) = (median(self.ns), median(self.floor_ns));
        let rounded = |value: f64| (value * 1000.0).round() / 1000.0;
        Line {
            workload: self.workload.name,
            ns: rounded(ns),
            floor: self.workload.floor.name(),
            floor_ns: rounded(floor_ns),
            own_ns: rounded(ns - floor_ns),
            ratio: rounded(ns / floor_ns),
            best_ratio,
        }
    }
}

/// Counters that verify a round.
struct Counted {
    reasons: [u64; 64],
    vips: VipCounters,
}

impl Counted {
    fn read(dataplane: &Dataplane, workload: &Workload) -> Result<Self> {
        let mut vips: VipCounters = bytemuck::Zeroable::zeroed();
        for vip in 0..workload.packets.dests {
            let one = dataplane.counters.vip(vip as u16)?;
            vips.track_hits += one.track_hits;
            vips.track_misses += one.track_misses;
        }
        Ok(Self {
            reasons: dataplane.counters.node()?.reasons,
            vips,
        })
    }
}

pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}
