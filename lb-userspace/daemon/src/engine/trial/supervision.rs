//! The trial of the newest change: begun, judged every second, ended, rolled back.

use jiff::{SignedDuration, Timestamp};
use lb_model::planner::Plan;
use tracing::{error, info, warn};

use super::{Deadlines, Observed, Trial, Verdict};
use crate::{
    clock::later,
    engine::{
        EngineError, EngineResult,
        change::{ChangeControl, Outcome},
        command::Progress,
        data_path::DataPath,
        now,
        request::{self, Candidate},
    },
    revision::{OnFailure, RevisionNumber, RevisionState},
};

impl ChangeControl {
    /// A trial of a change that is about to be made.
    pub(in crate::engine) fn new_trial(
        &self,
        data_path: &mut DataPath,
        number: RevisionNumber,
        vips: Vec<String>,
    ) -> Trial {
        let report = data_path.reconciler.report();
        Trial::new(number, vips, &report, self.drops_per_s)
    }

    /// Resumes the trial of the active revision, which the previous process left.
    pub(in crate::engine) fn resume_trial(
        &mut self,
        data_path: &mut DataPath,
        state: &RevisionState,
    ) {
        let Some(number) = self.running.number else {
            return;
        };
        let state_dir = &self.running.config.node.state_dir;
        let mut deadlines = Deadlines::of(state_dir, number, state);
        if let Ok(record) = self.store.record(number) {
            deadlines = deadlines.since(record.info.at, now());
        }
        let vips = self.running.config.vips.iter().map(|vip| vip.name.clone());
        let trial = self.new_trial(data_path, number, vips.collect());
        info!(revision = number, ?state, "resuming its trial");
        self.trial = Some(trial.with(deadlines));
    }

    /// Moves the deadlines after the system clock was set.
    pub(in crate::engine) fn move_trial(&mut self, by: SignedDuration) {
        let Some(trial) = &mut self.trial else { return };
        trial.deadlines = trial.deadlines.moved(by);
        let (number, state) = (trial.number, trial.deadlines.state());
        if let Err(error) = self.store.set_state_with(number, state, OnFailure::Keep) {
            // Only a controller that starts before the next write sees the old deadline.
            warn!(revision = number, %error, "can't write the moved deadline");
        }
    }

    /// Judges the trial, if there is one: fails it, ends it, or lets it continue.
    pub(in crate::engine) fn tick_trial(
        &mut self,
        data_path: &mut DataPath,
        observed: &Observed<'_>,
    ) {
        self.drops_per_s = observed.drops_per_s;
        let Some(trial) = &mut self.trial else { return };
        if let Some(verdict) = trial.judge(now(), observed, &self.running.config) {
            self.settle(data_path, verdict);
        }
    }

    /// Fails the trial at once if a member went down.
    pub(in crate::engine) fn judge_members(&mut self, data_path: &mut DataPath) {
        let Some(trial) = &self.trial else { return };
        if let Some(why) = trial.judge_members(&data_path.reconciler.report()) {
            self.settle(data_path, Verdict::RollBack(why));
        }
    }

    pub(in crate::engine) fn progress(&self, number: RevisionNumber) -> EngineResult<Progress> {
        let record = self.store.record(number)?;
        let trial = self.trial.as_ref().filter(|trial| trial.number == number);
        Ok(Progress {
            revision: record.info.clone(),
            remaining_s: trial.map_or(0.0, |trial| trial.remaining_s(now())),
            notes: trial.map_or_else(Vec::new, |it| it.notes(self.is_of_fleet(number))),
        })
    }

    fn settle(&mut self, data_path: &mut DataPath, verdict: Verdict) {
        match verdict {
            // The error is logged; the next tick tries again.
            Verdict::RollBack(why) => drop(self.revert(data_path, &why)),
            Verdict::Passed => self.end_bake(now()),
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
        let kept = OnFailure::Keep;
        if let Err(error) = self.store.set_state_with(number, state.clone(), kept) {
            // The next tick tries again.
            error!(revision = number, %error, "can't write the end of the bake");
            return;
        }
        let next = if state == RevisionState::Applied {
            self.trial = None;
            "is kept"
        } else {
            trial.deadlines = deadlines;
            "waits to be confirmed"
        };
        info!(revision = number, next, "passed bake");
        let words = format!("revision {number} passed bake and {next}");
        self.outcomes.push(Outcome::Settled(words));
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
        Ok((parent, self.with_members(candidate, true)?))
    }

    /// Previews the rollback of the trial.
    pub(in crate::engine) fn plan_back(&self, data_path: &DataPath) -> EngineResult<Plan> {
        let (_, candidate) = self.before_trial()?;
        let (plan, _) = self.plan(data_path, &candidate, &lb_model::planner::ALL_GUARDS)?;
        Ok(plan)
    }

    /// Rolls back the change on trial.
    pub(in crate::engine) fn revert(
        &mut self,
        data_path: &mut DataPath,
        why: &str,
    ) -> EngineResult<()> {
        let Some(number) = self.trial.as_ref().map(|trial| trial.number) else {
            return Ok(());
        };
        let done = self.try_revert(data_path, number, why);
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

    fn try_revert(
        &mut self,
        data_path: &mut DataPath,
        number: RevisionNumber,
        why: &str,
    ) -> EngineResult<()> {
        let (parent, candidate) = self.before_trial()?;
        data_path
            .put_back(&candidate.config, None)
            .map_err(|error| EngineError::Failed(format!("{error:#}")))?;
        let state = RevisionState::RolledBack {
            why: why.to_owned(),
            at: now(),
        };
        self.store.set_state_with(number, state, OnFailure::Keep)?;
        self.trial = None;
        self.membership.adopt(&candidate.config, true);
        self.run_as(parent, &candidate);
        warn!(revision = number, running = parent, why, "rolled back");
        self.outcomes.push(Outcome::RolledBack {
            number,
            to: parent,
            why: why.to_owned(),
        });
        Ok(())
    }
}
