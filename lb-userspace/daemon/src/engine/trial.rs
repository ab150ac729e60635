//! A change that is in force on trial: watched for a while (*bake*), then perhaps until somebody
//! confirms it. What fails a trial is undone.
//!
//! Deadlines are times of the clock on the wall, on disk with the revision: a controller that is
//! killed and started again goes on where it was. When that clock is set, they are moved with it.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use jiff::{SignedDuration, Timestamp};
use lb_common::reason::Reason;
use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use super::{
    EngineError, EngineResult,
    actor::Actor,
    request::{self, Candidate},
    shares::ShareTrial,
};
use crate::{
    clock::later,
    durable,
    events::Entry,
    fault,
    reconciler::VipReport,
    revision::{RevisionNumber, RevisionState, StoreError, not_confirmed, to_the_second},
};
use lb_model::{MemberRef, config::BackendState, planner::Plan};

/// Reasons to drop that a good change does not make more frequent.
pub(super) const WATCHED_DROPS: [Reason; 3] =
    [Reason::NoMember, Reason::MemberDown, Reason::NoNextHop];

/// Drops a second over twice those before the change that are too many.
const DROPS_ALLOWED: f64 = 10.0;

/// Ticks in a row with too many drops that fail a trial: one may be the swap itself.
const STRIKES: u32 = 2;

/// Until when a change is watched, and until when it must be confirmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Deadlines {
    bake_until: Option<Timestamp>,
    /// Time to confirm, after the bake.
    confirm: Option<SignedDuration>,
    confirm_until: Option<Timestamp>,
}

/// What a revision's state has no place for.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    revision: RevisionNumber,
    confirm_s: i64,
}

fn kept_in(state_dir: &Path) -> PathBuf {
    state_dir.join("trial.json")
}

impl Deadlines {
    pub(super) fn from(
        now: Timestamp,
        bake: SignedDuration,
        confirm: Option<SignedDuration>,
    ) -> Self {
        let bakes = !bake.is_zero();
        Self {
            bake_until: bakes.then(|| later(now, bake)),
            confirm,
            confirm_until: confirm.filter(|_| !bakes).map(|time| later(now, time)),
        }
    }

    /// The same after the clock was set.
    fn moved(self, by: SignedDuration) -> Self {
        Self {
            bake_until: self.bake_until.map(|until| later(until, by)),
            confirm: self.confirm,
            confirm_until: self.confirm_until.map(|until| later(until, by)),
        }
    }

    /// Those of a revision that a controller before this one left.
    pub(super) fn of(state_dir: &Path, number: RevisionNumber, state: &RevisionState) -> Self {
        match state {
            RevisionState::Baking { until } => Self {
                bake_until: Some(*until),
                confirm: read_kept(state_dir, number),
                confirm_until: None,
            },
            RevisionState::AwaitingConfirm { until } => Self {
                bake_until: None,
                confirm: Some(SignedDuration::ZERO),
                confirm_until: Some(*until),
            },
            _ => Self::default(),
        }
    }

    /// Those of a change that was made at `made`, none of them further away than it was then: the clock may have
    /// been set back while nobody looked at it.
    fn since(self, made: Timestamp, now: Timestamp) -> Self {
        let nearer = |until: Timestamp| until.min(later(now, until.duration_since(made)));
        Self {
            bake_until: self.bake_until.map(nearer),
            confirm: self.confirm,
            confirm_until: self.confirm_until.map(nearer),
        }
    }

    pub(super) fn state(&self) -> RevisionState {
        match (self.bake_until, self.confirm_until) {
            (Some(until), _) => RevisionState::Baking { until },
            (None, Some(until)) => RevisionState::AwaitingConfirm { until },
            (None, None) => RevisionState::Applied,
        }
    }

    /// Writes down that a change must be confirmed after its bake.
    pub(super) fn keep(&self, state_dir: &Path, number: RevisionNumber) -> Result<(), StoreError> {
        let path = kept_in(state_dir);
        let failed = |source| StoreError::System {
            what: "write",
            path: path.clone(),
            source,
        };
        let (Some(_), Some(confirm)) = (self.bake_until, self.confirm) else {
            // One that stays names a revision that never bakes again.
            return Ok(());
        };
        let kept = Kept {
            revision: number,
            confirm_s: confirm.as_secs(),
        };
        fault::point("trial: write").map_err(failed)?;
        let json = serde_json::to_vec(&kept).map_err(|error| failed(io::Error::other(error)))?;
        durable::replace(&path, &json).map_err(failed)
    }
}

