//! Settings that a change changes, as lines of a plan. The lines come from the configuration's
//! tables; here is only what is told otherwise.

use std::net::{IpAddr, SocketAddr};

use super::{pairs::Pair, words};
use crate::config::{
    Alerts, Api, Backend, ChangeSettings, Changes, Config, Guard, Health, Metrics, Node, Scaling,
    Skew, Vip,
};

/// Changes outside of VIPs.
pub(super) fn outside(running: Option<&Config>, candidate: &Config) -> Vec<String> {
    let Some(running) = running else {
        return Vec::new();
    };
    let Config {
        node,
        api,
        change,
        metrics,
        alerts,
        vips: _,
    } = candidate;
    let mut changes = Changes::default();
    Node::list_changes(changes.below("node."), &running.node, node);
    if running.node.hash_seed != node.hash_seed {
        let line = "node.hash_seed: changed; every flow is hashed to another slot";
        changes.lines.push(line.to_owned());
    }
    ChangeSettings::list_changes(changes.below("change."), &running.change, change);
    Api::list_changes(changes.below("api."), &running.api, api);
    Metrics::list_changes(changes.below("metrics."), &running.metrics, metrics);
    Alerts::list_changes(changes.below("alerts."), &running.alerts, alerts);
    if running.alerts.webhook_secret != alerts.webhook_secret {
        changes
            .lines
            .push("alerts.webhook_secret: changed".to_owned());
    }
    changes.lines
}

/// Changes of a VIP's settings, without the weights and states of backends, which the plan shows
/// with the members.
pub(super) fn of_pair(pair: &Pair<'_>) -> Vec<String> {
    let (Some(before), Some(after)) = (pair.before, pair.after) else {
        return Vec::new();
    };
    let mut changes = Changes::default();
    Vip::list_changes(&mut changes, before, after);
    list_health_changes(&mut changes, before.health.as_ref(), after.health.as_ref());
    Guard::list_changes(changes.below("guard."), &before.guard, &after.guard);
    Scaling::list_changes(changes.below("scaling."), &before.scaling, &after.scaling);
    Skew::list_changes(changes.below("skew."), &before.skew, &after.skew);
    for backend in &before.backends {
        list_backend_changes(&mut changes, backend, &after.backends);
    }
    changes.lines
}

fn list_health_changes(changes: &mut Changes, before: Option<&Health>, after: Option<&Health>) {
    let (Some(before), Some(after)) = (before, after) else {
        let kind = |health: &Option<&Health>| {
            health.map_or_else(
                || "none".to_owned(),
                |health| words::health_kind(&health.kind),
            )
        };
        changes.below("").add("health", &before, &after, kind);
        return;
    };
    changes
        .below("health.")
        .add("kind", &before.kind, &after.kind, words::health_kind);
    Health::list_changes(changes, before, after);
}

fn list_backend_changes(changes: &mut Changes, before: &Backend, all: &[Backend]) {
    let same = all
        .iter()
        .find(|backend| backend.identity() == before.identity());
    if let Some(after) = same {
        let shown_with_members = Backend {
            weight: after.weight,
            state: after.state,
            ..before.clone()
        };
        changes.below(format!("backend {}: ", after.name));
        Backend::list_changes(changes, &shown_with_members, after);
    } else if let Some(after) = all.iter().find(|backend| backend.name == before.name) {
        let place = |(address, port): &(IpAddr, u16)| match port {
            0 => address.to_string(),
            port => SocketAddr::new(*address, *port).to_string(),
        };
        let key = format!(
            "backend {} (a new backend; the old one keeps its flows)",
            before.name
        );
        let (before, after) = ((before.address, before.port), (after.address, after.port));
        changes.below("").add(&key, &before, &after, place);
    }
}
