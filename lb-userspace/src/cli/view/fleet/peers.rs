//! What the other nodes tell this one.

use lb_api::{FleetExchange, FleetHealth, FleetOpinion, FleetSuspect};

use super::super::{View, paint::Tone};

/// Who tells this node the past of connections.
pub(super) fn exchange(view: View, exchange: &FleetExchange) -> String {
    let connected = exchange.peers.iter().filter(|peer| peer.connected).count();
    let mut text = format!(
        "the past of connections is told by {connected} of {} other nodes\n  flows told {}, taken {}",
        exchange.peers.len(),
        exchange.flows_told,
        exchange.flows_taken
    );
    if exchange.flows_without_room > 0 {
        let lost = format!(", without room {}", exchange.flows_without_room);
        text += &view.paint.apply(Tone::Warn, &lost);
    }
    text.push('\n');
    let silent = exchange.peers.iter();
    let silent = silent.filter_map(|peer| Some(format!("{}: {}", peer.node, peer.error.as_ref()?)));
    for wrong in exchange.error.clone().into_iter().chain(silent) {
        text += &view
            .paint
            .apply(Tone::Warn, &view.hang("  ", "    ", &wrong));
        text.push('\n');
    }
    text
}

/// Backends that are down for the fleet, and those that nodes see differently.
pub(super) fn health(view: View, health: &FleetHealth) -> String {
    let mut text = format!("backends are checked by {} nodes\n", health.nodes);
    let mut add = |tone, line: &str| {
        text += &view.paint.apply(tone, &view.hang("  ", "    ", line));
        text.push('\n');
    };
    for down in &health.down {
        let (vip, backend, nodes, of) = (&down.vip, &down.backend, down.nodes, down.of);
        let line = format!("{backend} of VIP {vip} is down: {nodes} of {of} nodes see it down");
        add(Tone::Bad, &line);
    }
    for found in &health.disagreements {
        let side = |word: &str, nodes: &[FleetOpinion]| {
            let nodes = nodes.iter().map(|it| match it.why.is_empty() {
                true => it.node.clone(),
                false => format!("{} ({})", it.node, it.why),
            });
            format!("{word} for {}", nodes.collect::<Vec<_>>().join(", "))
        };
        let line = format!(
            "nodes disagree on {} of VIP {}: {}; {}",
            found.backend,
            found.vip,
            side("down", &found.down),
            side("up", &found.up)
        );
        add(Tone::Warn, &line);
    }
    if let Some(FleetSuspect { node, backends, of }) = &health.suspect {
        let line =
            format!("{node} itself is suspect: it alone sees {backends} of its {of} backends down");
        add(Tone::Bad, &line);
    }
    text
}
