//! Changes: plan, store the revision, swap the tables and read them back, store the result. If a
//! step fails, the previous configuration is restored.

use std::{path::PathBuf, sync::OnceLock};

use jiff::SignedDuration;
use tracing::{error, info, warn};

use super::{
    EngineError, EngineResult, REQUESTED_BY,
    command::{Applied, Change, ChangeRequest},
    data_path::DataPath,
    facts::facts,
    import::{ConfigFile, default_bake},
    membership::Membership,
    request::{Candidate, Prepared, one_line},
    shares::histories::Histories,
    trial::{Deadlines, Trial},
};
use crate::{
    alerts::{Condition, Severity},
    caller::Caller,
    fleet::FleetSlot,
    node::FileState,
    reconciler::{PlannedChange, nat_sources},
    revision::{New, OnFailure, RevisionInfo, RevisionNumber, RevisionState, Store, StoreError},
    traffic::SharedTraffic,
};
use lb_model::{
    config::Config,
    planner::{self, Guard, GuardVerdict, Plan, PlanVerdict},
};

/// How a candidate is to be applied.
pub(super) struct Terms {
    pub(super) force: Vec<Guard>,
    /// Whether guards only warn.
    pub(super) is_rollback: bool,
    /// Whether the change is kept in memory if the disk is full or read-only.
    pub(super) on_failure: OnFailure,
    pub(super) who: String,
    pub(super) why: Option<String>,
    pub(super) bake: SignedDuration,
    pub(super) confirm: Option<SignedDuration>,
    /// Whether a text that means the same as the active one becomes a revision too.
    pub(super) keeps_text: bool,
}

/// The active configuration.
pub(super) struct Running {
    /// None until the first revision is written.
    pub(super) number: Option<RevisionNumber>,
    pub(super) config: Config,
    pub(super) text: String,
    /// The digest of its VIPs as text, once the fleet has asked for it.
    pub(super) fleet_digest: OnceLock<String>,
    pub(super) base: PathBuf,
    /// SHA-256 of the configuration file when it was last applied.
    pub(super) file_digest: Option<String>,
}

impl Running {
    pub(super) fn of(number: Option<RevisionNumber>, candidate: Candidate) -> Self {
        Self {
            number,
            fleet_digest: OnceLock::new(),
            config: candidate.config,
            text: candidate.text,
            base: candidate.base,
            file_digest: candidate.file_digest,
        }
    }
}

/// The active configuration, the revisions, and the change on trial.
pub(super) struct ChangeControl {
    pub(super) fleet: FleetSlot,
    pub(super) file: ConfigFile,
    pub(super) file_state: FileState,
    /// Whether a reload waits for the trial to end.
    pub(super) reload_waits: bool,
    pub(super) running: Running,
    pub(super) store: Store,
    pub(super) trial: Option<Trial>,
    /// Drops per second in the last seconds: what a trial is compared with.
    pub(super) drops_per_s: [f64; 3],
    pub(super) traffic: SharedTraffic,
    pub(super) histories: Histories,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) membership: Membership,
}

/// What has happened to a change, for the parts that follow it.
pub(super) enum Outcome {
    Unchanged,
    Refused,
    Failed {
        number: RevisionNumber,
        why: String,
    },
    Applied {
        info: Box<RevisionInfo>,
        plan: Box<Plan>,
    },
    RolledBack {
        number: RevisionNumber,
        to: RevisionNumber,
        why: String,
    },
    /// A trial went on to its next state.
    Settled(String),
}

impl ChangeControl {
    pub(super) fn plan_request(
        &self,
        data_path: &DataPath,
        change: &Change,
        force: &[Guard],
    ) -> EngineResult<Plan> {
        let candidate = self.candidate(data_path, change)?;
        self.check_fixed(&candidate)?;
        let candidate = self.with_members(candidate, matches!(change, Change::Revision(_)))?;
        Ok(self.plan(data_path, &candidate, force)?.0)
    }

