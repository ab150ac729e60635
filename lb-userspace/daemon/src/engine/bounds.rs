//! What the bounds of VIPs spilled in the last seconds, and from whom it came.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use lb_common::ring::MemberIndex;
use lb_dataplane::{Dataplane, Overfull, Result, Spills};
use lb_model::config;
use lb_skew::Source;

use crate::{
    node::{BoundUse, ExcessSource, ReceivingBackend, SpillingBackend},
    reconciler::{MemberReport, VipReport},
};

/// Seconds over which flows are counted.
const WINDOW: usize = 10;
/// The smallest part of a backend's new flows for which a source is named.
const NAMED: f64 = 0.1;

#[derive(Debug, Default)]
pub(super) struct BoundWatch {
    /// Counters by VIP, the newest last.
    past: BTreeMap<u16, VecDeque<Reading>>,
}

/// Counters of a VIP at one time.
#[derive(Debug)]
struct Reading {
    at: Instant,
    overfull: Overfull,
    members: BTreeMap<MemberIndex, MemberReading>,
}

#[derive(Clone, Copy, Debug)]
struct MemberReading {
    generation: u32,
    spills: Spills,
    new_flows: u64,
}

impl BoundWatch {
    /// Reads the counters of VIPs with bounds.
    pub(super) fn read(&mut self, dataplane: &Dataplane, report: &[VipReport]) -> Result<()> {
        let at = Instant::now();
        let mut past = std::mem::take(&mut self.past);
        for vip in report.iter().filter(|vip| vip.assignment.is_some()) {
            let member = |member: &MemberReport| {
                let reading = MemberReading {
                    generation: member.generation,
                    // First: a flow is counted as received before it is counted as new.
                    spills: dataplane.bounds.spills(member.index),
                    new_flows: dataplane.counters.member(member.index)?.new_flows,
                };
                Ok((member.index, reading))
            };
            let reading = Reading {
                at,
                overfull: dataplane.bounds.overfull(vip.index),
                members: vip.members.iter().map(member).collect::<Result<_>>()?,
            };
            let readings = past.remove(&vip.index).unwrap_or_default();
            self.past.insert(vip.index, readings);
            self.push(vip.index, reading);
        }
        Ok(())
    }

    fn push(&mut self, vip: u16, reading: Reading) {
        let readings = self.past.entry(vip).or_default();
        readings.push_back(reading);
        while readings.len() > WINDOW + 1 {
            readings.pop_front();
        }
    }

    /// The newest counters of a VIP; none if it has no bound.
    pub(super) fn overfull(&self, vip: u16) -> Option<Overfull> {
        Some(self.past.get(&vip)?.back()?.overfull)
    }

    /// The newest counters of a member; none if its VIP has no bound.
    pub(super) fn spills(&self, vip: u16, member: MemberIndex) -> Option<Spills> {
        let reading = self.past.get(&vip)?.back()?.members.get(&member)?;
        Some(reading.spills)
    }

