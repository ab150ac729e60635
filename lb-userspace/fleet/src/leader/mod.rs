//! The leader: drives a rollout from state to state, without I/O and clocks.
//!
//! Every write has the condition that the leader's key is the one that it created, and that the rollout is
//! as it was read. So an old leader can write nothing, and two leaders never mix their decisions.

mod garbage;

use std::collections::BTreeMap;

use jiff::Timestamp;
use lb_api::{FleetNodeState, FleetPhase, FleetRolloutState, FleetVerdict, FleetVerdictKind};

use crate::{
    judge::judge,
    member::put,
    records::{Head, Outcome, Rollout, Seen, node_key, revision_key},
    snapshot::{Entry, NodeEntry, Snapshot},
    store::{Condition, Txn},
    waves,
};
pub(crate) use garbage::garbage;

/// Time for a node to plan, and for nodes to undo, in ms.
const PATIENCE_MS: u64 = 60_000;

/// Time that a rollout waits for nodes that are away.
const SETTLE_MS: u64 = 12_000;

/// Time for the rest to report after the wave has, in ms: they begin to count a little later.
const GRACE_MS: u64 = 5_000;

/// Longest time that a wave takes while a leader decides.
pub(crate) fn longest_wave_ms(rollout: &Rollout) -> u64 {
    u64::from(rollout.bake_s) * 1000 + PATIENCE_MS
}

/// The leader side of a node.
#[derive(Debug, Default)]
pub(crate) struct Leader {
    /// Which state of which rollout, and since when this leader has seen it.
    since: Option<(Stage, u64)>,
    /// Since when all nodes of the wave have reported.
    reported_ms: Option<u64>,
}

type Stage = (u64, FleetRolloutState, usize);

/// What the leader decides from.
pub(crate) struct Input<'a> {
    /// Monotonic clock.
    pub(crate) now_ms: u64,
    /// Wall clock, for the history.
    pub(crate) at: Timestamp,
    pub(crate) snapshot: &'a Snapshot,
    /// Revision of etcd at which this node's leader key was created.
    pub(crate) fence: i64,
}

impl Leader {
    /// The next write; none if there is nothing to do now.
    pub(crate) fn step(&mut self, input: &Input<'_>) -> Option<Txn> {
        let rollout = input.snapshot.rollout.as_ref()?;
        let stage = (rollout.revision, rollout.state, rollout.position);
        if self.since.is_none_or(|(known, _)| known != stage) {
            self.since = Some((stage, input.now_ms));
            self.reported_ms = None;
        }
        if rollout.state.is_over() {
            return None;
        }
        if rollout.state == FleetRolloutState::Failed {
            return self.undone(input, rollout);
        }
        let next = match rollout.dead() {
            Some(why) => Next::Failed(why.to_owned()),
            None => match rollout.state {
                FleetRolloutState::Written => self.start(input, rollout),
                FleetRolloutState::Preflight => self.preflight(input, rollout),
                FleetRolloutState::Wave => self.wave(input, rollout),
                _ => lost(input.snapshot, rollout).map_or_else(
                    || match rollout.confirmed {
                        Some(_) => Next::Confirmed(rollout.value.clone()),
                        None => Next::Nothing,
                    },
                    Next::Failed,
                ),
            },
        };
        match next {
            Next::Nothing => None,
            Next::Rollout(next) => Some(txn(input, rollout, &next)),
            Next::Failed(why) => Some(failed(input, rollout, why)),
            Next::Confirmed(next) => Some(confirmed(input, rollout, next)),
        }
    }

    fn age_ms(&self, now_ms: u64) -> u64 {
        self.since
            .map_or(0, |(_, since)| now_ms.saturating_sub(since))
    }