    /// Plans a candidate: what it would do, and the token to install it with.
    pub(super) fn plan(
        &self,
        data_path: &DataPath,
        candidate: &Candidate,
        force: &[Guard],
    ) -> EngineResult<(Plan, PlannedChange)> {
        let now_s = data_path.dataplane.now_s();
        let now_s = now_s.map_err(|error| EngineError::Failed(error.to_string()))?;
        let planned = data_path.reconciler.plan(&candidate.config, now_s)?;
        let input = planner::Input {
            base: self.running.number.unwrap_or(0),
            running: self.running.number.map(|_| &self.running.config),
            candidate: &candidate.config,
            force,
        };
        let traffic = self.traffic.lock();
        let mut warnings = nat_sources::warnings(&candidate.config);
        warnings.extend(data_path.route_warnings(&candidate.config));
        warnings.extend(self.fleet_warning(candidate));
        let plan = Plan {
            warnings,
            ..planner::plan(&input, |pair| {
                facts(pair, &planned, &traffic, &self.histories)
            })
        };
        drop(traffic);
        Ok((plan, planned))
    }

    pub(super) fn apply_request(
        &mut self,
        data_path: &mut DataPath,
        request: ChangeRequest,
        prepared: Prepared,
        caller: &Caller,
    ) -> EngineResult<Applied> {
        if let Some(base) = request.base
            && self.running.number != Some(base)
        {
            return Err(self.moved_on(base));
        }
        let candidate = self.current(data_path, prepared, &request.change)?;
        let terms = Terms {
            bake: request.bake.unwrap_or_else(|| default_bake(&candidate)),
            confirm: request.confirm,
            force: request.force,
            is_rollback: false,
            on_failure: request.change.on_failure(),
            who: caller.to_string(),
            why: request.why.as_deref().map(one_line),
            keeps_text: matches!(request.change, Change::Fleet { .. }),
        };
        self.change(data_path, &candidate, &terms)
    }

    fn moved_on(&self, base: RevisionNumber) -> EngineError {
        let message = match self.running.number {
            Some(running) => format!(
                "the change is based on revision {base}, but revision {running} is active: review the \
                 difference (`evenkeel diff {base} {running}`) and try again"
            ),
            None => format!("the change is based on revision {base}, but no revision is active"),
        };
        EngineError::Conflict(message)
    }

    /// Applies a candidate, or changes nothing.
    pub(super) fn change(
        &mut self,
        data_path: &mut DataPath,
        candidate: &Candidate,
        terms: &Terms,
    ) -> EngineResult<Applied> {
        if let Some(trial) = &self.trial {
            return Err(trial.conflict(self.is_of_fleet(trial.number)));
        }
        self.check_fixed(candidate)?;
        self.compare_file();
        // Those of now: sources may have answered since the candidate was made.
        let candidate = &self.with_members(candidate.clone(), terms.is_rollback)?;
        let force: &[Guard] = if terms.is_rollback {
            &planner::ALL_GUARDS
        } else {
            &terms.force
        };
        let (plan, planned) = self.plan(data_path, candidate, force)?;
        match plan.verdict {
            PlanVerdict::Nothing if !terms.keeps_text || candidate.text == self.running.text => {
                let applied = &mut self.running.file_digest;
                *applied = candidate.file_digest.clone().or(applied.take());
                self.outcomes.push(Outcome::Unchanged);
                return Ok(Applied {
                    revision: None,
                    plan,
                });
            }
            PlanVerdict::Refused => {
                self.outcomes.push(Outcome::Refused);
                let message = refusal(&plan);
                let plan = Box::new(plan);
                return Err(EngineError::Refused { message, plan });
            }
            PlanVerdict::Nothing | PlanVerdict::Allowed => {}
        }
        let number = self.store_revision(candidate, terms, &plan)?;
        self.carry_out(data_path, number, candidate, terms, &plan, planned)?;
        let info = self.store.record(number)?.info.clone();
        info!(
            revision = number,
            how = info.how,
            who = info.who,
            "configuration applied"
        );
        self.outcomes.push(Outcome::Applied {
            info: info.clone().into(),
            plan: plan.clone().into(),
        });
        Ok(Applied {
            revision: Some(info),
            plan,
        })
    }

