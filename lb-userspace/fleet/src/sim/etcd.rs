//! An etcd in memory, which checks what is written.

use std::collections::{BTreeMap, BTreeSet};

use lb_api::{FleetPhase, FleetRolloutState};

use crate::{
    snapshot::{Keys, Snapshot},
    store::{Committed, Condition, Kv, Listing, Txn, Write},
};

const LEASE_MS: u64 = 10_000;

#[derive(Clone, Default)]
pub(super) struct Etcd {
    revision: i64,
    kvs: BTreeMap<String, Kv>,
    /// All values that keys ever had.
    pub(super) history: Vec<Kv>,
    /// When each lease ends.
    leases: BTreeMap<i64, u64>,
    next_lease: i64,
    /// Nodes that have claimed candidates.
    pub(super) claims: BTreeSet<(String, u64)>,
    /// Texts that were head, and those of failed rollouts.
    pub(super) heads: Vec<String>,
    pub(super) failed: BTreeSet<u64>,
    /// Out of space: reads and leases work, writes fail.
    pub(super) is_full: bool,
    /// Successful writes of each key.
    pub(super) writes: BTreeMap<String, u64>,
}

impl Etcd {
    pub(super) fn list(&self) -> Listing {
        Listing {
            revision: self.revision,
            kvs: self.kvs.values().cloned().collect(),
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let mut keys = Keys::default();
        keys.list(self.list(), 0);
        let decoded = keys.decode().map(|decoded| (*decoded).clone());
        let snapshot = decoded.unwrap_or_else(|| Ok(Snapshot::default()));
        snapshot.expect("the simulation writes only what it can read")
    }

    pub(super) fn grant(&mut self, now_ms: u64) -> i64 {
        self.next_lease += 1;
        self.leases.insert(self.next_lease, now_ms + LEASE_MS);
        self.next_lease
    }

    pub(super) fn keep_alive(&mut self, lease: i64, now_ms: u64) -> bool {
        let until = self.leases.get_mut(&lease);
        until.map(|until| *until = now_ms + LEASE_MS).is_some()
    }

    pub(super) fn expire(&mut self, now_ms: u64) {
        let ended: Vec<i64> = self
            .leases
            .iter()
            .filter(|(_, until)| **until <= now_ms)
            .map(|(lease, _)| *lease)
            .collect();
        for lease in ended {
            self.leases.remove(&lease);
            let count = self.kvs.len();
            self.kvs.retain(|_, kv| kv.lease != lease);
            if self.kvs.len() < count {
                self.revision += 1;
            }
        }
    }

    /// One that was just created.
    pub(super) fn empty() -> Self {
        Self {
            revision: 1,
            ..Self::default()
        }
    }

    /// Replaces everything by an older state. Leases end.
    pub(super) fn restore(&mut self, old: &Self) {
        self.revision = old.revision;
        self.kvs = old.kvs.clone();
        self.kvs.retain(|_, kv| kv.lease == 0);
        self.leases.clear();
    }

    pub(super) fn commit(&mut self, txn: &Txn, lease: i64) -> Committed {
        let holds = |condition: &Condition| {
            let (Condition::Modified(key, _) | Condition::Created(key, _) | Condition::Exists(key)) =
                condition;
            let kv = self.kvs.get(key);
            match condition {
                Condition::Modified(_, at) => kv.map_or(0, |kv| kv.modified) == *at,
                Condition::Created(_, at) => kv.map_or(0, |kv| kv.created) == *at,
                Condition::Exists(_) => kv.is_some(),
            }
        };
        let is_leased = |write: &Write| matches!(write, Write::Put { leased: true, .. });
        let has_lease = !txn.writes.iter().any(is_leased) || self.leases.contains_key(&lease);
        if !has_lease || !txn.conditions.iter().all(holds) {
            return Committed::Conflict;
        }
        let before = self.snapshot();
        self.revision += 1;
        for write in &txn.writes {
            match write {
                Write::Put { key, value, leased } => {
                    let created = self.kvs.get(key).map_or(self.revision, |kv| kv.created);
                    let kv = Kv {
                        key: key.clone(),
                        value: value.clone(),
                        created,
                        modified: self.revision,
                        lease: if *leased { lease } else { 0 },
                    };
                    self.history.push(kv.clone());
                    *self.writes.entry(key.clone()).or_default() += 1;
                    self.kvs.insert(key.clone(), kv);
                }
                Write::Delete(key) => drop(self.kvs.remove(key)),
            }
        }
        self.check(&before, txn);
        Committed::At(self.revision)
    }

    /// The rules that hold for every write.
    fn check(&mut self, before: &Snapshot, txn: &Txn) {
        let after = self.snapshot();
        for (id, node) in &after.nodes {
            let Some(result) = &node.result else { continue };
            let known = before
                .node(id)
                .and_then(|node| node.result_of(result.revision));
            let is_claim = result.phase == FleetPhase::Baking
                && known.is_none_or(|known| known.phase != FleetPhase::Baking);
            if !is_claim {
                continue;
            }
            // Rules 1 and 4: a wave that has begun, after a preflight that all have passed.
            let rollout = before.rollout.as_ref().expect("a claim has a rollout");
            assert_eq!(rollout.revision, result.revision);
            assert_eq!(rollout.state, FleetRolloutState::Wave, "{id} claims");
            assert_eq!(rollout.dead(), None, "{id} claims");
            assert!(
                rollout.begun().any(|node| node == id),
                "{id} claims too early"
            );
            for other in &rollout.nodes {
                let result = before
                    .node(other)
                    .and_then(|n| n.result_of(rollout.revision));
                let phase = result.expect("a passed preflight").phase;
                assert_ne!(phase, FleetPhase::Refused, "{other} has refused");
            }
            let claim = (id.clone(), result.revision);
            assert!(self.claims.insert(claim), "{id} claims again");
        }
        let old = before.rollout.as_ref().map(|entry| &entry.value);
        let new = after.rollout.as_ref().map(|entry| &entry.value);
        if let Some(new) = new
            && new.dead().is_some()
        {
            self.failed.insert(new.revision);
        }
        let head = after.head.as_ref().expect("heads stay");
        if before
            .head
            .as_ref()
            .is_none_or(|old| old.value != head.value)
        {
            self.heads.push(head.digest.clone());
            assert!(
                !self.failed.contains(&head.revision),
                "a failed rollout became head"
            );
            // Rule 3: on the leader's fence, after all waves.
            if let Some(rollout) = old {
                assert_eq!(rollout.revision, head.revision);
                let leader = before
                    .leader
                    .as_ref()
                    .expect("only a leader moves the head");
                let fence = Condition::Created("leader".to_owned(), leader.created);
                assert!(txn.conditions.contains(&fence));
                let new = new.expect("it is confirmed");
                assert_eq!(new.verdicts.len(), new.waves.len());
                assert_eq!(new.waves.iter().flatten().count(), new.nodes.len());
                for id in &new.nodes {
                    let result = before
                        .node(id)
                        .and_then(|node| node.result_of(head.revision));
                    assert_eq!(result.map(|result| result.phase), Some(FleetPhase::Baked));
                }
            }
        }
    }
}