    /// Fixes the nodes of a rollout.
    fn start(&self, input: &Input<'_>, rollout: &Rollout) -> Next {
        let snapshot = input.snapshot;
        let Some(meta) = &snapshot.meta else {
            return Next::Failed("etcd has no fleet".to_owned());
        };
        let mut next = rollout.clone();
        for (id, node) in &snapshot.nodes {
            let Some(spec) = &node.spec else { continue };
            // A node that would choose other backends takes part in nothing.
            if meta.difference(&spec.facts).is_some() {
                continue;
            }
            match &node.live {
                None => next.absent.push(id.clone()),
                Some(live) if live.state == FleetNodeState::Refused => {
                    return Next::Failed(refuses(id, &live.reason));
                }
                Some(_) => next.nodes.push(id.clone()),
            }
        }
        // Nodes that lost their leases while etcd was away come back within seconds. They would take the
        // head unseen.
        if !next.absent.is_empty() && self.age_ms(input.now_ms) < SETTLE_MS {
            return Next::Nothing;
        }
        let (live, joined) = (next.nodes.len(), next.nodes.len() + next.absent.len());
        if live == 0 || 2 * live < joined {
            return Next::Failed(format!(
                "only {live} of {joined} joined nodes are live: bring the others back, or remove them with \
                 `evenkeel fleet leave NODE`"
            ));
        }
        if let Some(canary) = rollout
            .canary
            .as_ref()
            .filter(|id| !next.nodes.contains(id))
        {
            return Next::Failed(format!("canary {canary} has not joined or is away"));
        }
        next.state = FleetRolloutState::Preflight;
        Next::Rollout(next)
    }

    fn preflight(&self, input: &Input<'_>, rollout: &Rollout) -> Next {
        let mut missing = Vec::new();
        for id in &rollout.nodes {
            let node = input.snapshot.node(id);
            let result = node.and_then(|node| node.result_of(rollout.revision));
            match result.map(|result| (result.phase, &result.reason)) {
                Some((FleetPhase::Planned, _)) => {}
                Some((_, reason)) => return Next::Failed(format!("node {id} refuses: {reason}")),
                None => missing.push(id),
            }
            let Some(live) = node.and_then(|node| node.live.as_ref()) else {
                return Next::Failed(format!("node {id} was lost during the preflight"));
            };
            if live.state == FleetNodeState::Refused {
                return Next::Failed(refuses(id, &live.reason));
            }
        }
        if let Some(id) = missing.first() {
            if self.age_ms(input.now_ms) <= PATIENCE_MS {
                return Next::Nothing;
            }
            let node = input.snapshot.node(id).and_then(|node| node.live.as_ref());
            let state = node.map_or("away", |live| live.state.as_str());
            let limit = PATIENCE_MS / 1000;
            return Next::Failed(format!(
                "node {id} has not answered the preflight within {limit} s (state: {state})"
            ));
        }
        let rack = |id: &String| {
            let spec = input.snapshot.node(id).and_then(|node| node.spec.as_ref());
            (id.clone(), spec.and_then(|spec| spec.rack.clone()))
        };
        let placed: Vec<_> = rollout.nodes.iter().map(rack).collect();
        let waves = match rollout.now {
            true => vec![rollout.nodes.clone()],
            false => waves::plan(&placed, rollout.canary.as_deref(), rollout.revision),
        };
        Next::Rollout(Rollout {
            state: FleetRolloutState::Wave,
            waves,
            ..rollout.clone()
        })
    }