    /// What the bound of a VIP did in the last seconds; none if it has none. `sources`: those of its
    /// sampled flows.
    pub(super) fn of(
        &self,
        vip: &config::Vip,
        report: &VipReport,
        sources: &[Source],
    ) -> Option<BoundUse> {
        let readings = self.past.get(&report.index)?;
        let (old, new) = (readings.front()?, readings.back()?);
        let seconds = new.at.duration_since(old.at).as_secs_f64().max(1.0);
        let flows: Vec<Flows> = (report.members.iter())
            .filter_map(|member| Flows::of(member, old, new))
            .collect();
        let sum = |count: fn(&Flows) -> u64| flows.iter().map(count).sum::<u64>() as f64;
        let (all, spilled) = (sum(|flows| flows.new), sum(|flows| flows.spilled));
        let assigned = flows.iter().map(Flows::assigned).sum::<u64>() as f64;
        let unplaced = |count: fn(&Overfull) -> u64| {
            count(&new.overfull).saturating_sub(count(&old.overfull)) as f64 / seconds
        };
        let mut spilling: Vec<&Flows> = flows.iter().filter(|flows| flows.spilled > 0).collect();
        spilling.sort_by_key(|flows| Reverse(flows.spilled));
        let spilling = spilling.into_iter().map(|flows| {
            let own = flows.assigned() as f64;
            let share = own / assigned.max(1.0);
            let mut backends = vip.backends.iter();
            let configured = backends.find(|backend| backend.name == flows.member.name);
            let capacity = configured.and_then(|backend| backend.capacity);
            SpillingBackend {
                backend: flows.member.name.clone(),
                share_of_spilled: flows.spilled as f64 / spilled.max(1.0),
                assigned_per_s: own / seconds,
                times_share: share / flows.member.intended_share.max(f64::MIN_POSITIVE),
                capacity: capacity.filter(|_| vip.bound.capacity),
                source: heaviest(sources, &flows.member.name, share),
            }
        });
        let mut receiving: Vec<&Flows> = flows.iter().filter(|flows| flows.received > 0).collect();
        receiving.sort_by_key(|flows| Reverse(flows.received));
        let received = sum(|flows| flows.received);
        let receiving = receiving.into_iter().map(|flows| ReceivingBackend {
            backend: flows.member.name.clone(),
            share_of_spilled: flows.received as f64 / received.max(1.0),
        });
        Some(BoundUse {
            bound: vip.bound,
            new_flows_per_s: all / seconds,
            spilled_per_s: spilled / seconds,
            all_full_per_s: unplaced(|overfull| overfull.all_full),
            no_room_per_s: unplaced(|overfull| overfull.no_room),
            spilling: spilling.collect(),
            receiving: receiving.collect(),
        })
    }
}

/// The source that the ring assigns most of a backend's new flows for; none if no source stands out.
fn heaviest(sources: &[Source], backend: &str, share: f64) -> Option<ExcessSource> {
    let there = |source: &Source| source.share * source.at_member;
    let theirs = sources.iter().filter(|source| *source.member == *backend);
    let heaviest = theirs.max_by(|a, b| there(a).total_cmp(&there(b)))?;
    let part = (there(heaviest) / share.max(f64::MIN_POSITIVE)).min(1.0);
    (part >= NAMED).then(|| ExcessSource {
        source: heaviest.prefix.clone(),
        share: part,
    })
}

/// New flows of a member in the window.
#[derive(Clone, Copy, Debug)]
struct Flows<'a> {
    member: &'a MemberReport,
    new: u64,
    spilled: u64,
    received: u64,
}

impl<'a> Flows<'a> {
    fn of(member: &'a MemberReport, old: &Reading, new: &Reading) -> Option<Self> {
        let now = new.members.get(&member.index)?;
        let same = |old: &&MemberReading| old.generation == now.generation;
        let then = old.members.get(&member.index).filter(same);
        let since =
            |count: fn(&MemberReading) -> u64| count(now).saturating_sub(then.map_or(0, count));
        Some(Self {
            member,
            new: since(|reading| reading.new_flows),
            spilled: since(|reading| reading.spills.spilled),
            received: since(|reading| reading.spills.received),
        })
    }

