//! The watch over shares, at work: what was counted goes in once a second, conditions come out.
//!
//! ```text
//! accounts of the traffic ─┐
//! shares, health ──────────┼─► one Detector a VIP ──findings──► words ──► conditions for alerts
//! changes, sampled flows ──┘
//! ```
//!
//! [`lb_skew`] does the judging and knows nothing of all this. Here the actor gathers what it needs:
//! which revision moved whom ([`changes`]), what the sampled flows tell ([`samples`]), and what the kernel's ring
//! really gives when it is not the one that was loaded. How many flows are sampled is decided in [`sampling`]. The first seconds after a change are judged by
//! [`bake`].

mod bake;
mod changes;
mod samples;
mod sampling;
#[cfg(test)]
mod tests;
mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Instant,
};

use tracing::error;

pub(super) use bake::ShareTrial;
use changes::Changes;
use samples::Sampled;
use sampling::{Demand, Sampling};
pub(super) use words::Explained;
use words::Speech;

use super::actor::Actor;
use crate::{
    alerts::Condition,
    events::Entry,
    reconciler::{MemberReport, ServiceId, VipReport},
    revision::RevisionNumber,
    traffic::{Totals, Traffic},
};
use lb_model::{
    config::{self, BackendState},
    planner::Plan,
};
use lb_skew::{Cause, Detector, Facts, Kind, Member, Observation, Phase, Severity, Thresholds};

/// What a member's share of the kernel's ring is, where that is not the one that was loaded.
type TrueShares = BTreeMap<lb_common::ring::MemberIndex, f64>;

/// The watch over all VIPs.
pub(super) struct Watch {
    started: Instant,
    vips: BTreeMap<String, Watched>,
    pub(super) changes: Changes,
    sampled: Sampled,
    sampling: Sampling,
    speech: Speech,
    /// What was written to the journal: VIP, kind and moment.
    noted: BTreeSet<(String, &'static str, u64)>,
    /// Rings that are not as they were loaded: what they really give, by VIP index.
    wrong_rings: BTreeMap<u16, TrueShares>,
}

/// The watch over one VIP.
struct Watched {
    detector: Detector,
    members: Vec<Member>,
    /// What `[vip.skew]` said when the detector was told.
    skew: config::Skew,
}

impl Watch {
    /// A watch that has seen nothing; it remembers the changes of the controller before.
    pub(super) fn new(state_dir: &Path) -> Self {
        Self {
            started: Instant::now(),
            vips: BTreeMap::new(),
            changes: Changes::open(state_dir),
            sampled: Sampled::default(),
            sampling: Sampling::default(),
            speech: Speech::default(),
            noted: BTreeSet::new(),
            wrong_rings: BTreeMap::new(),
        }
    }

