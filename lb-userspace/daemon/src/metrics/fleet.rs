//! The metrics of the fleet.

use lb_fleet::{FleetHead, FleetNodeState, FleetRolloutState, FleetState};

use super::{
    family::*,
    page::Page,
    render::{add_some, flag},
};

/// States of a node, and of a rollout.
const NODE_STATES: [FleetNodeState; 7] = {
    use FleetNodeState as S;
    [
        S::NotJoined,
        S::InSync,
        S::OnTrial,
        S::Behind,
        S::Differs,
        S::Refused,
        S::Away,
    ]
};
const ROLLOUT_STATES: [FleetRolloutState; 7] = {
    use FleetRolloutState as S;
    [
        S::Written,
        S::Preflight,
        S::Wave,
        S::AwaitingConfirm,
        S::Confirmed,
        S::Failed,
        S::Undone,
    ]
};

/// Renders nothing for a node of no fleet.
pub(super) fn render(page: &mut Page, fleet: Option<&FleetState>) {
    let Some(fleet) = fleet else { return };
    page.family(FLEET_INFO, |s| s.add(&[&fleet.fleet, &fleet.node], 1.0));
    page.single(FLEET_CONNECTED, flag(fleet.connected));
    page.family(FLEET_CONTACT, |s| add_some(s, &[], fleet.contact_age_s));
    page.single(
        FLEET_LEADER,
        flag(fleet.leader.as_ref() == Some(&fleet.node)),
    );
    let number = |head: &Option<FleetHead>| head.as_ref().map(|head| head.revision as f64);
    page.family(FLEET_HEAD, |s| add_some(s, &[], number(&fleet.head)));
    page.family(FLEET_CONFIRMED, |s| {
        add_some(s, &[], number(&fleet.confirmed));
    });
    page.family(FLEET_STATE, |s| {
        // A node is not away from itself.
        for state in &NODE_STATES[..6] {
            s.add(&[state.as_str()], flag(*state == fleet.state));
        }
    });
    page.family(FLEET_NODES, |s| {
        for state in &NODE_STATES[1..] {
            let nodes = fleet.nodes.iter().filter(|node| node.state == *state);
            s.add(&[state.as_str()], nodes.count() as f64);
        }
    });
    page.family(FLEET_PEER, |s| {
        let exchange = fleet.exchange.iter();
        for peer in exchange.flat_map(|exchange| &exchange.peers) {
            s.add(&[&peer.node], flag(peer.connected));
        }
    });
    let health = fleet.health.as_ref();
    page.family(FLEET_DOWN, |s| {
        add_some(s, &[], health.map(|health| health.down.len() as f64));
    });
    page.family(FLEET_DISAGREE, |s| {
        add_some(s, &[], health.map(|it| it.disagreements.len() as f64));
    });
    page.family(FLEET_SUSPECT, |s| {
        if let Some(suspect) = health.and_then(|health| health.suspect.as_ref()) {
            s.add(&[&suspect.node], 1.0);
        }
    });
    page.family(FLEET_FLOWS, |s| {
        let Some(exchange) = &fleet.exchange else {
            return;
        };
        for (event, flows) in [
            ("told", exchange.flows_told),
            ("taken", exchange.flows_taken),
            ("without_room", exchange.flows_without_room),
        ] {
            s.add(&[event], flows as f64);
        }
    });
    page.family(FLEET_ROLLOUT, |s| {
        for state in ROLLOUT_STATES {
            let is_so = fleet.rollout.as_ref().is_some_and(|it| it.state == state);
            s.add(&[state.as_str()], flag(is_so));
        }
    });
}