    /// As the ring assigned them.
    fn assigned(&self) -> u64 {
        (self.new + self.spilled).saturating_sub(self.received)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::shares::tests::samples::{config, reports};
    use lb_model::config::{Bound, BoundFactor, Vip};

    fn vip() -> Vip {
        let mut vip = config(1).vips.remove(0);
        vip.bound = Bound {
            factor: BoundFactor::new(1.25),
            capacity: true,
        };
        vip.backends[0].name = "b0".to_owned();
        vip.backends[0].capacity = Some(50);
        vip
    }

    /// New, spilled and received flows of each of four members, and flows that stayed.
    fn reading(at: Instant, counts: [[u64; 3]; 4], [all_full, no_room]: [u64; 2]) -> Reading {
        let members = counts.into_iter().map(|[new_flows, spilled, received]| {
            let spills = Spills { spilled, received };
            MemberReading {
                generation: 1,
                spills,
                new_flows,
            }
        });
        Reading {
            at,
            overfull: Overfull { all_full, no_room },
            members: (0..).zip(members).collect(),
        }
    }

    fn source(prefix: &str, share: f64, member: &str, at_member: f64) -> Source {
        Source {
            prefix: prefix.to_owned(),
            share,
            member: member.into(),
            at_member,
        }
    }

    #[test]
    fn what_spilled_in_the_last_ten_seconds_has_backends_and_sources() {
        let (vip, began) = (vip(), Instant::now());
        let report = reports(&config(1), 4).remove(0);
        let mut watch = BoundWatch::default();
        // Once only before the window.
        watch.push(0, reading(began, [[9, 9, 9]; 4], [9, 9]));
        for second in 0..=10 {
            let at = began + Duration::from_secs(1 + second);
            let s = second;
            let counts = [
                [100 + 25 * s, 9 + 32 * s, 9],
                [100 + 29 * s, 9, 9 + 16 * s],
                [100 + 23 * s, 9, 9 + 12 * s],
                [100 + 23 * s, 9 + s, 9 + 5 * s],
            ];
            watch.push(0, reading(at, counts, [9 + 2 * s, 9 + s]));
        }
        let sources = [
            source("198.51.100.7", 0.45, "b0", 1.0),
            source("198.51.100.8", 0.3, "b0", 0.5),
            source("198.51.100.9", 0.2, "b1", 1.0),
            source("192.0.2.1", 0.015, "b3", 1.0),
        ];
        let used = watch.of(&vip, &report, &sources).unwrap();
        let rates = [used.new_flows_per_s, used.spilled_per_s];
        assert_eq!(rates, [100.0, 33.0]);
        assert_eq!((used.all_full_per_s, used.no_room_per_s), (2.0, 1.0));
        assert_eq!((used.spilled(), used.unplaced()), (0.33, 0.03));
        let [b0, b3] = &used.spilling[..] else {
            panic!("{used:?}")
        };
        assert_eq!((&*b0.backend, b0.capacity), ("b0", Some(50)));
        assert_eq!((b0.assigned_per_s, b0.times_share), (57.0, 4.0 * 0.57));
        assert!((b0.share_of_spilled - 32.0 / 33.0).abs() < 1e-9);
        let heaviest = b0.source.as_ref().unwrap();
        assert_eq!(heaviest.source, "198.51.100.7");
        assert!((heaviest.share - 0.45 / 0.57).abs() < 1e-9);
        // A source with few of the flows explains nothing.
        assert_eq!((&*b3.backend, &b3.source, b3.capacity), ("b3", &None, None));
        let receiving: Vec<_> = (used.receiving.iter())
            .map(|other| (&*other.backend, other.share_of_spilled))
            .collect();
        let part = |flows: f64| flows / 33.0;
        assert_eq!(
            receiving,
            [("b1", part(16.0)), ("b2", part(12.0)), ("b3", part(5.0))]
        );
        // For the accounts, the newest totals.
        let spills = watch.spills(0, 0).unwrap();
        assert_eq!((spills.spilled, spills.received), (329, 9));
        assert_eq!(watch.overfull(0).unwrap().all_full, 29);
        assert_eq!((watch.spills(1, 0), watch.overfull(1)), (None, None));
    }

    #[test]
    fn a_backend_with_a_reused_index_begins_at_0() {
        let (vip, began) = (vip(), Instant::now());
        let report = reports(&config(1), 4).remove(0);
        let mut watch = BoundWatch::default();
        watch.push(
            0,
            reading(began, [[500, 0, 400], [0; 3], [0; 3], [0; 3]], [0; 2]),
        );
        let mut now = reading(
            began + Duration::from_secs(10),
            [[700, 0, 600], [600, 600, 0], [0; 3], [0; 3]],
            [0; 2],
        );
        now.members.get_mut(&0).unwrap().generation = 2;
        watch.push(0, now);
        let used = watch.of(&vip, &report, &[]).unwrap();
        assert_eq!(used.new_flows_per_s, 130.0);
        assert_eq!(used.spilling[0].assigned_per_s, 120.0);
        // Nothing is known of the time before the first reading.
        watch.push(1, reading(began, [[500, 100, 0]; 4], [7; 2]));
        let mut report = report;
        report.index = 1;
        let used = watch.of(&vip, &report, &[]).unwrap();
        assert_eq!((used.spilled(), used.unplaced()), (0.0, 0.0));
    }
}
