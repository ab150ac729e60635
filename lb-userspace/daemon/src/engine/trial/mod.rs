//! A trial: a change that is active, but is rolled back if something goes wrong.
//!
//! It is watched for a while (*bake*), and then perhaps until an operator confirms it.

mod deadlines;
mod supervision;

use std::collections::BTreeSet;

use jiff::Timestamp;
use lb_common::reason::Reason;
use lb_model::{
    MemberRef,
    config::{BackendState, Config},
};

pub(super) use deadlines::Deadlines;

use super::{
    EngineError,
    shares::{ShareMonitor, ShareTrial},
};
use crate::{
    reconciler::{MemberReport, VipReport},
    revision::{RevisionNumber, RevisionState, not_confirmed, to_the_second},
    traffic::SharedTraffic,
};

/// Drop reasons that a good change does not make more frequent.
pub(super) const WATCHED_DROPS: [Reason; 3] =
    [Reason::NoMember, Reason::MemberDown, Reason::NoNextHop];

/// Drops per second above twice the rate before the change that fail a trial.
const DROPS_ALLOWED: f64 = 10.0;

/// Consecutive ticks with too many drops that fail a trial: one may be the swap itself.
const STRIKES: u32 = 2;

/// What a trial is judged by.
pub(in crate::engine) struct Observed<'a> {
    pub(in crate::engine) report: &'a [VipReport],
    /// Drops by [`WATCHED_DROPS`] in the last seconds, and in the last second.
    pub(in crate::engine) drops_per_s: [f64; 3],
    pub(in crate::engine) drops_last_s: [f64; 3],
    pub(in crate::engine) shares: &'a ShareMonitor,
    pub(in crate::engine) traffic: &'a SharedTraffic,
}

/// How far a trial is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrialPhase {
    Baking,
    /// It has baked, and is rolled back unless it is confirmed in time.
    AwaitsConfirm,
}

/// How a trial, or its bake, ends.
pub(in crate::engine) enum Verdict {
    RollBack(String),
    Passed,
}

/// A change on trial.
pub(in crate::engine) struct Trial {
    pub(in crate::engine) number: RevisionNumber,
    pub(in crate::engine) deadlines: Deadlines,
    /// The changed VIPs.
    vips: Vec<String>,
    /// Their members that checks found healthy before.
    healthy: BTreeSet<MemberRef>,
    /// All members before the change.
    known: BTreeSet<MemberRef>,
    /// Members that a source has added since then.
    others: BTreeSet<MemberRef>,
    /// VIPs whose members a source has changed since then.
    sourced: BTreeSet<String>,
    /// VIPs in panic mode before.
    panicking: BTreeSet<String>,
    /// Drops per second before, by [`WATCHED_DROPS`].
    drops_before: [f64; 3],
    strikes: u32,
    /// Begins with the first tick after the change.
    shares: Option<ShareTrial>,
}

impl Trial {
    /// A trial of a change to `vips` that is about to be made.
    pub(in crate::engine) fn new(
        number: RevisionNumber,
        vips: Vec<String>,
        report: &[VipReport],
        drops_before: [f64; 3],
    ) -> Self {
        let members = report
            .iter()
            .flat_map(|vip| vip.members.iter().map(move |member| (vip, member)));
        let healthy = members
            .clone()
            .filter(|(_, member)| member.healthy && member.proven && !member.leaving)
            .filter(|(vip, _)| vips.contains(&vip.name));
        let name =
            |(vip, member): (&VipReport, &MemberReport)| MemberRef::new(&vip.name, &member.name);
        let panicking = report.iter().filter(|vip| vip.panic);
        Self {
            number,
            deadlines: Deadlines::default(),
            healthy: healthy.map(name).collect(),
            known: members.map(name).collect(),
            others: BTreeSet::new(),
            sourced: BTreeSet::new(),
            panicking: panicking.map(|vip| vip.name.clone()).collect(),
            drops_before,
            strikes: 0,
            shares: None,
            vips,
        }
    }

    pub(in crate::engine) fn with(self, deadlines: Deadlines) -> Self {
        Self { deadlines, ..self }
    }

    /// A source has changed the members of a VIP, and added some: the trial is not judged by that.
    pub(in crate::engine) fn source_changed(&mut self, vip: &str, added: &[&str]) {
        self.sourced.insert(vip.to_owned());
        let added = added.iter().map(|name| MemberRef::new(vip, *name));
        self.others.extend(added);
    }

    pub(in crate::engine) fn wants_confirm(&self) -> bool {
        self.deadlines.confirm.is_some()
    }

    /// Removes the deadline to confirm. Returns whether the bake continues.
    pub(in crate::engine) fn confirm(&mut self) -> bool {
        self.deadlines.confirm = None;
        self.deadlines.confirm_until = None;
        self.deadlines.bake_until.is_some()
    }

