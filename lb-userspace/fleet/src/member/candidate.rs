//! A candidate on this node: planned, claimed, applied, kept or undone.

use lb_api::{FleetNodeState, FleetPhase, FleetRolloutState};

use super::{Action, Asked, CLAIM_MS, Input, Member, Standing, Then, is_alive, put, same_rollout};
use crate::{
    memory::{Ended, Local, Pending},
    node::{How, Outcome, Trial},
    records::{Head, NodeResult, Rollout, node_key},
    snapshot::Snapshot,
    store::Txn,
};

/// What happens to a candidate on trial.
enum Fate {
    /// Its rollout goes on.
    Waits,
    /// It is head.
    IsHead,
    /// It must be undone; why.
    Undo(String),
}

impl Member {
    /// Plans the candidate of a rollout that asks for it.
    pub(super) fn preflight(
        &self,
        input: &Input<'_>,
        snapshot: &Snapshot,
        rollout: &Rollout,
    ) -> Option<Action> {
        let revision = rollout.revision;
        let is_asked = rollout.state == FleetRolloutState::Preflight
            && is_alive(rollout)
            && rollout.nodes.contains(&self.settings.node);
        let is_done = self.planned.as_ref().is_some_and(|(of, _)| *of == revision)
            || self.own_result(snapshot, revision).is_some();
        if !is_asked || is_done {
            return None;
        }
        let asked = Asked::Rollout(revision);
        match self.local_refusal(input, rollout.override_local)? {
            Some(refusal) => self.refusal(snapshot, revision, refusal),
            None => Some(Action::Plan {
                asked,
                digest: rollout.digest.clone(),
                force: rollout.force.clone(),
            }),
        }
    }