    /// Installs a planned change and makes its revision the active one.
    fn carry_out(
        &mut self,
        data_path: &mut DataPath,
        number: RevisionNumber,
        candidate: &Candidate,
        terms: &Terms,
        plan: &Plan,
        planned: PlannedChange,
    ) -> EngineResult<()> {
        let is_on_trial = !terms.bake.is_zero() || terms.confirm.is_some();
        let vips = || plan.vips.iter().map(|vip| vip.vip.clone()).collect();
        let trial = is_on_trial.then(|| self.new_trial(data_path, number, vips()));
        let installed = if terms.is_rollback {
            data_path.put_back(&candidate.config, Some(planned))
        } else {
            data_path.install(&candidate.config, Some(planned))
        };
        if let Err(error) = installed {
            return Err(self.failed(number, format!("{error:#}")));
        }
        // Deadlines count from the moment when the change is in the kernel.
        let deadlines = Deadlines::from(super::now(), terms.bake, terms.confirm);
        if let Err(error) = self.store_result(number, &deadlines, terms.on_failure) {
            return Err(self.undo_unstored(data_path, number, &error));
        }
        self.membership.adopt(&candidate.config, terms.is_rollback);
        self.run_as(number, candidate);
        let keep = self.running.config.change.keep_revisions;
        if let Err(error) = self.store.prune(keep as usize) {
            warn!(%error, "can't remove old revisions");
        }
        self.trial = trial.map(|trial| trial.with(deadlines));
        Ok(())
    }

    fn store_revision(
        &mut self,
        candidate: &Candidate,
        terms: &Terms,
        plan: &Plan,
    ) -> EngineResult<RevisionNumber> {
        let digest = &candidate.file_digest;
        let new = New {
            text: candidate.text.clone(),
            base: candidate.base.clone(),
            parent: self.running.number,
            at: super::now(),
            who: terms.who.clone(),
            how: candidate.how.clone(),
            why: terms.why.clone(),
            forced: forced(plan),
            file_digest: digest.clone().or_else(|| self.running.file_digest.clone()),
            state: RevisionState::Applying,
        };
        let written = self.store.append_with(new, terms.on_failure);
        let written = written.map_err(|error| {
            EngineError::Failed(format!(
                "{error}; nothing was changed. States of backends (drain, disable, undrain) and rollbacks \
                 are possible, and kept in memory until the disk can be written"
            ))
        })?;
        Ok(written.record.info.number)
    }

    /// Stores the result of a change that is in the kernel.
    fn store_result(
        &mut self,
        number: RevisionNumber,
        deadlines: &Deadlines,
        on_failure: OnFailure,
    ) -> Result<(), StoreError> {
        deadlines.store(&self.running.config.node.state_dir, number)?;
        self.store
            .set_state_with(number, deadlines.state(), on_failure)
    }

    /// Records that a change failed; the tables hold the previous configuration.
    fn failed(&mut self, number: RevisionNumber, why: String) -> EngineError {
        error!(
            revision = number,
            error = why,
            "change failed; the previous configuration stays active"
        );
        let state = RevisionState::Failed { why: why.clone() };
        if let Err(error) = self.store.set_state_with(number, state, OnFailure::Keep) {
            // The next start treats a revision that is still being applied as failed.
            warn!(revision = number, %error, "can't store that the revision failed");
        }
        let error = EngineError::Failed(why.clone());
        self.outcomes.push(Outcome::Failed { number, why });
        error
    }

    /// Undoes a change whose result can't be stored: the next start would undo it anyway.
    fn undo_unstored(
        &mut self,
        data_path: &mut DataPath,
        number: RevisionNumber,
        error: &StoreError,
    ) -> EngineError {
        let mut why = format!("can't store the result, so the change was undone: {error}");
        if let Err(error) = data_path.put_back(&self.running.config, None) {
            why = format!("{why}; undoing it failed as well: {error:#}");
        }
        self.failed(number, why)
    }

    /// Makes a candidate that is in the kernel and on disk the active revision.
    pub(super) fn run_as(&mut self, number: RevisionNumber, candidate: &Candidate) {
        let mut running = Running::of(Some(number), candidate.clone());
        running.file_digest = running.file_digest.or(self.running.file_digest.take());
        let before = std::mem::replace(&mut self.running, running);
        self.warn_of_restart(&before.config);
    }

    /// The condition for a state folder that can't be written. `other`: why another file there can't.
    pub(super) fn disk_condition(&mut self, other: Option<String>) -> Option<Condition> {
        let unwritten = self.store.flush();
        let cause = match unwritten {
            Some(_) => {
                "the newest revisions or their states are only in memory: a restart of the controller loses them. \
                 Changes of backends' states and rollbacks still work; free space or make the file system writable"
            }
            None => "free space or make the file system writable",
        };
        let why = unwritten.map(str::to_owned).or(other)?;
        let what = format!("the state folder can't be written: {why}");
        let key = "state_dir";
        Some(Condition::new(key, key, Severity::Critical, what).cause(cause))
    }