    pub(in crate::engine) const fn phase(&self) -> TrialPhase {
        match self.deadlines.bake_until {
            Some(_) => TrialPhase::Baking,
            None => TrialPhase::AwaitsConfirm,
        }
    }

    pub(in crate::engine) fn remaining_s(&self, now: Timestamp) -> f64 {
        let until = self.deadlines.bake_until.or(self.deadlines.confirm_until);
        until.map_or(0.0, |until| {
            until.duration_since(now).as_secs_f64().max(0.0)
        })
    }

    /// The error of a change that has to wait for this trial.
    pub(in crate::engine) fn conflict(&self, is_of_fleet: bool) -> EngineError {
        let (number, state) = (self.number, self.deadlines.state());
        let remaining_s = self.remaining_s(super::now());
        let left = remaining_s.ceil();
        let message = match state {
            // The head of the fleet bakes like any other change.
            _ if is_of_fleet && self.wants_confirm() => format!(
                "revision {number} is on trial for a rollout of the fleet, which keeps it or rolls it back: \
                 see `evenkeel fleet status`; `evenkeel fleet rollback` undoes it on all nodes"
            ),
            RevisionState::AwaitingConfirm { until } => format!(
                "revision {number} must be confirmed by {} ({left} s left): `evenkeel confirm` keeps it, \
                 `evenkeel rollback` rolls it back",
                to_the_second(until)
            ),
            _ => format!(
                "revision {number} is baking, {left} s left: repeat the command with --after, which waits \
                 for its end, or roll it back with `evenkeel rollback`"
            ),
        };
        EngineError::Busy {
            message,
            remaining_s,
        }
    }

    pub(in crate::engine) fn notes(&self, is_of_fleet: bool) -> Vec<String> {
        let mut notes = Vec::new();
        if self.deadlines.bake_until.is_some() {
            let vips = self.vips.join(", ");
            let healthy = self.healthy.len();
            notes.push(format!(
                "watching the health of {healthy} backends, and drops and shares of VIPs {vips}"
            ));
            notes.extend(self.shares.iter().flat_map(ShareTrial::notes));
        }
        if self.deadlines.confirm_until.is_some() {
            let waits_for = match is_of_fleet {
                true => {
                    "waiting for the fleet, which keeps it or rolls it back: `evenkeel fleet status`"
                }
                false => "waiting for `evenkeel confirm`",
            };
            notes.push(waits_for.to_owned());
        }
        notes
    }

    /// Fails the trial, ends its bake, or lets it continue.
    fn judge(
        &mut self,
        now: Timestamp,
        observed: &Observed<'_>,
        config: &Config,
    ) -> Option<Verdict> {
        let report = observed.report;
        let mut why = self.judge_members(report);
        if self.deadlines.bake_until.is_some() {
            why = why
                .or_else(|| self.judge_drops(observed.drops_last_s))
                .or_else(|| self.judge_shares(observed, config));
        }
        let late = self.deadlines.confirm_until.filter(|until| *until <= now);
        let has_baked = self.deadlines.bake_until.is_some_and(|until| until <= now);
        let why = why
            .or_else(|| late.map(not_confirmed))
            .or_else(|| self.judge_newcomers(report).filter(|_| has_baked));
        let passed = has_baked.then_some(Verdict::Passed);
        why.map(Verdict::RollBack).or(passed)
    }

    fn judge_shares(&mut self, observed: &Observed<'_>, config: &Config) -> Option<String> {
        let Observed { report, shares, .. } = *observed;
        let Self { number, vips, .. } = self;
        let begin = || ShareTrial::begin(*number, vips, shares, config, report);
        let trial = self.shares.get_or_insert_with(begin);
        trial.judge(report, &observed.traffic.lock())
    }

    /// What is wrong with the members of the VIPs while the change bakes.
    fn judge_members(&self, report: &[VipReport]) -> Option<String> {
        self.deadlines.bake_until?;
        let changed = |vip: &&VipReport| self.vips.contains(&vip.name);
        for vip in report.iter().filter(changed) {
            let was_panicking = self.panicking.contains(&vip.name);
            if vip.panic && !was_panicking && !self.sourced.contains(&vip.name) {
                let name = &vip.name;
                return Some(format!(
                    "VIP {name} is in panic mode: too few backends are healthy"
                ));
            }
            let wanted = vip.members.iter();
            let mut wanted = wanted.filter(|m| !m.leaving && m.wanted == BackendState::Up);
            let down = wanted.find(|member| {
                let key = MemberRef::new(&vip.name, &member.name);
                !member.healthy && self.healthy.contains(&key) && !self.others.contains(&key)
            });
            if let Some(member) = down {
                return Some(format!(
                    "backend {} of VIP {} went down",
                    member.name, vip.name
                ));
            }
        }
        None
    }

