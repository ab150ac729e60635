//! The share monitor: takes the counters once per second, and reports skew as conditions for alerts.
//!
//! ```text
//! traffic accounts ────────┐
//! shares, health ──────────┼─► a Detector per VIP ──findings──► conditions for alerts
//! changes, sampled flows ──┘
//! ```
//!
//! [`lb_skew`] detects the skew. This module collects its input: the shares that each revision moved
//! ([`changes`]), what sampled flows show ([`samples`]), and the real shares of a ring in the kernel that
//! differs from the one that was loaded. [`sampling`] decides how many flows are sampled, [`bake`]
//! tests the first seconds after a change. For plans, [`sources`] keeps what sources sent, and [`flows`] the new
//! flows of each backend.

mod bake;
mod changes;
mod conditions;
mod fleet;
mod flows;
pub(super) mod histories;
pub(super) mod samples;
mod sampling;
mod sources;
#[cfg(test)]
pub(super) mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Instant,
};

use lb_common::ring::MemberIndex;
use lb_dataplane::Dataplane;
use tracing::error;

pub(super) use bake::ShareTrial;
use changes::Changes;
use conditions::{Conditions, RevisionFacts};
use fleet::FleetShares;
pub(crate) use fleet::{Counts, VipTraffic};
use flows::FlowMonitor;
use histories::Histories;
use samples::Sampled;
use sampling::{Demand, Sampling};
use sources::{Moment, SourceMonitor};

use crate::{
    alerts::Condition,
    events::Entry,
    reconciler::{MemberReport, VipReport, reported},
    revision::{RevisionNumber, Store},
    traffic::{SharedTraffic, Totals, Traffic},
};
use lb_model::{
    config::{self, BackendState, Config},
    planner::Plan,
    ring::Identity,
};
use lb_skew::{
    Cause, Detector, Facts, Kind, Member, Observation, Phase, Severity, Source, Thresholds,
};

/// Table shares in the kernel's ring, where it is not the one that was loaded.
pub(super) type ActualShares = BTreeMap<lb_common::ring::MemberIndex, f64>;

pub(super) struct ShareMonitor {
    started: Instant,
    vips: BTreeMap<String, VipMonitor>,
    pub(super) changes: Changes,
    sampled: Sampled,
    sampling: Sampling,
    sources: SourceMonitor,
    flows: FlowMonitor,
    conditions: Conditions,
    fleet: FleetShares,
    /// Findings that are in the journal: VIP, kind and time.
    noted: BTreeSet<(String, &'static str, u64)>,
    /// By VIP index.
    wrong_rings: BTreeMap<u16, ActualShares>,
}

struct VipMonitor {
    detector: Detector,
    members: Vec<Member>,
    /// Of the members, in the same order.
    identities: Vec<Identity>,
    /// The settings that the detector has.
    skew: config::Skew,
}

impl ShareMonitor {
    /// Remembers the changes made by the previous process.
    pub(super) fn new(state_dir: &Path, histories: Histories) -> Self {
        Self {
            started: Instant::now(),
            vips: BTreeMap::new(),
            changes: Changes::open(state_dir),
            sampled: Sampled::default(),
            sampling: Sampling::default(),
            sources: SourceMonitor::new(histories.clone()),
            flows: FlowMonitor::new(histories),
            conditions: Conditions::default(),
            fleet: FleetShares::default(),
            noted: BTreeSet::new(),
            wrong_rings: BTreeMap::new(),
        }
    }