    pub(super) fn confirm(
        &mut self,
        asked: Option<RevisionNumber>,
        caller: &Caller,
    ) -> EngineResult<RevisionInfo> {
        let conflict = EngineError::Conflict;
        if let Some(number) = asked {
            self.store.record(number)?;
        }
        let Some(trial) = self.trial.as_ref().filter(|trial| trial.wants_confirm()) else {
            return Err(conflict("no change is waiting for confirmation".into()));
        };
        let number = trial.number;
        if let Some(asked) = asked.filter(|asked| *asked != number) {
            let message = format!("revision {number} is waiting for confirmation, not {asked}");
            return Err(conflict(message));
        }
        self.check_confirms(number, caller)?;
        let Some(trial) = self.trial.as_mut() else {
            return Err(conflict("no change is waiting for confirmation".into()));
        };
        let state_dir = self.running.config.node.state_dir.clone();
        if trial.confirm() {
            // The bake continues; only the deadline for the confirmation is removed.
            trial.deadlines.store(&state_dir, number)?;
        } else {
            let kept = OnFailure::Keep;
            self.store
                .set_state_with(number, RevisionState::Applied, kept)?;
            self.trial = None;
        }
        info!(revision = number, who = %caller, "revision confirmed");
        let words = format!("revision {number} confirmed by {caller}");
        self.outcomes.push(Outcome::Settled(words));
        Ok(self.store.record(number)?.info.clone())
    }

    pub(super) fn rollback(
        &mut self,
        data_path: &mut DataPath,
        to: Option<RevisionNumber>,
        why: Option<&str>,
        prepared: Option<Box<Prepared>>,
        caller: &Caller,
    ) -> EngineResult<Applied> {
        let why = why.map(one_line);
        if let Some(number) = self.trial.as_ref().map(|trial| trial.number) {
            let parent = self.store.record(number).ok().and_then(|r| r.info.parent);
            if to.is_none() || to == parent {
                return self.end_trial(data_path, caller, why.as_deref());
            }
            self.end_trial(data_path, caller, why.as_deref())?;
        }
        let change = Change::Revision(to);
        let candidate = match prepared {
            Some(prepared) => self.current(data_path, *prepared, &change)?,
            None => self.candidate(data_path, &change)?,
        };
        let terms = Terms {
            force: Vec::new(),
            is_rollback: true,
            on_failure: OnFailure::Keep,
            who: caller.to_string(),
            why,
            bake: SignedDuration::ZERO,
            confirm: None,
            keeps_text: false,
        };
        self.change(data_path, &candidate, &terms)
    }

    /// Rolls back the change on trial on request.
    fn end_trial(
        &mut self,
        data_path: &mut DataPath,
        caller: &Caller,
        why: Option<&str>,
    ) -> EngineResult<Applied> {
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        let Some(trial) = &self.trial else {
            let message = "no change is in progress";
            return Err(EngineError::Conflict(message.into()));
        };
        let number = trial.number;
        let plan = self.plan_back(data_path)?;
        self.revert(data_path, &format!("{REQUESTED_BY}{caller}{why}"))?;
        Ok(Applied {
            revision: Some(self.store.record(number)?.info.clone()),
            plan,
        })
    }
}

/// Guards that refused but were forced.
fn forced(plan: &Plan) -> Vec<Guard> {
    let results = plan.vips.iter().flat_map(|vip| &vip.guards);
    let broken = results.filter(|result| result.verdict == GuardVerdict::Forced);
    let mut guards: Vec<Guard> = broken.map(|result| result.guard).collect();
    guards.sort_unstable();
    guards.dedup();
    guards
}

/// The message of the guards that refuse a plan.
pub(super) fn refusal(plan: &Plan) -> String {
    let mut words = Vec::new();
    for vip in &plan.vips {
        let refused = vip.guards.iter();
        for result in refused.filter(|result| result.verdict == GuardVerdict::Refused) {
            words.push(format!("VIP {}: {}", vip.vip, result.detail));
        }
    }
    format!("refused: {}", words.join("; "))
}
