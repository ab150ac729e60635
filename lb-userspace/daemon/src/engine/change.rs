//! A change, from what was asked for to what is in force: plan, write down, swap, read back, write
//! down what came of it. Any step that fails brings back what was there before.

use jiff::SignedDuration;
use tracing::{error, info, warn};

use super::{
    EngineError, EngineResult,
    actor::{Actor, Running},
    command::{Applied, Change, ChangeRequest},
    request::{Candidate, one_line},
    trial::{Deadlines, Trial},
};
use crate::{
    events::Entry,
    http::Caller,
    reconciler::{Preview, ServiceId, VipSide, nat_sources},
    revision::{New, RevisionInfo, RevisionNumber, RevisionState},
    traffic::Traffic,
};
use lb_model::{
    config,
    planner::{
        self, Guard, GuardVerdict, Load, Pair, Plan, PlanVerdict, Side, SideMember, VipFacts,
    },
};

/// How a candidate is to be put in force.
pub(super) struct Terms {
    pub(super) force: Vec<Guard>,
    /// Whether guards are only shown.
    pub(super) is_rollback: bool,
    pub(super) who: String,
    pub(super) why: Option<String>,
    pub(super) bake: SignedDuration,
    pub(super) confirm: Option<SignedDuration>,
}

impl Actor {
    pub(super) fn plan_request(&mut self, change: &Change, force: &[Guard]) -> EngineResult<Plan> {
        let candidate = self.candidate(change)?;
        self.plan(&candidate, force)
    }

    pub(super) fn plan(&mut self, candidate: &Candidate, force: &[Guard]) -> EngineResult<Plan> {
        self.check_fixed(candidate)?;
        let now_s = self.dataplane.now_s();
        let now_s = now_s.map_err(|error| EngineError::Failed(error.to_string()))?;
        let preview = self.reconciler.preview(&candidate.config, now_s)?;
        let input = planner::Input {
            base: self.running.number.unwrap_or(0),
            running: self.running.number.map(|_| &self.running.config),
            candidate: &candidate.config,
            force,
        };
        let traffic = self.recorder.traffic();
        let traffic = traffic.lock();
        Ok(Plan {
            warnings: nat_sources::warnings(&candidate.config),
            ..planner::plan(&input, |pair| facts(pair, &preview, &traffic))
        })
    }

    fn check_fixed(&self, candidate: &Candidate) -> EngineResult<()> {
        if candidate.config.node.state_dir == self.running.config.node.state_dir {
            return Ok(());
        }
        let message = "node.state_dir can't be changed while the controller runs: stop it, move the \
                       folder, and start it again";
        Err(EngineError::InvalidConfig(message.into()))
    }

    pub(super) fn apply_request(
        &mut self,
        request: ChangeRequest,
        caller: &Caller,
    ) -> EngineResult<Applied> {
        if let Some(base) = request.base
            && self.running.number != Some(base)
        {
            return Err(self.moved_on(base));
        }
        let candidate = self.candidate(&request.change)?;
        let terms = Terms {
            bake: request
                .bake
                .unwrap_or_else(|| self.default_bake(&candidate)),
            confirm: request.confirm,
            force: request.force,
            is_rollback: false,
            who: caller.to_string(),
            why: request.why.as_deref().map(one_line),
        };
        self.change(&candidate, &terms)
    }

    pub(super) fn default_bake(&self, candidate: &Candidate) -> SignedDuration {
        // At most an hour, says the configuration.
        SignedDuration::try_from(candidate.config.change.bake).unwrap_or(SignedDuration::ZERO)
    }

    fn moved_on(&self, base: RevisionNumber) -> EngineError {
        let message = match self.running.number {
            Some(running) => format!(
                "the change was made for revision {base}, but revision {running} is running: look at \
                 it (`evenkeel diff {base} {running}`), and try again"
            ),
            None => format!("the change was made for revision {base}, but none is running"),
        };
        EngineError::Conflict(message)
    }

