//! The published state of the fleet.

use std::time::Instant;

use lb_api::{
    FleetExchange, FleetHead, FleetNode, FleetNodeState, FleetPeer, FleetResult, FleetRollout,
    FleetState, FleetWave,
};
use tokio::sync::watch;

use super::Shared;
use crate::{exchange::Exchange, member::Member, records::Rollout, snapshot::Snapshot};

/// An answer of etcd that is older than this: etcd is away.
const AWAY_S: f64 = 10.0;

/// The age of the last contact is published in steps of this length, so that an idle fleet publishes
/// little.
const STEP_S: f64 = 5.0;

/// Publishes the state, if it has changed.
pub(super) fn publish(shared: &Shared, member: &Member, publisher: &watch::Sender<FleetState>) {
    let contact = shared.client.contact();
    let age_s = contact.map(|at| Instant::now().saturating_duration_since(at).as_secs_f64());
    let (state, reason) = member.state().clone();
    let known = member.memory().head.as_ref().map(|known| FleetHead {
        revision: known.revision,
        digest: known.digest.clone(),
    });
    let connected = age_s.is_some_and(|age_s| age_s < AWAY_S);
    let write_error = shared.write_error().clone();
    let mut next = FleetState {
        fleet: shared.settings.fleet.clone(),
        node: shared.settings.node.clone(),
        connected,
        contact_age_s: age_s.map(|age_s| (age_s / STEP_S).floor() * STEP_S),
        last_error: shared.error().clone().or(write_error),
        state,
        reason,
        confirmed: known,
        ..FleetState::default()
    };
    if let Some(decoded) = shared.snapshot()
        && let Ok(snapshot) = decoded.as_ref()
    {
        add(&mut next, snapshot);
    }
    next.exchange = shared.exchange().map(shown_exchange);
    publisher.send_if_modified(|state| {
        let is_new = *state != next;
        *state = next;
        is_new
    });
}

fn shown_exchange(exchange: &Exchange) -> FleetExchange {
    let states = exchange.states();
    let states = states.borrow();
    let peers = states.nodes.iter().map(|(node, state)| FleetPeer {
        node: node.clone(),
        address: state.address.clone(),
        connected: state.connected,
        error: state.error.clone(),
    });
    let [flows_told, flows_taken, flows_without_room] = exchange.counters().get();
    FleetExchange {
        error: exchange.listen_error(),
        peers: peers.collect(),
        flows_told,
        flows_taken,
        flows_without_room,
    }
}

fn add(state: &mut FleetState, snapshot: &Snapshot) {
    state.id = snapshot.meta.as_ref().map(|meta| meta.id.clone());
    if state.connected {
        state.leader = snapshot.leader.as_ref().map(|leader| leader.node.clone());
    }
    state.head = snapshot.head.as_ref().map(|head| head.value.clone());
    state.rollout = snapshot
        .rollout
        .as_ref()
        .map(|rollout| shown(rollout, snapshot));
    let nodes = snapshot.nodes.iter().filter_map(|(id, node)| {
        let spec = node.spec.as_ref()?;
        let live = node.live.as_ref().map(|live| &live.value);
        Some(FleetNode {
            node: id.clone(),
            rack: spec.rack.clone(),
            state: live.map_or(FleetNodeState::Away, |live| live.state),
            reason: live.map_or(String::new(), |live| live.reason.clone()),
            revision: live.and_then(|live| live.revision),
            version: live.map(|live| live.version.clone()),
            joined: spec.joined,
        })
    });
    state.nodes = nodes.collect();
}

fn shown(rollout: &Rollout, snapshot: &Snapshot) -> FleetRollout {
    let waves = rollout.waves.iter().enumerate();
    let waves = waves.map(|(index, nodes)| FleetWave {
        nodes: nodes.clone(),
        verdict: rollout.verdicts.get(index).cloned(),
    });
    let results = rollout.nodes.iter().filter_map(|id| {
        let result = snapshot.node(id)?.result_of(rollout.revision)?;
        Some(FleetResult {
            node: id.clone(),
            phase: result.phase,
            reason: result.reason.clone(),
        })
    });
    let entry = snapshot.revisions.get(&rollout.revision);
    let outcome = entry.and_then(|entry| entry.outcome.as_ref());
    FleetRollout {
        revision: rollout.revision,
        parent: rollout.parent.revision,
        state: rollout.state,
        reason: rollout.dead().unwrap_or_default().to_owned(),
        started: rollout.started,
        ended: outcome.map(|outcome| outcome.at),
        aborted: rollout.aborted.clone(),
        waves: waves.collect(),
        position: rollout.position,
        absent: rollout.absent.clone(),
        paused: rollout.paused.clone(),
        manual: rollout.manual,
        bake_s: rollout.bake_s,
        results: results.collect(),
    }
}
