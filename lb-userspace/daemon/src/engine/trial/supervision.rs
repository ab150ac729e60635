//! The actor's part of a trial: judging it every second, ending it, rolling it back.

use jiff::{SignedDuration, Timestamp};
use lb_model::planner::Plan;
use tracing::{error, info, warn};

use super::{Deadlines, Trial};
use crate::{
    clock::later,
    engine::{
        EngineError, EngineResult,
        actor::Actor,
        now,
        request::{self, Candidate},
        shares::ShareTrial,
    },
    events::Entry,
    reconciler::VipReport,
    revision::{RevisionNumber, RevisionState, not_confirmed},
};

impl Actor {
    /// A trial of a change that is about to be made.
    pub(in crate::engine) fn new_trial(
        &mut self,
        number: RevisionNumber,
        vips: Vec<String>,
    ) -> Trial {
        let report = self.reconciler.report();
        Trial::new(number, vips, &report, self.observer.drops_per_s())
    }

    /// Resumes the trial of a revision that the previous process left.
    pub(in crate::engine) fn resume_trial(
        &mut self,
        number: RevisionNumber,
        state: &RevisionState,
    ) {
        let state_dir = self.running.config.node.state_dir.clone();
        let mut deadlines = Deadlines::of(&state_dir, number, state);
        if let Ok(record) = self.store.record(number) {
            deadlines = deadlines.since(record.info.at, now());
        }
        let vips = self.running.config.vips.iter().map(|vip| vip.name.clone());
        let trial = self.new_trial(number, vips.collect()).with(deadlines);
        info!(revision = number, ?state, "resuming its trial");
        self.trial = Some(trial);
    }

    /// Moves the deadlines after the system clock was set.
    pub(in crate::engine) fn move_trial(&mut self, by: SignedDuration) {
        let Some(trial) = &mut self.trial else { return };
        trial.deadlines = trial.deadlines.moved(by);
        let (number, state) = (trial.number, trial.deadlines.state());
        if let Err(error) = self.store.set_state(number, state) {
            // Only a controller that starts before the next write sees the old deadline.
            warn!(revision = number, %error, "can't write the moved deadline");
        }
    }

    /// Judges the trial, if there is one: fails it, ends it, or lets it continue.
    pub(in crate::engine) fn tick_trial(&mut self) {
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
        let begin = || ShareTrial::begin(*number, vips, &self.shares, &self.running.config, report);
        let shares = trial.shares.get_or_insert_with(begin);
        let traffic = self.recorder.traffic();
        let traffic = traffic.lock();
        shares.judge(report, &traffic)
    }

    /// Fails the trial at once if a member went down.
    pub(in crate::engine) fn check_trial_members(&mut self) {
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
        let now = now();
        let Some(trial) = &self.trial else { return };
        let deadlines = trial.deadlines;
        let late = deadlines.confirm_until.filter(|until| *until <= now);
        let why = why.or_else(|| late.map(not_confirmed));
        if let Some(why) = why {
            // The error is logged; the next tick tries again.
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

    /// Ends a bake that passed.
    fn end_bake(&mut self, now: Timestamp) {
        let Some(trial) = &mut self.trial else { return };
        let number = trial.number;
        let mut deadlines = trial.deadlines;
        deadlines.bake_until = None;
        deadlines.confirm_until = deadlines.confirm.map(|time| later(now, time));
        let state = deadlines.state();
        if let Err(error) = self.store.set_state(number, state.clone()) {
            // The next tick tries again.
            error!(revision = number, %error, "can't write the end of the bake");
            return;
        }
        if state == RevisionState::Applied {
            self.trial = None;
            info!(revision = number, "passed bake; the change is kept");
            self.note(Entry::new(
                "revision",
                format!("revision {number} passed bake and is kept"),
            ));
        } else if let Some(trial) = &mut self.trial {
            trial.deadlines = deadlines;
            info!(revision = number, "passed bake; waiting to be confirmed");
            self.note(Entry::new(
                "revision",
                format!("revision {number} passed bake and waits to be confirmed"),
            ));
        }
    }

    /// The revision before the one on trial.
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

    /// Previews the rollback of the trial.
    pub(in crate::engine) fn plan_back(&mut self) -> EngineResult<Plan> {
        let (_, candidate) = self.before_trial()?;
        self.plan(&candidate, &lb_model::planner::ALL_GUARDS)
    }

    /// Rolls back the change on trial.
    pub(in crate::engine) fn revert(&mut self, why: &str) -> EngineResult<()> {
        let Some(number) = self.trial.as_ref().map(|trial| trial.number) else {
            return Ok(());
        };
        let done = self.try_revert(number, why);
        if let Err(error) = &done {
            error!(
                revision = number,
                why,
                %error,
                "can't roll back the change; trying again"
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
            at: now(),
        };
        self.store.set_state(number, state)?;
        self.trial = None;
        self.publisher
            .count_change(|changes| changes.rolled_back += 1);
        self.run_as(parent, &candidate);
        self.shares.changes.forget(number);
        warn!(revision = number, running = parent, why, "rolled back");
        self.note(Entry::new(
            "rollback",
            format!("revision {number} was rolled back to {parent}: {why}"),
        ));
        self.publish();
        Ok(())
    }
}