    fn now_s(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Records the shares that an applied revision moved.
    pub(super) fn changed(&mut self, number: RevisionNumber, plan: &Plan) {
        self.changes.add(number, super::now(), plan);
    }

    /// Overdispersion of a VIP; 1 if unknown.
    pub(super) fn dispersion(&self, vip: &str) -> f64 {
        self.vips
            .get(vip)
            .map_or(1.0, |monitor| monitor.detector.dispersion())
    }

    /// Whether a VIP has an unexplained finding: its ring may not be what was loaded.
    pub(super) fn has_unexplained_finding(&self, vip: &str) -> bool {
        let monitor = self.vips.get(vip);
        monitor.is_some_and(|monitor| {
            let mut findings = monitor.detector.findings().iter();
            findings.any(|finding| finding.cause.is_a_guess())
        })
    }

    /// Whether a VIP has more bytes or packets than its sampled flows explain.
    fn lacks_large_flow(&self, vip: &str) -> bool {
        let monitor = self.vips.get(vip);
        monitor.is_some_and(|monitor| {
            let mut findings = monitor.detector.findings().iter();
            findings.any(|finding| {
                let volume = matches!(finding.kind, Kind::ByteSkew | Kind::PacketSkew);
                volume && finding.cause == Cause::Unknown
            })
        })
    }

    /// New findings that need no alert, because they are explained and end by themselves.
    fn new_notes(&mut self) -> Vec<Entry> {
        let mut notes = Vec::new();
        let mut on = BTreeSet::new();
        for (vip, monitor) in &self.vips {
            let findings = monitor.detector.findings().iter();
            for finding in findings.filter(|finding| finding.severity == Severity::Note) {
                let name = (vip.clone(), finding.kind.name(), finding.raised_s.to_bits());
                if !self.noted.contains(&name) {
                    let words = format!("{}; {}", finding.cause, finding.evidence.join("; "));
                    notes.push(Entry::new(finding.kind.name(), words).vip(vip));
                }
                on.insert(name);
            }
        }
        self.noted = on;
        notes
    }

    /// The sources with the largest shares of a VIP's sampled flows.
    pub(super) fn sources(&self, vip: &str) -> &[Source] {
        self.sampled.of(vip).map_or(&[], |samples| &samples.sources)
    }

    /// Some flows with packets since the last reading, and their members: none of `nat`, whose sessions only
    /// this node knows.
    pub(super) fn sampled_flows(&self) -> &[(String, MemberIndex)] {
        self.sampled.some_flows()
    }

    /// Sets the actual shares of a ring; none if it is the one that was loaded.
    pub(super) fn set_actual_shares(&mut self, vip: u16, shares: Option<ActualShares>) {
        match shares {
            Some(shares) => self.wrong_rings.insert(vip, shares),
            None => self.wrong_rings.remove(&vip),
        };
    }

    /// Key of the alert about a VIP's table, if there is one.
    pub(super) fn table_condition(&self, vip: &str) -> Option<String> {
        let monitor = self.vips.get(vip)?;
        let mut findings = monitor.detector.findings().iter();
        let table = findings.find(|finding| {
            finding.cause == Cause::TableNotIntended && finding.severity > Severity::Note
        });
        table.map(|finding| conditions::key(vip, finding))
    }

    /// Takes the counters of the last second. Returns findings for the journal.
    pub(super) fn tick(
        &mut self,
        dataplane: &mut Dataplane,
        config: &Config,
        report: &[VipReport],
        traffic: &SharedTraffic,
    ) -> Vec<Entry> {
        self.sampled.age();
        if let Err(error) = self.read_samples(dataplane, config, report, traffic) {
            error!(%error, "can't read the sampled flows");
        }
        let traffic = traffic.lock();
        let now_s = self.now_s();
        self.flows.take(now_s, &config.vips, report, &traffic);
        for (vip, reported) in reported(&config.vips, report) {
            self.observe(vip, reported, &traffic);
        }
        let configured: BTreeSet<&str> = config.vips.iter().map(|vip| &*vip.name).collect();
        self.vips.retain(|name, _| configured.contains(&**name));
        self.new_notes()
    }

    /// Reads the sampled flows, then sets how many are sampled from now on.
    fn read_samples(
        &mut self,
        dataplane: &mut Dataplane,
        config: &Config,
        report: &[VipReport],
        traffic: &SharedTraffic,
    ) -> lb_dataplane::Result<()> {
        let now_s = dataplane.now_s()?;
        let flows = dataplane.samples.read()?;
        self.sampled
            .take(now_s, &flows, report, &config.vips, &self.sampling);
        let moment = Moment {
            at_s: self.now_s(),
            now: now_s,
        };
        self.sources.take(
            moment,
            self.sampled.deltas(),
            self.sampled.all_begun(),
            (&config.vips, report),
            &self.sampling,
            &traffic.lock(),
        );
        let mut demands = Vec::new();
        for vip in report {
            // Before the second reading, the mask set by the previous process stays.
            if let Some(newest) = traffic.lock().newest(&vip.name) {
                let rate = |count: fn(&Totals) -> u64| count(&newest.total) as f64 / newest.seconds;
                demands.push(Demand {
                    vip: vip.index,
                    new_flows: rate(|totals| totals.new_flows),
                    packets: rate(|totals| totals.packets),
                    begun: self.sampled.begun_per_s(vip.index),
                    search: self.lacks_large_flow(&vip.name),
                    mask: dataplane.vips.sample_mask(vip.index)?,
                });
            }
        }
        let finest = config.node.sample.max(1) - 1;
        for (vip, mask) in self.sampling.adapt(now_s, &demands, finest) {
            dataplane.vips.set_sample_mask(vip, mask)?;
        }
        Ok(())
    }

    /// The findings as conditions for alerts.
    pub(super) fn conditions(&mut self, store: &Store) -> Vec<Condition> {
        let now_s = self.now_s();
        let findings = self.vips.iter().flat_map(|(vip, monitor)| {
            let findings = monitor.detector.findings().iter();
            findings.map(move |finding| (vip.as_str(), finding))
        });
        let findings: Vec<_> = findings.collect();
        self.conditions.update(now_s, &findings, |number, vip| {
            RevisionFacts::read(store, number, vip)
        })
    }

    fn observe(&mut self, vip: &config::Vip, report: &VipReport, traffic: &Traffic) {
        let now_s = self.now_s();
        let facts = facts(vip);
        let known = self.vips.get(&vip.name);
        if known.is_none_or(|known| known.detector.facts() != facts) {
            let new = VipMonitor {
                detector: Detector::new(thresholds(&vip.skew), facts),
                members: Vec::new(),
                identities: Vec::new(),
                skew: vip.skew,
            };
            self.vips.insert(vip.name.clone(), new);
        }
        let Some(monitor) = self.vips.get_mut(&vip.name) else {
            return;
        };
        if monitor.skew != vip.skew {
            monitor.detector.set_thresholds(thresholds(&vip.skew));
            monitor.skew = vip.skew;
        }
        let wrong = self.wrong_rings.get(&report.index);
        monitor.take_members(vip, report, traffic, wrong);
        let change = self.changes.newest(&vip.name, now_s);
        monitor.detector.observe(&Observation {
            at_s: now_s,
            members: &monitor.members,
            ring_size: report.slots,
            in_transition: report.counts.in_transition > 0 && vip.track != config::Track::Always,
            change: change.as_ref(),
            samples: self.sampled.of(&vip.name),
            bounded: report.assignment.is_some(),
        });
    }
}

impl VipMonitor {
    /// Updates the members in place.
    fn take_members(
        &mut self,
        vip: &config::Vip,
        report: &VipReport,
        traffic: &Traffic,
        wrong: Option<&ActualShares>,
    ) {
        let current: Vec<&MemberReport> = report
            .members
            .iter()
            .filter(|member| !member.leaving || !has_successor(report, member))
            .collect();
        self.members.truncate(current.len());
        self.identities.clear();
        self.identities
            .extend(current.iter().map(|member| member.identity));
        for (place, reported) in current.into_iter().enumerate() {
            let counted = traffic.counters(&vip.name, &reported.name);
            let old = self.members.get(place).map(|member| &member.name);
            let name = match old.filter(|name| ***name == *reported.name) {
                Some(name) => Arc::clone(name),
                None => reported.name.as_str().into(),
            };
            let configured = vip.backends.iter().find(|b| b.name == reported.name);
            let member = Member {
                name,
                table_share: wrong.map_or(reported.table_share, |shares| {
                    shares.get(&reported.index).copied().unwrap_or(0.0)
                }),
                intended_share: reported.intended_share,
                capacity: configured.and_then(|b| b.capacity).map(f64::from),
                phase: phase(reported, report.panic),
                new_flows: counted.map_or(0, |counters| counters.new_flows),
                ring_flows: Some(traffic.ring_flows(&vip.name, &reported.name)),
                packets: counted.map_or(0, |counters| counters.packets),
                bytes: counted.map_or(0, |counters| counters.bytes),
            };
            match self.members.get_mut(place) {
                Some(known) => *known = member,
                None => self.members.push(member),
            }
        }
    }
}

/// Whether a leaving member has a successor of the same name, which shares its account.
fn has_successor(report: &VipReport, leaving: &MemberReport) -> bool {
    let mut members = report.members.iter();
    members.any(|member| !member.leaving && member.name == leaving.name)
}

fn facts(vip: &config::Vip) -> Facts {
    let tcp = vip.protocol == config::Protocol::Tcp;
    let counts_packets = !tcp && vip.track == config::Track::Never;
    Facts {
        tcp,
        independent: vip.affinity == config::Affinity::Flow && !counts_packets,
    }
}

fn phase(member: &MemberReport, panic: bool) -> Phase {
    if member.leaving || member.wanted == BackendState::Disabled {
        return Phase::Out;
    }
    if !member.healthy && !panic {
        return Phase::Out;
    }
    match member.wanted {
        BackendState::Drain => Phase::Draining,
        _ if member.effective_weight < member.weight => Phase::SlowStart,
        _ => Phase::Serving,
    }
}

pub(super) fn thresholds(skew: &config::Skew) -> Thresholds {
    let seconds = |duration: std::time::Duration| duration.as_secs() as u32;
    Thresholds {
        tolerance: skew.tolerance.as_f64(),
        false_alarms_per_day: 1.0 / f64::from(skew.days_per_false_alarm.max(1)),
        short_s: seconds(skew.short),
        long_s: seconds(skew.long),
        least_seconds: skew.least_seconds,
        clear_windows: skew.clear_windows,
        widest_tolerance: skew.widest_tolerance.as_f64(),
        concentration: skew.concentration.as_f64(),
        revision_memory_s: skew.revision_memory.as_secs_f64(),
        volume_ratio: skew.volume_ratio.as_f64(),
        bytes_floor_per_s: f64::from(skew.bytes_floor),
        packets_floor_per_s: f64::from(skew.packets_floor),
        volume_s: seconds(skew.volume_for),
        spike: skew.spike.as_f64(),
        spike_floor_per_s: f64::from(skew.spike_floor),
    }
}