fn read_kept(state_dir: &Path, number: RevisionNumber) -> Option<SignedDuration> {
    let bytes = fs::read(kept_in(state_dir)).ok()?;
    let kept: Kept = serde_json::from_slice(&bytes).ok()?;
    (kept.revision == number).then(|| SignedDuration::from_secs(kept.confirm_s))
}

/// A change on trial.
pub(super) struct Trial {
    pub(super) number: RevisionNumber,
    pub(super) deadlines: Deadlines,
    /// VIPs that it changed.
    vips: Vec<String>,
    /// Members of these that were healthy before: VIP and backend.
    healthy: BTreeSet<MemberRef>,
    /// Members that there were before, healthy or not.
    known: BTreeSet<MemberRef>,
    /// VIPs that were in a panic before.
    panicking: BTreeSet<String>,
    /// Drops a second before, by [`WATCHED_DROPS`].
    drops_before: [f64; 3],
    strikes: u32,
    /// Begun with the first look after the change.
    shares: Option<ShareTrial>,
}

impl Trial {
    pub(super) fn with(self, deadlines: Deadlines) -> Self {
        Self { deadlines, ..self }
    }

    pub(super) fn wants_confirm(&self) -> bool {
        self.deadlines.confirm.is_some()
    }

    /// Somebody confirmed. Says whether the bake goes on.
    pub(super) fn confirm(&mut self) -> bool {
        self.deadlines.confirm = None;
        self.deadlines.confirm_until = None;
        self.deadlines.bake_until.is_some()
    }

    pub(super) fn remaining_s(&self, now: Timestamp) -> f64 {
        let until = self.deadlines.bake_until.or(self.deadlines.confirm_until);
        until.map_or(0.0, |until| {
            until.duration_since(now).as_secs_f64().max(0.0)
        })
    }

    pub(super) fn conflict(&self) -> EngineError {
        let (number, state) = (self.number, self.deadlines.state());
        let message = match state {
            RevisionState::AwaitingConfirm { until } => format!(
                "revision {number} waits to be confirmed until {}: `evenkeel confirm` keeps it, \
                 `evenkeel rollback` undoes it",
                to_the_second(until)
            ),
            _ => format!(
                "revision {number} is being watched (`evenkeel history`): wait until that is over, or \
                 undo it with `evenkeel rollback`"
            ),
        };
        EngineError::Conflict(message)
    }

    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.deadlines.bake_until.is_some() {
            let vips = self.vips.join(", ");
            let healthy = self.healthy.len();
            notes.push(format!(
                "watching the health of {healthy} backends, drops and shares of VIPs {vips}"
            ));
            notes.extend(self.shares.iter().flat_map(ShareTrial::notes));
        }
        if self.deadlines.confirm_until.is_some() {
            notes.push("waiting for `evenkeel confirm`".to_owned());
        }
        notes
    }

    /// What went wrong with the members of the VIPs, if something did.
    fn judge_members(&self, report: &[VipReport]) -> Option<String> {
        let changed = |vip: &&VipReport| self.vips.contains(&vip.name);
        for vip in report.iter().filter(changed) {
            if vip.panic && !self.panicking.contains(&vip.name) {
                let name = &vip.name;
                return Some(format!(
                    "so few backends of VIP {name} are healthy that it spreads traffic over all"
                ));
            }
            let wanted = vip.members.iter();
            let mut wanted = wanted.filter(|m| !m.leaving && m.wanted == BackendState::Up);
            let down = wanted.find(|member| {
                let key = MemberRef::new(&vip.name, &member.name);
                !member.healthy && self.healthy.contains(&key)
            });
            if let Some(member) = down {
                return Some(format!(
                    "backend {} of VIP {} was up and went down",
                    member.name, vip.name
                ));
            }
        }
        None
    }

    /// A member that came with the change and that the checks have not found healthy, now that the
    /// time to watch it is over. One that they had no time to judge is nobody's fault.
    fn judge_newcomers(&self, report: &[VipReport]) -> Option<String> {
        for vip in report.iter().filter(|vip| self.vips.contains(&vip.name)) {
            let mut wanted = vip.members.iter();
            let never_came = wanted.find(|member| {
                let key = MemberRef::new(&vip.name, &member.name);
                let is_wanted = !member.leaving && member.wanted == BackendState::Up;
                is_wanted && member.proven && !member.healthy && !self.known.contains(&key)
            });
            if let Some(member) = never_came {
                return Some(format!(
                    "backend {} of VIP {} is new, and never came up",
                    member.name, vip.name
                ));
            }
        }
        None
    }

    /// Whether too many packets were dropped for too long.
    fn judge_drops(&mut self, drops: [f64; 3]) -> Option<String> {
        let limits = self.drops_before.map(|before| 2.0 * before + DROPS_ALLOWED);
        let worst = (0..drops.len()).find(|&i| drops[i] > limits[i]);
        self.strikes = if worst.is_some() { self.strikes + 1 } else { 0 };
        let worst = worst.filter(|_| self.strikes >= STRIKES)?;
        let name = WATCHED_DROPS[worst].text().name;
        Some(format!(
            "{:.0} packets a second are dropped as {name}; it were {:.0} before",
            drops[worst], self.drops_before[worst]
        ))
    }
}

