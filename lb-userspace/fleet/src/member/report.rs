//! What a node writes about itself: that it lives, and what it saw of a rollout.

use lb_api::{FleetPhase, FleetRolloutState};

use super::{Input, Member, RIVAL_MS, Standing, is_alive, put};
use crate::{
    memory::{Kind, Local},
    node::{Observed, Outcome, Trial},
    records::{Live, NodeResult, Rollout, Seen, node_key},
    snapshot::Snapshot,
    store::{Condition, Txn},
};

/// Counters at the start of a wave.
#[derive(Debug)]
pub(super) struct Watched {
    revision: u64,
    position: usize,
    since_ms: u64,
    before: Observed,
}

impl Watched {
    pub(super) fn new(rollout: &Rollout, input: &Input<'_>) -> Self {
        Self {
            revision: rollout.revision,
            position: rollout.position,
            since_ms: input.now_ms,
            before: input.observed,
        }
    }
}

impl Member {
    /// Counts during the wave on trial. The nodes of the wave begin when they claim the candidate, and end
    /// with their bake; the others count for the bake time from when they see the wave.
    pub(super) fn watch(&mut self, input: &Input<'_>, rollout: &Rollout) {
        if rollout.state != FleetRolloutState::Wave || !is_alive(rollout) {
            return;
        }
        let (revision, position) = (rollout.revision, rollout.position);
        if self.seen.0 != revision {
            self.seen = (revision, Default::default());
        }
        let wave = rollout.waves.get(position);
        let is_changed = wave.is_some_and(|wave| wave.contains(&self.settings.node));
        let watched = self.watched.as_ref();
        let watched = watched.filter(|w| (w.revision, w.position) == (revision, position));
        let Some(watched) = watched else {
            if !is_changed && rollout.nodes.contains(&self.settings.node) {
                self.watched = Some(Watched::new(rollout, input));
            }
            return;
        };
        let is_over = if is_changed {
            self.has_baked(input)
        } else {
            let age_ms = input.now_ms.saturating_sub(watched.since_ms);
            age_ms >= u64::from(rollout.bake_s) * 1000
        };
        if is_over
            && !self.seen.1.contains_key(&position)
            && let Some(seen) = Seen::between(&watched.before, &input.observed)
        {
            self.seen.1.insert(position, seen);
        }
    }

    /// Whether the pending candidate has passed its trial on this node.
    fn has_baked(&self, input: &Input<'_>) -> bool {
        let pending = self.memory.pending.as_ref();
        let Some(pending) = pending.filter(|pending| pending.kind == Kind::Candidate) else {
            return false;
        };
        let passed = matches!(
            input.outcome,
            Some(Outcome::Trial(Trial::AwaitsConfirm) | Outcome::Kept)
        );
        pending.local == Local::Unchanged || (passed && pending.local != Local::Unknown)
    }

    pub(super) fn own_result<'s>(
        &self,
        snapshot: &'s Snapshot,
        revision: u64,
    ) -> Option<&'s NodeResult> {
        snapshot.node(&self.settings.node)?.result_of(revision)
    }

    /// Writes the result of this node, if it differs from what is in etcd.
    pub(super) fn result_txn(
        &self,
        input: &Input<'_>,
        snapshot: &Snapshot,
        rollout: &Rollout,
    ) -> Option<Txn> {
        let revision = rollout.revision;
        if rollout.state.is_over() {
            return None;
        }
        let known = self.own_result(snapshot, revision);
        let of = |of: u64| of == revision;
        let (phase, reason) = if let Some(ended) = &self.memory.ended
            && of(ended.revision)
        {
            (ended.phase, ended.reason.clone())
        } else if let Some(pending) = &self.memory.pending
            && of(pending.revision)
            && pending.kind == Kind::Candidate
        {
            let phase = match self.has_baked(input) {
                true => FleetPhase::Baked,
                false => FleetPhase::Baking,
            };
            (phase, String::new())
        } else if let Some(known) = known {
            (known.phase, known.reason.clone())
        } else if let Some((planned, refusal)) = &self.planned
            && of(*planned)
        {
            match refusal {
                Some(refusal) => (FleetPhase::Refused, refusal.clone()),
                None => (FleetPhase::Planned, String::new()),
            }
        } else {
            return None;
        };
        let mut seen = known.map(|known| known.seen.clone()).unwrap_or_default();
        if of(self.seen.0) {
            seen.extend(self.seen.1.iter().map(|(wave, seen)| (*wave, *seen)));
        }
        let result = NodeResult {
            revision,
            phase,
            reason,
            seen,
        };
        if known == Some(&result) {
            return None;
        }
        let key = node_key(&self.settings.node, "result");
        Some(Txn {
            // A fleet that was wiped or imported gets no results of the one before.
            conditions: vec![Condition::Exists("rollout".to_owned())],
            writes: vec![put(key, &result, false)],
        })
    }

    /// Writes that the node lives, with its state, if that differs from what is in etcd.
    pub(super) fn live_txn(&mut self, input: &Input<'_>, snapshot: &Snapshot) -> Option<Txn> {
        let entry = snapshot.node(&self.settings.node);
        let is_joined = entry.is_some_and(|entry| entry.spec.is_some());
        let is_shown = matches!(self.standing, Standing::Follows | Standing::Refuses(_));
        if input.lease == 0 || !is_joined || !is_shown {
            return None;
        }
        let (state, reason) = self.state.clone();
        let live = Live {
            version: self.facts.version.clone(),
            state,
            reason,
            revision: self.memory.head.as_ref().map(|head| head.revision),
            digest: input.running.digest.clone(),
            exchange: self.settings.exchange.clone(),
        };
        let known = entry.and_then(|entry| entry.live.as_ref());
        if known.is_some_and(|known| known.value == live && known.lease == input.lease) {
            return None;
        }
        // Another machine has written over it. Two would write as fast as they can.
        if let Some((lease, at)) = self.lived
            && lease == input.lease
            && known.is_some_and(|known| known.lease != lease)
        {
            self.rival_ms = Some(input.now_ms);
            if input.now_ms.saturating_sub(at) < RIVAL_MS / 2 {
                return None;
            }
        }
        let node = &self.settings.node;
        Some(Txn {
            conditions: vec![Condition::Exists(node_key(node, "spec"))],
            writes: vec![put(node_key(node, "live"), &live, true)],
        })
    }
}
