//! What a node does for the fleet: a state machine without I/O and clocks.
//!
//! It looks at everything it knows and returns the next action. It is asked again after each action, and
//! whenever something changes. Nothing depends on the order of events or on seeing all of them.

mod answer;
mod candidate;
mod head;
mod report;
mod standing;

use lb_api::{ExplainRequest, Explanation, FleetNodeState, FleetPhase, Guard};

use crate::{
    memory::{Ended, Kind, Known, Local, Memory, Pending},
    node::{Facts, How, NodeError, Observed, Outcome, Running},
    records::{self, Answer, Rollout, Seen, node_key},
    snapshot::Snapshot,
    store::{Condition, Txn, Write},
};
use report::Watched;
pub(crate) use standing::{Standing, standing};

/// etcd that has not answered for this long counts as away: the node does nothing new.
const AWAY_MS: u64 = 10_000;

/// Of two machines with one name, each writes once in this time.
const RIVAL_MS: u64 = 2 * 1000 * crate::agent::LEASE_S as u64;

/// A claim is carried out within this time, or not at all.
const CLAIM_MS: u64 = 10_000;

/// What a node knows of itself.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) node: String,
    pub(crate) rack: Option<String>,
    pub(crate) exchange: Option<String>,
    pub(crate) bake_s: u32,
    pub(crate) confirm_s: u32,
}

/// What the next action is decided from.
pub(crate) struct Input<'a> {
    /// Monotonic clock.
    pub(crate) now_ms: u64,
    /// Start of the newest request that a quorum of etcd has answered.
    pub(crate) contact_ms: Option<u64>,
    /// What is in etcd, or why it can't be read; none before the first answer.
    pub(crate) snapshot: Option<Result<&'a Snapshot, &'a str>>,
    /// The node's lease; 0: none.
    pub(crate) lease: i64,
    pub(crate) running: &'a Running,
    /// Outcome of the local revision [`Member::pending_local`].
    pub(crate) outcome: Option<&'a Outcome>,
    pub(crate) observed: Observed,
}

/// What is to happen next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Write the memory to disk; then [`Member::saved`].
    Save,
    /// Write to etcd; if that succeeded, [`Member::committed`].
    Commit(Txn, Then),
    /// Let the node plan a text; then [`Member::planned`].
    Plan {
        asked: Asked,
        digest: String,
        force: Vec<Guard>,
    },
    /// Let the node explain a packet; then [`Member::explained`].
    Explain { id: String, packet: ExplainRequest },
    /// Let the node apply a text; then [`Member::applied`].
    Apply { digest: String, how: How },
    /// Move the deadline to confirm; then [`Member::extended`].
    Extend { local: u64, confirm_s: u32 },
    /// Remove the deadline to confirm.
    Confirm { local: u64 },
    /// Roll back.
    RollBack { local: u64, why: String },
}

/// What a commit was for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Nothing follows.
    Done,
    /// The node's lease is on the key that says it lives.
    Lives,
    /// The node may apply the candidate.
    Claimed,
    /// The node belongs to the imported fleet.
    Adopted { id: String, head: Known },
}

/// Who asked for a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The rollout of this revision.
    Rollout(u64),
    /// A question of `fleet plan`.
    Question(String),
}

/// The node side.
#[derive(Debug)]
pub(crate) struct Member {
    settings: Settings,
    facts: Facts,
    memory: Memory,
    saved: Memory,
    started_ms: u64,
    standing: Standing,
    /// State and reason, as published.
    state: (FleetNodeState, String),
    /// Since when an apply is due that this process has recorded in the memory.
    applying_ms: Option<u64>,
    /// Refusal of a rollout's candidate: revision and text.
    planned: Option<(u64, Option<String>)>,
    /// The answer to a question.
    answered: Option<(String, Answer)>,
    watched: Option<Watched>,
    /// What was seen of the waves of a revision.
    seen: (u64, std::collections::BTreeMap<usize, Seen>),
    extended_ms: Option<u64>,
    retry: head::Retry,
    /// Why the memory can't be read or written.
    disk_error: Option<String>,
    /// A claim of this process, whose answer may have been lost: revision, and when it was sent.
    claimed: Option<(u64, u64)>,
    /// With which lease this process last wrote that the node lives, and when.
    lived: Option<(i64, u64)>,
    /// When another machine was last seen to write as this node.
    rival_ms: Option<u64>,
    /// Since when a result of this node is not in etcd.
    unwritten_ms: Option<u64>,
    /// The version of the rollout, and since when it is that one.
    progress: Option<(i64, u64)>,
}