    fn wave(&mut self, input: &Input<'_>, rollout: &Rollout) -> Next {
        if let Some(why) = lost(input.snapshot, rollout) {
            return Next::Failed(why);
        }
        let Some(wave) = rollout.waves.get(rollout.position) else {
            return Next::Failed("the rollout has no such wave".to_owned());
        };
        let mut next = rollout.clone();
        if rollout.verdicts.len() <= rollout.position {
            let Some(verdict) = self.judge_wave(input, rollout, wave) else {
                return Next::Nothing;
            };
            let failed = verdict.kind == FleetVerdictKind::Failed;
            next.verdicts.push(verdict.clone());
            if failed {
                let detail = verdict.detail;
                return Next::Failed(format!("wave {}: {detail}", rollout.position + 1));
            }
        }
        let is_last = rollout.position + 1 >= rollout.waves.len();
        if rollout.paused.is_some() {
            // Written once, so that the verdict is shown.
            return match next == *rollout {
                true => Next::Nothing,
                false => Next::Rollout(next),
            };
        }
        if !is_last {
            next.position += 1;
            return Next::Rollout(next);
        }
        if rollout.manual {
            next.state = FleetRolloutState::AwaitingConfirm;
            return Next::Rollout(next);
        }
        Next::Confirmed(next)
    }

    /// The verdict; none yet.
    fn judge_wave(
        &mut self,
        input: &Input<'_>,
        rollout: &Rollout,
        wave: &[String],
    ) -> Option<FleetVerdict> {
        let revision = rollout.revision;
        let result = |id: &String| input.snapshot.node(id)?.result_of(revision);
        let missing = wave
            .iter()
            .find(|id| result(id).is_none_or(|result| result.phase != FleetPhase::Baked));
        if let Some(id) = missing {
            let limit_ms = longest_wave_ms(rollout);
            return (self.age_ms(input.now_ms) > limit_ms).then(|| FleetVerdict {
                kind: FleetVerdictKind::Failed,
                detail: format!("node {id} has not reported within {} s", limit_ms / 1000),
            });
        }
        let reported = *self.reported_ms.get_or_insert(input.now_ms);
        let seen = |id: &String| result(id)?.seen.get(&rollout.position).copied();
        let changed: Vec<&String> = rollout.begun().collect();
        let is_changed = |id: &String| changed.contains(&id);
        let others = rollout.nodes.iter().filter(|id| !wave.contains(id));
        let is_live = |id: &String| input.snapshot.node(id).is_some_and(|n| n.live.is_some());
        let others: Vec<&String> = others.filter(|id| is_live(id)).collect();
        let is_complete = others.iter().all(|id| seen(id).is_some());
        if !is_complete && input.now_ms.saturating_sub(reported) < GRACE_MS {
            return None;
        }
        let of = |ids: Vec<&String>| ids.into_iter().filter_map(seen).collect::<Vec<Seen>>();
        let (before, rest): (Vec<&String>, Vec<&String>) =
            others.into_iter().partition(|id| is_changed(id));
        Some(judge(&of(wave.iter().collect()), &of(before), &of(rest)))
    }

    /// The end of a failed rollout: no live node runs the candidate any more.
    fn undone(&self, input: &Input<'_>, rollout: &Entry<Rollout>) -> Option<Txn> {
        let runs = |id: &&String| {
            let node = input.snapshot.node(id);
            let result = node.and_then(|node| node.result_of(rollout.revision));
            let is_live = node.is_some_and(|node| node.live.is_some());
            is_live
                && result.is_some_and(|result| {
                    matches!(result.phase, FleetPhase::Baking | FleetPhase::Baked)
                })
        };
        let running: Vec<&String> = rollout.begun().filter(runs).collect();
        let mut next = rollout.value.clone();
        next.state = FleetRolloutState::Undone;
        if !running.is_empty() {
            let limit_ms = PATIENCE_MS + u64::from(rollout.confirm_s) * 1000;
            if self.age_ms(input.now_ms) <= limit_ms {
                return None;
            }
            let names = running.iter().map(|id| id.as_str()).collect::<Vec<_>>();
            next.reason = format!(
                "{}; not reported as undone by {}",
                next.reason,
                names.join(", ")
            );
        }
        Some(txn(input, rollout, &next))
    }
}

enum Next {
    Nothing,
    Rollout(Rollout),
    Failed(String),
    Confirmed(Rollout),
}

fn refuses(id: &str, reason: &str) -> String {
    format!("node {id} refuses this fleet: {reason}")
}