    fn now_s(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Remembers what a revision that is in force now moved.
    pub(super) fn changed(&mut self, number: RevisionNumber, plan: &Plan) {
        self.changes.add(number, super::now(), plan);
    }

    /// Overdispersion of a VIP, as far as it is known.
    pub(super) fn dispersion(&self, vip: &str) -> f64 {
        self.vips
            .get(vip)
            .map_or(1.0, |watched| watched.detector.dispersion())
    }

    /// VIPs with a finding that nothing explains: perhaps their rings are not what they should be.
    pub(super) fn is_puzzled(&self, vip: &str) -> bool {
        let watched = self.vips.get(vip);
        watched.is_some_and(|watched| {
            let mut findings = watched.detector.findings().iter();
            findings.any(|finding| finding.cause.is_a_guess())
        })
    }

    /// Whether a VIP has more bytes or packets than its flows explain, and no sampled flow has them.
    fn misses_a_flow(&self, vip: &str) -> bool {
        let watched = self.vips.get(vip);
        watched.is_some_and(|watched| {
            let mut findings = watched.detector.findings().iter();
            findings.any(|finding| {
                let volume = matches!(finding.kind, Kind::ByteSkew | Kind::PacketSkew);
                volume && finding.cause == Cause::Unknown
            })
        })
    }

    /// What began since the last look and is no alert: it is explained, and over by itself. For the journal.
    fn news(&mut self) -> Vec<Entry> {
        let mut news = Vec::new();
        let mut on = BTreeSet::new();
        for (vip, watched) in &self.vips {
            let findings = watched.detector.findings().iter();
            for finding in findings.filter(|finding| finding.severity == Severity::Note) {
                let name = (vip.clone(), finding.kind.name(), finding.raised_s.to_bits());
                if !self.noted.contains(&name) {
                    let words = format!("{}; {}", finding.cause, finding.evidence.join("; "));
                    news.push(Entry::new(finding.kind.name(), words).vip(vip));
                }
                on.insert(name);
            }
        }
        self.noted = on;
        news
    }

    /// Tells what a ring really gives; none when it is the one that was loaded.
    pub(super) fn ring_is(&mut self, vip: u16, shares: Option<TrueShares>) {
        match shares {
            Some(shares) => self.wrong_rings.insert(vip, shares),
            None => self.wrong_rings.remove(&vip),
        };
    }

    /// Whether the skew of a VIP's table is an alert of its own.
    pub(super) fn table_condition(&self, vip: &str) -> Option<String> {
        let watched = self.vips.get(vip)?;
        let mut findings = watched.detector.findings().iter();
        let table = findings.find(|finding| {
            finding.cause == Cause::TableNotIntended && finding.severity > Severity::Note
        });
        table.map(|finding| words::key(vip, finding))
    }

    fn observe(&mut self, vip: &config::Vip, report: &VipReport, traffic: &Traffic) {
        let now_s = self.now_s();
        let facts = facts(vip);
        let known = self.vips.get(&vip.name);
        if known.is_none_or(|known| known.detector.facts() != facts) {
            let new = Watched {
                detector: Detector::new(thresholds(&vip.skew), facts),
                members: Vec::new(),
                skew: vip.skew,
            };
            self.vips.insert(vip.name.clone(), new);
        }
        let Some(watched) = self.vips.get_mut(&vip.name) else {
            return;
        };
        if watched.skew != vip.skew {
            watched.detector.set_thresholds(thresholds(&vip.skew));
            watched.skew = vip.skew;
        }
        let wrong = self.wrong_rings.get(&report.index);
        watched.take_members(vip, report, traffic, wrong);
        let change = self.changes.newest(&vip.name, now_s);
        watched.detector.observe(&Observation {
            at_s: now_s,
            members: &watched.members,
            ring_size: report.slots,
            in_transition: report.counts.in_transition > 0 && vip.track != config::Track::Always,
            change: change.as_ref(),
            samples: self.sampled.of(&vip.name),
        });
    }
}

impl Watched {
    /// The members as they are now; what does not change is not made anew.
    fn take_members(
        &mut self,
        vip: &config::Vip,
        report: &VipReport,
        traffic: &Traffic,
        wrong: Option<&TrueShares>,
    ) {
        let current: Vec<&MemberReport> = report
            .members
            .iter()
            .filter(|member| !member.leaving || !has_successor(report, member))
            .collect();
        self.members.truncate(current.len());
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

/// Whether a member that leaves has one of the same name: its account is that one's too.
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

/// The thresholds of the watch, from those of the configuration.
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

impl Actor {
    /// Gives the watch what was counted in the last second.
    pub(super) fn watch_shares(&mut self) {
        let report = self.reconciler.report();
        self.watch.sampled.age();
        if let Err(error) = self.read_samples(&report) {
            error!(%error, "the sampled flows can't be read");
        }
        let traffic = self.recorder.traffic();
        let traffic = traffic.lock();
        let vips = &self.running.config.vips;
        for vip in vips {
            let service = ServiceId::of(vip);
            if let Some(reported) = report.iter().find(|r| r.service == service) {
                self.watch.observe(vip, reported, &traffic);
            }
        }
        let names = &mut self.watch.vips;
        names.retain(|name, _| vips.iter().any(|vip| vip.name == *name));
        for entry in self.watch.news() {
            self.note(entry);
        }
    }

    /// Reads the sampled flows, then says how many are to be sampled from now on.
    fn read_samples(&mut self, report: &[VipReport]) -> lb_dataplane::Result<()> {
        let now_s = self.dataplane.now_s()?;
        let flows = self.dataplane.samples.read()?;
        let Watch {
            sampled, sampling, ..
        } = &mut self.watch;
        let config = &self.running.config;
        sampled.take(now_s, &flows, report, &config.vips, sampling);
        let demands = report.iter().filter_map(|vip| self.demand(vip).transpose());
        let demands = demands.collect::<lb_dataplane::Result<Vec<_>>>()?;
        let finest = config.node.sample.max(1) - 1;
        for (vip, mask) in self.watch.sampling.adapt(now_s, &demands, finest) {
            self.dataplane.vips.set_sample_mask(vip, mask)?;
        }
        Ok(())
    }

    /// None before the second reading: what the controller before has set stays until then.
    fn demand(&self, vip: &VipReport) -> lb_dataplane::Result<Option<Demand>> {
        let traffic = self.recorder.traffic();
        let Some(newest) = traffic.lock().newest(&vip.name) else {
            return Ok(None);
        };
        let rate = |count: fn(&Totals) -> u64| count(&newest.total) as f64 / newest.seconds;
        Ok(Some(Demand {
            vip: vip.index,
            new_flows: rate(|totals| totals.new_flows),
            packets: rate(|totals| totals.packets),
            begun: self.watch.sampled.begun_per_s(vip.index),
            search: self.watch.misses_a_flow(&vip.name),
            mask: self.dataplane.vips.sample_mask(vip.index)?,
        }))
    }

    /// What the watch found, as conditions for alerts.
    pub(super) fn share_conditions(&mut self) -> Vec<Condition> {
        let now_s = self.watch.now_s();
        let mut speech = std::mem::take(&mut self.watch.speech);
        let findings: Vec<_> = self
            .watch
            .vips
            .iter()
            .flat_map(|(vip, watched)| {
                let findings = watched.detector.findings().iter();
                findings.map(move |finding| (vip.as_str(), finding))
            })
            .collect();
        let conditions = speech.conditions(now_s, &findings, |number| self.explained(number));
        drop(findings);
        self.watch.speech = speech;
        conditions
    }

    /// What the revisions' files say of one.
    fn explained(&self, number: RevisionNumber) -> Option<Explained> {
        let info = self.store.record(number).ok()?.info.clone();
        let diff = info
            .parent
            .and_then(|parent| self.store.diff(parent, number).ok());
        Some(Explained {
            diff: diff.map(|diff| words::changed_lines(&diff)),
            info,
        })
    }
}