impl Actor {
    /// A trial of a change that is about to be made.
    pub(super) fn new_trial(&mut self, number: RevisionNumber, vips: Vec<String>) -> Trial {
        let report = self.reconciler.report();
        let members = report.iter().flat_map(|vip| {
            let healthy = vip.members.iter().filter(|m| m.healthy && !m.leaving);
            healthy.map(|member| MemberRef::new(&vip.name, &member.name))
        });
        let known = report.iter().flat_map(|vip| {
            let members = vip.members.iter();
            members.map(|member| MemberRef::new(&vip.name, &member.name))
        });
        let panicking = report.iter().filter(|vip| vip.panic);
        Trial {
            number,
            deadlines: Deadlines::default(),
            healthy: members
                .filter(|member| vips.contains(&member.vip))
                .collect(),
            known: known.collect(),
            panicking: panicking.map(|vip| vip.name.clone()).collect(),
            drops_before: self.observer.drops_per_s(),
            strikes: 0,
            shares: None,
            vips,
        }
    }

    /// Goes on with the trial of a revision that a controller before this one began.
    pub(super) fn resume_trial(&mut self, number: RevisionNumber, state: &RevisionState) {
        let state_dir = self.running.config.node.state_dir.clone();
        let mut deadlines = Deadlines::of(&state_dir, number, state);
        if let Ok(record) = self.store.record(number) {
            deadlines = deadlines.since(record.info.at, super::now());
        }
        let vips = self.running.config.vips.iter().map(|vip| vip.name.clone());
        let trial = self.new_trial(number, vips.collect()).with(deadlines);
        info!(
            revision = number,
            ?state,
            "goes on as it was when the controller ended"
        );
        self.trial = Some(trial);
    }

    /// The clock was set: what has to last goes on for as long as it had to.
    pub(super) fn move_trial(&mut self, by: SignedDuration) {
        let Some(trial) = &mut self.trial else { return };
        trial.deadlines = trial.deadlines.moved(by);
        let (number, state) = (trial.number, trial.deadlines.state());
        if let Err(error) = self.store.set_state(number, state) {
            // Only a controller that starts in between would go by what is there.
            warn!(revision = number, %error, "the new time of its deadline can't be written down");
        }
    }

    /// Looks at the trial, if there is one: fails it, ends it, or lets it go on.
    pub(super) fn tick_trial(&mut self) {
        let Some(mut trial) = self.trial.take() else {
            return;
        };
        let mut why = None;
        if trial.deadlines.bake_until.is_some() {
            let report = self.reconciler.report();
            why = trial
                .judge_members(&report)
                .or_else(|| trial.judge_drops(self.observer.drops_last_s()));
            why = why.or_else(|| self.judge_shares(&mut trial, &report));
        }
        self.trial = Some(trial);
        self.judge_trial(why);
    }

    fn judge_shares(&self, trial: &mut Trial, report: &[VipReport]) -> Option<String> {
        let Trial { number, vips, .. } = trial;
        let begin = || ShareTrial::begin(*number, vips, &self.watch, &self.running.config, report);
        let shares = trial.shares.get_or_insert_with(begin);
        let traffic = self.recorder.traffic();
        let traffic = traffic.lock();
        shares.judge(report, &traffic)
    }

    /// As [`Self::tick_trial`], for what is known at once: members that went down.
    pub(super) fn look_at_trial(&mut self) {
        let Some(trial) = &self.trial else { return };
        if trial.deadlines.bake_until.is_none() {
            return;
        }
        let report = self.reconciler.report();
        let why = self.trial.as_ref().and_then(|t| t.judge_members(&report));
        if why.is_some() {
            self.judge_trial(why);
        }
    }

    fn judge_trial(&mut self, why: Option<String>) {
        let now = super::now();
        let Some(trial) = &self.trial else { return };
        let deadlines = trial.deadlines;
        let late = deadlines.confirm_until.filter(|until| *until <= now);
        let why = why.or_else(|| late.map(not_confirmed));
        if let Some(why) = why {
            // The error is in the log; the next tick tries again.
            let _ = self.revert(&why);
            return;
        }
        if deadlines.bake_until.is_some_and(|until| until <= now) {
            match trial.judge_newcomers(&self.reconciler.report()) {
                // As above.
                Some(why) => drop(self.revert(&why)),
                None => self.end_bake(now),
            }
        }
    }