    /// Puts a candidate in force, or changes nothing.
    pub(super) fn change(&mut self, candidate: &Candidate, terms: &Terms) -> EngineResult<Applied> {
        if let Some(trial) = &self.trial {
            return Err(trial.conflict());
        }
        let force: &[Guard] = if terms.is_rollback {
            &planner::ALL_GUARDS
        } else {
            &terms.force
        };
        let plan = self.plan(candidate, force)?;
        match plan.verdict {
            PlanVerdict::Nothing => {
                self.count_change(|changes| changes.unchanged += 1);
                return Ok(Applied {
                    revision: None,
                    plan,
                });
            }
            PlanVerdict::Refused => {
                self.count_change(|changes| changes.refused += 1);
                let message = refusal(&plan);
                let plan = Box::new(plan);
                return Err(EngineError::Refused { message, plan });
            }
            PlanVerdict::Allowed => {}
        }
        let number = self.write_down(candidate, terms, &plan)?;
        let trial = self.begin_trial(number, &plan, terms);
        let installed = if terms.is_rollback {
            self.put_back(&candidate.config)
        } else {
            self.install(&candidate.config)
        };
        if let Err(error) = installed {
            return Err(self.failed(number, format!("{error:#}")));
        }
        // The clock of the deadlines begins when the change is in the kernel.
        let deadlines = Deadlines::from(super::now(), terms.bake, terms.confirm);
        if let Err(error) = self.settle(number, &deadlines) {
            return Err(self.undo_unwritten(number, &error));
        }
        self.run_as(number, candidate);
        self.watch.changed(number, &plan);
        self.count_change(|changes| changes.applied += 1);
        self.trial = trial.map(|trial| trial.with(deadlines));
        let info = self.store.record(number)?.info.clone();
        info!(
            revision = number,
            how = info.how,
            who = info.who,
            "configuration applied"
        );
        self.note(Entry::new(
            "revision",
            format!(
                "revision {number} is in force: {} by {}",
                info.how, info.who
            ),
        ));
        self.publish();
        Ok(Applied {
            revision: Some(info),
            plan,
        })
    }

    fn write_down(
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
        let written = self.store.append(new);
        let written = written
            .map_err(|error| EngineError::Failed(format!("{error}; nothing was changed")))?;
        Ok(written.record.info.number)
    }

    /// Writes down what came of an apply that is in the kernel.
    fn settle(
        &mut self,
        number: RevisionNumber,
        deadlines: &Deadlines,
    ) -> Result<(), crate::revision::StoreError> {
        deadlines.keep(&self.running.config.node.state_dir, number)?;
        self.store.set_state(number, deadlines.state())
    }

    /// The kernel refused, and has what it had.
    fn failed(&mut self, number: RevisionNumber, why: String) -> EngineError {
        error!(
            revision = number,
            error = why,
            "the change failed; what was in force stays"
        );
        let state = RevisionState::Failed { why: why.clone() };
        if let Err(error) = self.store.set_state(number, state) {
            // A start takes a revision that is still being applied for one that failed.
            warn!(revision = number, %error, "what became of it can't be written down");
        }
        self.count_change(|changes| changes.failed += 1);
        self.follow_backends([]);
        self.note(Entry::new(
            "revision",
            format!("revision {number} failed, what was in force stays: {why}"),
        ));
        self.publish();
        EngineError::Failed(why)
    }

    /// The change is in the kernel, but the disk does not take it: a start would undo it, so it is
    /// undone now.
    fn undo_unwritten(
        &mut self,
        number: RevisionNumber,
        error: &crate::revision::StoreError,
    ) -> EngineError {
        let before = self.running.config.clone();
        let mut why = format!("the result can't be written down, so it was undone: {error}");
        if let Err(error) = self.put_back(&before) {
            why = format!("{why}; and going back failed as well: {error:#}");
        }
        self.failed(number, why)
    }

    /// Takes a candidate that is in the kernel and on disk for what runs.
    pub(super) fn run_as(&mut self, number: RevisionNumber, candidate: &Candidate) {
        let before = std::mem::replace(
            &mut self.running,
            Running {
                number: Some(number),
                config: candidate.config.clone(),
                text: candidate.text.clone(),
                base: candidate.base.clone(),
                file_digest: candidate.file_digest.clone(),
            },
        );
        if self.running.file_digest.is_none() {
            self.running.file_digest = before.file_digest;
        }
        if before.config.api != self.running.config.api {
            warn!("[api] takes effect when the controller is started again");
        }
        self.follow_backends([]);
        self.follow_config();
    }