impl Member {
    pub(crate) fn new(settings: Settings, facts: Facts, memory: Memory, now_ms: u64) -> Self {
        Self {
            settings,
            facts,
            saved: memory.clone(),
            memory,
            started_ms: now_ms,
            standing: Standing::Unread,
            state: Default::default(),
            applying_ms: None,
            planned: None,
            answered: None,
            watched: None,
            seen: Default::default(),
            extended_ms: None,
            retry: head::Retry::default(),
            disk_error: None,
            claimed: None,
            lived: None,
            rival_ms: None,
            unwritten_ms: None,
            progress: None,
        }
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    pub(crate) fn standing(&self) -> &Standing {
        &self.standing
    }

    pub(crate) fn state(&self) -> &(FleetNodeState, String) {
        &self.state
    }

    /// The local revision whose outcome the next step needs.
    pub(crate) fn pending_local(&self) -> Option<u64> {
        match self.memory.pending.as_ref()?.local {
            Local::Revision(local) => Some(local),
            Local::Unknown | Local::Unchanged => None,
        }
    }

    /// Changes the memory on behalf of a command: `init`, `join`, `leave`, `import`. The next action is
    /// to save it. What was learned of another fleet, whose revisions may have the same numbers, is
    /// forgotten.
    pub(crate) fn set_memory(&mut self, memory: Memory) {
        let (settings, facts) = (self.settings.clone(), self.facts.clone());
        *self = Self {
            saved: self.saved.clone(),
            started_ms: self.started_ms,
            disk_error: self.disk_error.take(),
            lived: self.lived,
            ..Self::new(settings, facts, memory, self.started_ms)
        };
    }

    /// The next action; none if there is nothing to do now.
    pub(crate) fn step(&mut self, input: &Input<'_>) -> Option<Action> {
        self.standing = match input.snapshot {
            None => Standing::Unread,
            Some(Err(_)) if self.memory.fleet.is_none() => Standing::NotJoined,
            Some(Err(why)) => Standing::Refuses(why.to_owned()),
            Some(Ok(snapshot)) => {
                standing(&self.memory, &self.facts, &self.settings.node, snapshot)
            }
        };
        let snapshot = input.snapshot.and_then(Result::ok);
        if let Some(snapshot) = snapshot.filter(|_| self.standing.follows()) {
            self.memory.newest = self.memory.newest.max(snapshot.newest());
        }
        self.note_progress(input, snapshot);
        let settled = match self.memory.pending.as_ref().map(|pending| pending.kind) {
            Some(Kind::Candidate) => self.settle_candidate(input, snapshot),
            Some(Kind::Head) => self.settle_head(input, snapshot),
            None => None,
        };
        self.state = self.current_state(input, snapshot);
        if self.memory != self.saved {
            // The others learn why this node does nothing.
            let told = self.disk_error.is_some().then_some(snapshot).flatten();
            let told = told.and_then(|snapshot| self.live_txn(input, snapshot));
            return Some(told.map_or(Action::Save, |txn| Action::Commit(txn, Then::Lives)));
        }
        if settled.is_some() {
            return settled;
        }
        let snapshot = snapshot?;
        if let Standing::Adopts { id, head } = self.standing.clone() {
            let txn = self.spec_txn(snapshot, true)?;
            return Some(Action::Commit(txn, Then::Adopted { id, head }));
        }
        if let Some(txn) = self.live_txn(input, snapshot) {
            return Some(Action::Commit(txn, Then::Lives));
        }
        if !self.standing.follows() || self.is_away(input) {
            return None;
        }
        if let Some(txn) = self.spec_txn(snapshot, false) {
            return Some(Action::Commit(txn, Then::Done));
        }
        if let Some(action) = self.explain(input, snapshot) {
            return Some(action);
        }
        let rollout = snapshot.rollout.as_ref();
        if let Some(rollout) = rollout {
            self.watch(input, rollout);
            if let Some(txn) = self.result_txn(input, snapshot, rollout) {
                self.unwritten_ms.get_or_insert(input.now_ms);
                return Some(Action::Commit(txn, Then::Done));
            }
        }
        self.unwritten_ms = None;
        if self.memory.pending.is_some() {
            return None;
        }
        self.follow_head(input, snapshot)
            .or_else(|| self.preflight(input, snapshot, rollout?))
            .or_else(|| self.claim(input, snapshot, rollout?))
            .or_else(|| self.plan(input, snapshot))
    }

    /// The memory is on disk.
    pub(crate) fn saved(&mut self) {
        self.saved = self.memory.clone();
        self.disk_error = None;
    }

    /// The memory can't be read or written: the node does nothing for the fleet.
    pub(crate) fn not_saved(&mut self, error: String) {
        self.disk_error = Some(error);
    }

    /// A commit has succeeded. It was sent at `sent_ms`.
    pub(crate) fn committed(&mut self, then: Then, input: &Input<'_>, sent_ms: u64) {
        match then {
            Then::Done => {}
            Then::Lives => self.lived = Some((input.lease, input.now_ms)),
            Then::Claimed => {
                if let Some(Ok(snapshot)) = input.snapshot
                    && let Some(rollout) = &snapshot.rollout
                {
                    self.begin_candidate(rollout, input, sent_ms);
                }
            }
            Then::Adopted { id, head } => {
                self.memory.fleet = Some(id);
                self.memory.newest = self.memory.newest.max(head.revision);
                self.memory.head = Some(head);
                self.memory.ended = None;
            }
        }
    }

    /// The node has planned a text: with the reason of a refusal.
    pub(crate) fn planned(&mut self, asked: &Asked, refusal: Option<String>) {
        match asked {
            Asked::Rollout(revision) => self.planned = Some((*revision, refusal)),
            Asked::Question(id) => {
                let answer = Answer {
                    refusal,
                    ..Answer::default()
                };
                self.answered = Some((id.clone(), answer));
            }
        }
    }

    /// The node has explained a packet, or could not.
    pub(crate) fn explained(&mut self, id: &str, explained: Result<Explanation, NodeError>) {
        let answer = match explained {
            Ok(mut explanation) => {
                // etcd is no place for what the secret key makes of a packet.
                explanation.steps.retain(|step| step.step != "hash");
                Answer {
                    explanation: Some(explanation),
                    ..Answer::default()
                }
            }
            Err(error) => Answer {
                refusal: Some(error.to_string()),
                ..Answer::default()
            },
        };
        self.answered = Some((id.to_owned(), answer));
    }

    /// The node has applied the pending text, or could not.
    pub(crate) fn applied(&mut self, result: Result<Option<u64>, NodeError>, now_ms: u64) {
        self.applying_ms = None;
        let Some(pending) = &mut self.memory.pending else {
            return;
        };
        match (result, pending.kind) {
            (Ok(local), _) => pending.local = local.map_or(Local::Unchanged, Local::Revision),
            (Err(error), Kind::Candidate) => self.end(FleetPhase::Failed, error.to_string()),
            (Err(error), Kind::Head) => {
                let revision = pending.revision;
                self.memory.pending = None;
                self.retry.failed(revision, &error.to_string(), now_ms);
            }
        }
    }

    /// The deadline to confirm was moved.
    pub(crate) fn extended(&mut self, now_ms: u64) {
        self.extended_ms = Some(now_ms);
    }

    /// Records that a text will be applied.
    fn begin(&mut self, kind: Kind, revision: u64, digest: &str, input: &Input<'_>) {
        self.memory.pending = Some(Pending {
            kind,
            revision,
            digest: digest.to_owned(),
            before: input.running.local,
            local: Local::Unknown,
        });
        self.applying_ms = Some(input.now_ms);
        self.extended_ms = None;
    }

    fn begin_candidate(&mut self, rollout: &Rollout, input: &Input<'_>, sent_ms: u64) {
        self.watched = Some(Watched::new(rollout, input));
        self.begin(Kind::Candidate, rollout.revision, &rollout.digest, input);
        self.applying_ms = Some(sent_ms);
    }

    /// Notes since when the rollout is as it is.
    fn note_progress(&mut self, input: &Input<'_>, snapshot: Option<&Snapshot>) {
        let rollout = snapshot.and_then(|snapshot| snapshot.rollout.as_ref());
        let modified = rollout.map_or(0, |rollout| rollout.modified);
        if self.progress.is_none_or(|(known, _)| known != modified) {
            self.progress = Some((modified, input.now_ms));
        }
    }

    /// The pending candidate has ended here.
    fn end(&mut self, phase: FleetPhase, reason: String) {
        if let Some(pending) = self.memory.pending.take() {
            self.memory.ended = Some(Ended {
                revision: pending.revision,
                phase,
                reason,
            });
        }
    }

    /// The pending text is head, and this node keeps it.
    fn keep(&mut self, input: &Input<'_>) {
        let Some(pending) = self.memory.pending.take() else {
            return;
        };
        let runs = match pending.local {
            Local::Revision(local) if input.running.local != local => pending.digest.clone(),
            _ => input.running.digest.clone(),
        };
        self.memory.newest = self.memory.newest.max(pending.revision);
        self.memory.head = Some(Known {
            revision: pending.revision,
            digest: pending.digest,
            runs,
        });
        self.memory.take = false;
        self.retry = head::Retry::default();
    }

    fn contact_age_ms(&self, input: &Input<'_>) -> u64 {
        let contact = input.contact_ms.unwrap_or(self.started_ms);
        input.now_ms.saturating_sub(contact)
    }

    fn is_away(&self, input: &Input<'_>) -> bool {
        input.contact_ms.is_none() || self.contact_age_ms(input) > AWAY_MS
    }

    /// Whether the node runs what it has confirmed.
    fn is_unchanged(&self, running: &Running) -> bool {
        let head = self.memory.head.as_ref();
        head.is_some_and(|head| head.runs == running.digest)
    }

    /// Writes what the node is, if it differs from what is in etcd; `joins`: although it is not joined.
    fn spec_txn(&self, snapshot: &Snapshot, joins: bool) -> Option<Txn> {
        let known = snapshot.node(&self.settings.node);
        let known = known.and_then(|node| node.spec.as_ref());
        let joined = known.map(|spec| spec.joined);
        if joined.is_none() && !joins {
            return None;
        }
        let spec = records::Spec {
            rack: self.settings.rack.clone(),
            joined: joined.unwrap_or_else(jiff::Timestamp::now),
            facts: self.facts.clone(),
        };
        if !joins && known.is_some_and(|known| known.value == spec) {
            return None;
        }
        let meta = snapshot.meta.as_ref()?.modified;
        let key = node_key(&self.settings.node, "spec");
        Some(Txn {
            conditions: vec![Condition::Modified("meta".to_owned(), meta)],
            writes: vec![put(key, &spec, false)],
        })
    }
}

/// The write of a record.
pub(crate) fn put<T: serde::Serialize>(key: String, value: &T, leased: bool) -> Write {
    Write::Put {
        key,
        value: records::encode(value),
        leased,
    }
}

/// The write of bytes.
pub(crate) fn raw(key: String, value: Vec<u8>) -> Write {
    Write::Put {
        key,
        value,
        leased: false,
    }
}

/// The condition that the rollout is as it was read.
pub(crate) fn same_rollout(snapshot: &Snapshot) -> Condition {
    let modified = snapshot
        .rollout
        .as_ref()
        .map_or(0, |rollout| rollout.modified);
    Condition::Modified("rollout".to_owned(), modified)
}

/// Whether the rollout may still make its candidate head.
fn is_alive(rollout: &Rollout) -> bool {
    rollout.dead().is_none() && !rollout.state.is_over()
}