    /// Nothing was wrong.
    fn end_bake(&mut self, now: Timestamp) {
        let Some(trial) = &mut self.trial else { return };
        let number = trial.number;
        let mut deadlines = trial.deadlines;
        deadlines.bake_until = None;
        deadlines.confirm_until = deadlines.confirm.map(|time| later(now, time));
        let state = deadlines.state();
        if let Err(error) = self.store.set_state(number, state.clone()) {
            // The next tick tries again.
            error!(revision = number, %error, "the end of the bake can't be written down");
            return;
        }
        if state == RevisionState::Applied {
            self.trial = None;
            info!(revision = number, "nothing was wrong: the change stays");
            self.note(Entry::new(
                "revision",
                format!("revision {number} was watched, and stays"),
            ));
        } else if let Some(trial) = &mut self.trial {
            trial.deadlines = deadlines;
            info!(
                revision = number,
                "nothing was wrong; waits to be confirmed"
            );
            self.note(Entry::new(
                "revision",
                format!("revision {number} was watched, and waits to be confirmed"),
            ));
        }
    }

    /// What the change on trial changed.
    fn before_trial(&self) -> EngineResult<(RevisionNumber, Candidate)> {
        let nothing = || EngineError::Failed("there is no revision before this one".into());
        let number = self.trial.as_ref().ok_or_else(nothing)?.number;
        let parent = self.store.record(number).ok().and_then(|r| r.info.parent);
        let parent = parent.ok_or_else(nothing)?;
        let found = self.store.get(parent)?;
        let candidate = Candidate {
            config: request::parse(&found.file_name(), &found.text)?,
            base: found.record.base.clone(),
            text: found.text,
            how: format!("rollback to {parent}"),
            file_digest: None,
        };
        Ok((parent, candidate))
    }

    /// What undoing the trial would do.
    pub(super) fn plan_back(&mut self) -> EngineResult<Plan> {
        let (_, candidate) = self.before_trial()?;
        self.plan(&candidate, &lb_model::planner::ALL_GUARDS)
    }

    /// Undoes the change on trial.
    pub(super) fn revert(&mut self, why: &str) -> EngineResult<()> {
        let Some(number) = self.trial.as_ref().map(|trial| trial.number) else {
            return Ok(());
        };
        let done = self.try_revert(number, why);
        if let Err(error) = &done {
            error!(
                revision = number,
                why,
                %error,
                "the change can't be undone; trying again"
            );
        }
        done
    }

    fn try_revert(&mut self, number: RevisionNumber, why: &str) -> EngineResult<()> {
        let (parent, candidate) = self.before_trial()?;
        self.put_back(&candidate.config, None)
            .map_err(|error| EngineError::Failed(format!("{error:#}")))?;
        let state = RevisionState::RolledBack {
            why: why.to_owned(),
            at: super::now(),
        };
        self.store.set_state(number, state)?;
        self.trial = None;
        self.count_change(|changes| changes.rolled_back += 1);
        self.run_as(parent, &candidate);
        self.watch.changes.forget(number);
        warn!(
            revision = number,
            running = parent,
            why,
            "the change was undone"
        );
        self.note(Entry::new(
            "rollback",
            format!("revision {number} was rolled back to {parent}: {why}"),
        ));
        self.publish();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan as _;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + second.seconds()
    }

    fn awaiting(second: i64) -> Deadlines {
        let until = at(second);
        Deadlines::of(
            Path::new("/nowhere"),
            1,
            &RevisionState::AwaitingConfirm { until },
        )
    }

    #[test]
    fn a_clock_that_is_set_moves_deadlines() {
        let bakes = Deadlines::from(
            at(100),
            SignedDuration::from_secs(30),
            Some(SignedDuration::from_mins(5)),
        );
        for by in [3600, -50] {
            let moved = bakes.moved(SignedDuration::from_secs(by));
            assert_eq!(moved.bake_until, Some(at(130 + by)));
            assert_eq!((moved.confirm, moved.confirm_until), (bakes.confirm, None));
            let moved = awaiting(200).moved(SignedDuration::from_secs(by));
            assert_eq!(moved, awaiting(200 + by));
        }
    }

    #[test]
    fn a_clock_that_was_set_back_before_the_start_makes_no_trial_longer() {
        // Made at 1,000 with 300 s to confirm.
        assert_eq!(awaiting(1300).since(at(1000), at(1100)), awaiting(1300));
        assert_eq!(awaiting(1300).since(at(1000), at(10)), awaiting(310));
    }
}