/// Why a node whose wave has begun fails the rollout.
fn lost(snapshot: &Snapshot, rollout: &Rollout) -> Option<String> {
    let problem = |id: &String| {
        let node = snapshot.node(id);
        let result = node.and_then(|node| node.result_of(rollout.revision));
        if let Some(result) = result
            && matches!(result.phase, FleetPhase::Failed | FleetPhase::Undone)
        {
            return Some(format!("node {id}: {}", result.reason));
        }
        let is_live = node.is_some_and(|node: &NodeEntry| node.live.is_some());
        (!is_live).then(|| format!("node {id} was lost: its lease has ended"))
    };
    rollout.begun().find_map(problem)
}

fn txn(input: &Input<'_>, rollout: &Entry<Rollout>, next: &Rollout) -> Txn {
    Txn {
        conditions: vec![
            Condition::Created("leader".to_owned(), input.fence),
            Condition::Modified("rollout".to_owned(), rollout.modified),
        ],
        writes: vec![put("rollout".to_owned(), next, false)],
    }
}

fn failed(input: &Input<'_>, rollout: &Entry<Rollout>, why: String) -> Txn {
    let mut next = rollout.value.clone();
    next.reason.clone_from(&why);
    // Without a wave, no node runs the candidate.
    next.state = match next.waves.is_empty() {
        true => FleetRolloutState::Undone,
        false => FleetRolloutState::Failed,
    };
    if let Some(wave) = next.waves.get(next.position)
        && next.verdicts.len() <= next.position
        && !wave.is_empty()
    {
        next.verdicts.push(FleetVerdict {
            kind: FleetVerdictKind::Failed,
            detail: why.clone(),
        });
    }
    let mut txn = txn(input, rollout, &next);
    txn.writes.push(outcome(input, rollout, false, why));
    txn
}

fn confirmed(input: &Input<'_>, rollout: &Entry<Rollout>, mut next: Rollout) -> Txn {
    next.state = FleetRolloutState::Confirmed;
    let mut txn = txn(input, rollout, &next);
    let head_modified = input.snapshot.head.as_ref().map_or(0, |head| head.modified);
    txn.conditions
        .push(Condition::Modified("head".to_owned(), head_modified));
    let head = Head {
        revision: next.revision,
        digest: next.digest.clone(),
    };
    txn.writes.push(put("head".to_owned(), &head, false));
    let mut kinds = BTreeMap::<&str, usize>::new();
    for verdict in &next.verdicts {
        *kinds.entry(verdict.kind.as_str()).or_default() += 1;
    }
    let kinds = kinds.iter().map(|(kind, count)| format!("{count} {kind}"));
    let kinds = kinds.collect::<Vec<_>>().join(", ");
    let detail = format!("waves: {kinds}; {} nodes", next.nodes.len());
    txn.writes.push(outcome(input, rollout, true, detail));
    txn
}

fn outcome(
    input: &Input<'_>,
    rollout: &Rollout,
    confirmed: bool,
    detail: String,
) -> crate::store::Write {
    let outcome = Outcome {
        confirmed,
        detail,
        at: input.at,
    };
    put(revision_key(rollout.revision, "outcome"), &outcome, false)
}

/// The write that makes a node the leader, if there is none.
pub(crate) fn campaign(node: &str) -> Txn {
    let leader = crate::records::Leader {
        node: node.to_owned(),
    };
    Txn {
        conditions: vec![
            Condition::Modified("leader".to_owned(), 0),
            Condition::Exists(node_key(node, "spec")),
        ],
        writes: vec![put("leader".to_owned(), &leader, true)],
    }
}

/// The write that ends a leadership.
pub(crate) fn resign(fence: i64) -> Txn {
    Txn {
        conditions: vec![Condition::Created("leader".to_owned(), fence)],
        writes: vec![crate::store::Write::Delete("leader".to_owned())],
    }
}