    /// Tells the parts that work by the configuration what it is now.
    pub(super) fn follow_config(&mut self) {
        self.follow_targets();
        self.alerts.configure(&self.running.config.alerts);
        let config = &self.running.config;
        for warning in nat_sources::warnings(config) {
            warn!("{warning}");
        }
        self.facts
            .send_modify(|facts| std::sync::Arc::make_mut(facts).configure(config));
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
        let Some(trial) = self.trial.as_mut().filter(|trial| trial.wants_confirm()) else {
            return Err(conflict("no change waits to be confirmed".into()));
        };
        let number = trial.number;
        if let Some(asked) = asked.filter(|asked| *asked != number) {
            let message = format!("revision {number} waits to be confirmed, not {asked}");
            return Err(conflict(message));
        }
        let state_dir = self.running.config.node.state_dir.clone();
        if trial.confirm() {
            // What it was baking for goes on; only the deadline falls away.
            trial.deadlines.keep(&state_dir, number)?;
        } else {
            self.store.set_state(number, RevisionState::Applied)?;
            self.trial = None;
        }
        info!(revision = number, who = %caller, "confirmed");
        self.note(Entry::new(
            "revision",
            format!("revision {number} was confirmed by {caller}"),
        ));
        self.publish();
        Ok(self.store.record(number)?.info.clone())
    }

    pub(super) fn rollback(
        &mut self,
        to: Option<RevisionNumber>,
        why: Option<&str>,
        caller: &Caller,
    ) -> EngineResult<Applied> {
        let why = why.map(one_line);
        if let Some(number) = self.trial.as_ref().map(|trial| trial.number) {
            let parent = self.store.record(number).ok().and_then(|r| r.info.parent);
            if to.is_none() || to == parent {
                return self.end_trial(caller, why.as_deref());
            }
            self.end_trial(caller, why.as_deref())?;
        }
        let candidate = self.candidate(&Change::Revision(to))?;
        let terms = Terms {
            force: Vec::new(),
            is_rollback: true,
            who: caller.to_string(),
            why,
            bake: SignedDuration::ZERO,
            confirm: None,
        };
        self.change(&candidate, &terms)
    }

    /// An operator ends a trial.
    fn end_trial(&mut self, caller: &Caller, why: Option<&str>) -> EngineResult<Applied> {
        let said = why.map_or_else(String::new, |why| format!(": {why}"));
        let Some(trial) = &self.trial else {
            let message = "no change is under way";
            return Err(EngineError::Conflict(message.into()));
        };
        let number = trial.number;
        let plan = self.plan_back()?;
        self.revert(&format!("{caller} asked for it{said}"))?;
        Ok(Applied {
            revision: Some(self.store.record(number)?.info.clone()),
            plan,
        })
    }

    fn begin_trial(&mut self, number: RevisionNumber, plan: &Plan, terms: &Terms) -> Option<Trial> {
        if terms.bake.is_zero() && terms.confirm.is_none() {
            return None;
        }
        let vips = plan.vips.iter().map(|vip| vip.vip.clone()).collect();
        Some(self.new_trial(number, vips))
    }
}

/// What the controller knows of a VIP.
fn facts(pair: &Pair<'_>, preview: &Preview, traffic: &Traffic) -> VipFacts {
    let find = |vip: Option<&config::Vip>| {
        let service = ServiceId::of(vip?);
        preview.vips.iter().find(|vip| vip.service == service)
    };
    let (old, new) = (find(pair.before), find(pair.after));
    let before = old.and_then(|vip| vip.before.as_ref());
    let counted = before.and_then(|before| traffic.vip(&before.name));
    let load = counted.map_or_else(Load::default, |counted| Load {
        new_flows_per_s: counted.rates.new_flows_per_s,
        peak_new_flows_per_s: counted.peak_new_flows_per_s,
        packets_per_s: counted.rates.packets_per_s,
    });
    VipFacts {
        before: before.map(side),
        after: new.and_then(|vip| vip.after.as_ref()).map(side),
        slots_moved: old.map_or(0, |vip| vip.slots_moved),
        load,
    }
}

fn side(side: &VipSide) -> Side {
    let members = side.members.iter();
    Side {
        ring_size: side.ring_size,
        members: members
            .map(|member| SideMember {
                backend: member.backend.clone(),
                address: member.address,
                port: member.port,
                weight: member.weight,
                state: member.wanted,
                eligible: member.eligible,
                proven: member.proven,
                slots: member.slots,
            })
            .collect(),
    }
}

/// Guards that would have refused, but for those who forced them.
fn forced(plan: &Plan) -> Vec<Guard> {
    let results = plan.vips.iter().flat_map(|vip| &vip.guards);
    let broken = results.filter(|result| result.verdict == GuardVerdict::Forced);
    let mut guards: Vec<Guard> = broken.map(|result| result.guard).collect();
    guards.sort_unstable();
    guards.dedup();
    guards
}

/// What the guards say, in words.
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