    /// A new member whose health checks have not succeeded by the end of the bake. One that the checks
    /// had no time to judge does not count.
    fn judge_newcomers(&self, report: &[VipReport]) -> Option<String> {
        for vip in report.iter().filter(|vip| self.vips.contains(&vip.name)) {
            let mut wanted = vip.members.iter();
            let never_came = wanted.find(|member| {
                let key = MemberRef::new(&vip.name, &member.name);
                let is_wanted = !member.leaving && member.wanted == BackendState::Up;
                let is_new = !self.known.contains(&key) && !self.others.contains(&key);
                is_wanted && is_new && member.proven && !member.healthy
            });
            if let Some(member) = never_came {
                return Some(format!(
                    "new backend {} of VIP {} never came up",
                    member.name, vip.name
                ));
            }
        }
        None
    }

    /// Whether too many packets were dropped in several consecutive ticks.
    fn judge_drops(&mut self, drops: [f64; 3]) -> Option<String> {
        let limits = self.drops_before.map(|before| 2.0 * before + DROPS_ALLOWED);
        let worst = (0..drops.len()).find(|&i| drops[i] > limits[i]);
        self.strikes = if worst.is_some() { self.strikes + 1 } else { 0 };
        let worst = worst.filter(|_| self.strikes >= STRIKES)?;
        let name = WATCHED_DROPS[worst].text().name;
        Some(format!(
            "dropping {:.0} packets/s ({name}); before the change {:.0}/s",
            drops[worst], self.drops_before[worst]
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconciler::ServiceId;
    use lb_model::{config::Protocol, ring::Identity};

    fn report(healthy: bool, proven: bool) -> Vec<VipReport> {
        let address = [10, 0, 0, 1].into();
        let member = MemberReport {
            index: 1,
            generation: 1,
            name: "b".to_owned(),
            check_name: "b".to_owned(),
            identity: Identity { address, port: 80 },
            wanted: BackendState::Up,
            healthy,
            proven,
            leaving: false,
            weight: 1,
            effective_weight: 1,
            next_hop: None,
            nat_source: None,
            intended_share: 1.0,
            table_share: 1.0,
        };
        vec![VipReport {
            is_limited: false,
            assignment: None,
            index: 1,
            name: "v".to_owned(),
            service: ServiceId {
                address,
                port: 80,
                protocol: Protocol::Tcp,
            },
            forward: 1,
            panic: false,
            slots: 251,
            counts: Default::default(),
            members: vec![member],
        }]
    }

    /// Only the fleet keeps a change of the fleet.
    #[test]
    fn a_trial_names_the_commands_that_end_it() {
        let trial = Trial::new(1, Vec::new(), &[], [0.0; 3]).with(Deadlines {
            confirm: Some(jiff::SignedDuration::from_secs(60)),
            confirm_until: Some(Timestamp::UNIX_EPOCH),
            ..Deadlines::default()
        });
        for (is_of_fleet, command) in [
            (false, "`evenkeel confirm`"),
            (true, "`evenkeel fleet status`"),
        ] {
            let mut texts = trial.notes(is_of_fleet);
            texts.push(trial.conflict(is_of_fleet).to_string());
            assert_eq!(texts.len(), 2);
            assert!(texts.iter().all(|text| text.contains(command)), "{texts:?}");
            let other = texts.iter().any(|text| text.contains("evenkeel confirm"));
            assert_eq!(other, !is_of_fleet, "{texts:?}");
        }
    }

    /// What a source names while a change bakes is not to blame on the change.
    #[test]
    fn members_that_came_for_another_reason_do_not_count() {
        for (is_known, fails) in [(false, true), (true, false)] {
            let mut trial = Trial::new(1, vec!["v".to_owned()], &[], [0.0; 3]);
            // A name may move to another member.
            trial.healthy.insert(MemberRef::new("v", "b"));
            if is_known {
                trial.source_changed("v", &["b"]);
            }
            let mut report = report(false, true);
            assert_eq!(trial.judge_newcomers(&report).is_some(), fails);
            report[0].panic = true;
            trial.deadlines.bake_until = Some(Timestamp::UNIX_EPOCH);
            assert_eq!(trial.judge_members(&report).is_some(), fails);
        }
    }

    /// A change that turns checks on is not to blame for what they find.
    #[test]
    fn only_backends_that_checks_found_healthy_can_go_down() {
        for (proven, fails) in [(true, true), (false, false)] {
            let before = report(true, proven);
            let mut trial =
                Trial::new(1, vec!["v".to_owned()], &before, [0.0; 3]).with(Deadlines {
                    bake_until: Some(Timestamp::UNIX_EPOCH),
                    ..Deadlines::default()
                });
            assert_eq!(trial.judge_members(&report(false, true)).is_some(), fails);
            assert_eq!(trial.judge_drops([0.0; 3]), None);
        }
    }
}