    /// Why this node can't take part, apart from what its plan says. None: it can't say yet.
    #[expect(
        clippy::option_option,
        reason = "no answer yet, no refusal, and a refusal are three cases"
    )]
    pub(super) fn local_refusal(
        &self,
        input: &Input<'_>,
        override_local: bool,
    ) -> Option<Option<String>> {
        let local = input.running.local;
        if input.running.trial.is_some() {
            let why = format!("local revision {local} is on trial: confirm it or roll it back");
            return Some(Some(why));
        }
        match self.state.0 {
            FleetNodeState::InSync => Some(None),
            // What it could not apply is replaced: by the mended revision, or the one before.
            FleetNodeState::Behind
                if self.retry.has_failed() && self.is_unchanged(input.running) =>
            {
                Some(None)
            }
            FleetNodeState::Differs if override_local => Some(None),
            FleetNodeState::Differs => Some(Some(format!(
                "VIPs were changed on this node (local revision {local}): `evenkeel fleet join` there returns \
                 to the head, `--override-local` replaces the change"
            ))),
            _ => None,
        }
    }

    fn refusal(&self, snapshot: &Snapshot, revision: u64, reason: String) -> Option<Action> {
        let result = NodeResult {
            revision,
            phase: FleetPhase::Refused,
            reason,
            seen: Default::default(),
        };
        let key = node_key(&self.settings.node, "result");
        let txn = Txn {
            conditions: vec![same_rollout(snapshot)],
            writes: vec![put(key, &result, false)],
        };
        Some(Action::Commit(txn, Then::Done))
    }

    /// Claims the candidate when this node's wave has begun: a write that succeeds only if the rollout is
    /// as it was read. So no node begins with a candidate after its rollout has failed.
    pub(super) fn claim(
        &mut self,
        input: &Input<'_>,
        snapshot: &Snapshot,
        rollout: &Rollout,
    ) -> Option<Action> {
        let revision = rollout.revision;
        let has_begun = rollout.state == FleetRolloutState::Wave
            && is_alive(rollout)
            && rollout.begun().any(|node| *node == self.settings.node);
        if !has_begun
            || self
                .memory
                .ended
                .as_ref()
                .is_some_and(|e| e.revision == revision)
        {
            return None;
        }
        let result = self.own_result(snapshot, revision)?;
        let is_ours = |(of, _): &(u64, u64)| *of == revision;
        match (result.phase, self.claimed.filter(is_ours)) {
            (FleetPhase::Planned, _) => {}
            // A claim whose answer was lost.
            (FleetPhase::Baking, Some((_, sent_ms))) => {
                self.begin_candidate(rollout, input, sent_ms);
                return Some(Action::Save);
            }
            (FleetPhase::Baking | FleetPhase::Baked, _) => {
                let why = "the controller was restarted before it applied the candidate";
                return self.give_up(rollout, why.to_owned());
            }
            _ => return None,
        }
        // The node may have been changed since it planned.
        if let Some(why) = self.local_refusal(input, rollout.override_local)? {
            return self.give_up(rollout, why);
        }
        self.claimed = Some((revision, input.now_ms));
        let result = NodeResult {
            phase: FleetPhase::Baking,
            ..result.clone()
        };
        let key = node_key(&self.settings.node, "result");
        let txn = Txn {
            conditions: vec![same_rollout(snapshot)],
            writes: vec![put(key, &result, false)],
        };
        Some(Action::Commit(txn, Then::Claimed))
    }

    /// Ends a candidate that was not applied.
    fn give_up(&mut self, rollout: &Rollout, why: String) -> Option<Action> {
        self.memory.ended = Some(Ended {
            revision: rollout.revision,
            phase: FleetPhase::Failed,
            reason: why,
        });
        Some(Action::Save)
    }

    /// Goes on with the pending candidate.
    pub(super) fn settle_candidate(
        &mut self,
        input: &Input<'_>,
        snapshot: Option<&Snapshot>,
    ) -> Option<Action> {
        let pending = self.memory.pending.clone()?;
        let fate = self.fate(input, snapshot, &pending);
        let local = match pending.local {
            Local::Unknown => return self.settle_unknown(input, snapshot, &pending, &fate),
            Local::Unchanged => {
                match fate {
                    Fate::Waits => {}
                    Fate::IsHead => self.keep(input),
                    Fate::Undo(why) => self.end(FleetPhase::Undone, why),
                }
                return None;
            }
            Local::Revision(local) => local,
        };
        match (input.outcome?, fate) {
            (Outcome::Trial(_), Fate::Undo(why)) => Some(Action::RollBack { local, why }),
            (Outcome::Trial(Trial::AwaitsConfirm), Fate::IsHead) => Some(Action::Confirm { local }),
            (Outcome::Trial(Trial::AwaitsConfirm), Fate::Waits) => self.extend(input, local),
            (Outcome::Trial(Trial::Baking), _) => None,
            (Outcome::Kept, Fate::IsHead) => {
                self.keep(input);
                None
            }
            (Outcome::Kept, Fate::Waits) => None,
            (Outcome::Kept, Fate::Undo(why)) => {
                let why = format!("{why}; but it was confirmed on the node itself");
                self.end(FleetPhase::Failed, why);
                None
            }
            (Outcome::RolledBack { why, .. }, fate) => {
                let phase = match fate {
                    Fate::Undo(_) => FleetPhase::Undone,
                    _ => FleetPhase::Failed,
                };
                self.end(phase, why.clone());
                None
            }
            (Outcome::Unknown, _) => {
                let why = format!("the node does not know local revision {local} any more");
                self.end(FleetPhase::Failed, why);
                None
            }
        }
    }

    /// Applies a claimed candidate, or finds out whether an earlier process did.
    fn settle_unknown(
        &mut self,
        input: &Input<'_>,
        snapshot: Option<&Snapshot>,
        pending: &Pending,
        fate: &Fate,
    ) -> Option<Action> {
        let Some(since) = self.applying_ms else {
            if input.running.digest == pending.digest && input.running.local != pending.before {
                if let Some(pending) = &mut self.memory.pending {
                    pending.local = Local::Revision(input.running.local);
                }
            } else {
                let why = "the controller ended while it applied the candidate";
                self.end(FleetPhase::Failed, why.to_owned());
            }
            return None;
        };
        if let Fate::Undo(why) = fate {
            self.applying_ms = None;
            self.end(FleetPhase::Undone, why.clone());
            return None;
        }
        if input.now_ms.saturating_sub(since) > CLAIM_MS {
            self.applying_ms = None;
            let why = "the node was too slow to apply the candidate";
            self.end(FleetPhase::Failed, why.to_owned());
            return None;
        }
        let rollout = snapshot?.rollout.as_ref()?;
        let how = How {
            bake_s: rollout.bake_s,
            confirm_s: Some(self.confirm_s(snapshot)),
            force: rollout.force.clone(),
            origin: format!("fleet revision {}", pending.revision),
            why: rollout.why.clone(),
        };
        Some(Action::Apply {
            digest: pending.digest.clone(),
            how,
        })
    }

    fn fate(&self, input: &Input<'_>, snapshot: Option<&Snapshot>, pending: &Pending) -> Fate {
        let confirm_ms = u64::from(self.confirm_s(snapshot)) * 1000;
        let age = self.contact_age_ms(input);
        let lost = || {
            let why = format!("no contact with the fleet for {} s", age / 1000);
            (age > confirm_ms).then_some(Fate::Undo(why))
        };
        let Some(snapshot) = snapshot.filter(|_| self.standing.follows()) else {
            return match &self.standing {
                Standing::Refuses(why) => Fate::Undo(why.clone()),
                Standing::NotJoined => Fate::Undo("the node has left the fleet".to_owned()),
                _ => lost().unwrap_or(Fate::Waits),
            };
        };
        let is_pending =
            |head: &Head| head.revision == pending.revision && head.digest == pending.digest;
        if snapshot.head.as_ref().is_some_and(|head| is_pending(head)) {
            return Fate::IsHead;
        }
        let rollout = snapshot.rollout.as_ref();
        let rollout =
            rollout.filter(|r| r.revision == pending.revision && r.digest == pending.digest);
        let Some(rollout) = rollout else {
            return Fate::Undo("its rollout has ended".to_owned());
        };
        if let Some(why) = rollout.dead() {
            return Fate::Undo(why.to_owned());
        }
        lost()
            .or_else(|| self.stuck(input, rollout, confirm_ms))
            .unwrap_or(Fate::Waits)
    }

    /// An etcd that is read and can't be written keeps a rollout as it is, and nobody can end it there.
    fn stuck(&self, input: &Input<'_>, rollout: &Rollout, confirm_ms: u64) -> Option<Fate> {
        let age_ms = |since: u64| input.now_ms.saturating_sub(since);
        let unwritten_ms = self.unwritten_ms.map_or(0, age_ms);
        if unwritten_ms > confirm_ms {
            let why = format!("etcd has taken no writes for {} s", unwritten_ms / 1000);
            return Some(Fate::Undo(why));
        }
        let still_ms = self.progress.map_or(0, |(_, since)| age_ms(since));
        let limit_ms = crate::leader::longest_wave_ms(rollout) + confirm_ms;
        let may_wait = rollout.state != FleetRolloutState::Wave || rollout.paused.is_some();
        (!may_wait && still_ms > limit_ms).then(|| {
            let why = format!("the rollout has not moved for {} s", still_ms / 1000);
            Fate::Undo(why)
        })
    }

    fn confirm_s(&self, snapshot: Option<&Snapshot>) -> u32 {
        let rollout = snapshot.and_then(|snapshot| snapshot.rollout.as_ref());
        let own = self.settings.confirm_s;
        rollout.map_or(own, |rollout| rollout.confirm_s.min(own))
    }

    /// Moves the deadline to `confirm_s` after the last contact, six times in this time.
    fn extend(&self, input: &Input<'_>, local: u64) -> Option<Action> {
        let snapshot = input.snapshot.and_then(Result::ok);
        let confirm_s = self.confirm_s(snapshot);
        let period_ms = u64::from(confirm_s) * 1000 / 6;
        let contact = input.contact_ms?;
        let is_due = self
            .extended_ms
            .is_none_or(|at| input.now_ms.saturating_sub(at) >= period_ms && contact > at);
        let age_s = u32::try_from(self.contact_age_ms(input).div_ceil(1000)).unwrap_or(u32::MAX);
        let left_s = confirm_s.saturating_sub(age_s);
        (is_due && left_s > 0).then_some(Action::Extend {
            local,
            confirm_s: left_s,
        })
    }
}
