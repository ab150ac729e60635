//! Settings that a change changes, as lines of a plan. The lines come from the configuration's
//! tables; here is only what is told otherwise.

use std::net::{IpAddr, SocketAddr};

use super::{Input, announce, pairs::Pair, words};
use crate::config::{
    Alerts, Api, Backend, BackendState, Bound, ChangeSettings, Changes, Config, Effect, Fleet,
    Forward, Guard, Health, Limit, Metrics, Node, Override, Prefix, Scaling, Skew, SourceLimit,
    Sources, Vip, VipAnnounce,
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
        announce,
        fleet,
        sources,
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
    announce::list_changes(&mut changes, running.announce.as_ref(), announce.as_ref());
    Sources::list_changes(changes.below("sources."), &running.sources, sources);
    list_fleet_changes(&mut changes, running.fleet.as_ref(), fleet.as_ref());
    changes.lines
}

fn list_fleet_changes(changes: &mut Changes, before: Option<&Fleet>, after: Option<&Fleet>) {
    if let (Some(before), Some(after)) = (before, after) {
        return Fleet::list_changes(changes.below("fleet."), before, after);
    }
    let lines = changes.lines.len();
    let show = |fleet: &Option<&Fleet>| {
        fleet.map_or_else(
            || "none".to_owned(),
            |fleet| format!("{} as {}", fleet.name, fleet.node),
        )
    };
    changes.below("").add("fleet", &before, &after, show);
    changes.note(Effect::Restart, lines);
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
    list_limit_changes(&mut changes, &before.limit, &after.limit);
    Bound::list_changes(changes.below("bound."), &before.bound, &after.bound);
    Scaling::list_changes(changes.below("scaling."), &before.scaling, &after.scaling);
    Skew::list_changes(changes.below("skew."), &before.skew, &after.skew);
    let below = changes.below("announce.");
    VipAnnounce::list_changes(below, &before.announce, &after.announce);
    list_override_changes(&mut changes, before, after);
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

fn list_limit_changes(changes: &mut Changes, before: &Limit, after: &Limit) {
    Limit::list_changes(changes.below("limit."), before, after);
    let below = changes.below("limit.source.");
    SourceLimit::list_changes(below, &before.source, &after.source);
    // Without files, the line of the key says it.
    let mut list = |name: &str, files: bool, before: &[Prefix], after: &[Prefix]| {
        // Lists have up to a million prefixes, and most changes are of something else.
        if !files || before == after {
            return;
        }
        let is_new = |prefix: &&Prefix| before.binary_search(prefix).is_err();
        let is_gone = |prefix: &&Prefix| after.binary_search(prefix).is_err();
        let (new, gone) = (
            after.iter().filter(is_new).count(),
            before.iter().filter(is_gone).count(),
        );
        let (had, has) = (before.len(), after.len());
        changes.lines.push(format!(
            "limit: {name} prefixes: {had} → {has} ({new} added, {gone} removed)"
        ));
    };
    let exempt_files = before.exempt_files.len() + after.exempt_files.len() > 0;
    let deny_files = before.deny_files.len() + after.deny_files.len() > 0;
    let (had, has) = (&before.exempt_prefixes, &after.exempt_prefixes);
    list("exempt", exempt_files, had, has);
    list(
        "denied",
        deny_files,
        &before.deny_prefixes,
        &after.deny_prefixes,
    );
}

fn list_override_changes(changes: &mut Changes, before: &Vip, after: &Vip) {
    let named = |vip: &Vip, name: &str| vip.overrides.iter().find(|it| it.name == name).cloned();
    for had in &before.overrides {
        let key = format!("override of {}", had.name);
        match named(after, &had.name) {
            Some(has) => Override::list_changes(changes.below(format!("{key}: ")), had, &has),
            None => changes.lines.push(format!("{key}: removed")),
        }
    }
    for has in &after.overrides {
        if named(before, &has.name).is_none() {
            changes
                .lines
                .push(format!("override of {}: added", has.name));
        }
    }
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

/// Number of `nat` sessions that a VIP supports at once, if the change changes it.
pub(super) fn nat_sessions(input: &Input<'_>, pair: &Pair<'_>) -> Option<String> {
    let capacity = |config: &Config, vip: &Vip| {
        let backends = vip
            .backends
            .iter()
            .filter(|backend| gets_flows(backend))
            .count();
        let ports = config.node.nat_ports.len();
        let all = backends * ports;
        let is_nat = vip.forward == Forward::Nat;
        is_nat.then_some((
            all.min(config.node.nat_sessions as usize),
            all,
            backends,
            ports,
        ))
    };
    let candidate = input.candidate;
    let before = input
        .running
        .and_then(|running| capacity(running, pair.before?));
    let vip = pair.after?;
    let after = capacity(candidate, vip)?;
    if before == Some(after) {
        return None;
    }
    let (sessions, all, backends, ports) = after;
    let mut line =
        format!("nat: at most {sessions} sessions at once ({backends} backends × {ports} ports");
    if sessions < all {
        line += "; limited by node.nat_sessions";
    }
    match candidate
        .vips
        .iter()
        .filter(|other| share_ports(candidate, vip, other))
        .count()
    {
        0 => {}
        1 => line += "; ports shared with 1 other VIP",
        others => line += &format!("; ports shared with {others} other VIPs"),
    }
    line.push(')');
    if let Some((sessions, ..)) = before {
        line += &format!(", before: {sessions}");
    }
    Some(line)
}

fn gets_flows(backend: &Backend) -> bool {
    backend.state == BackendState::Up && backend.weight > 0
}

/// Whether two VIPs have a backend in common and only one source address for it.
fn share_ports(config: &Config, vip: &Vip, other: &Vip) -> bool {
    let sources = &config.node.nat_source;
    let has_one_source = |backend: &Backend| {
        let of_family = sources
            .iter()
            .filter(|s| s.is_ipv4() == backend.address.is_ipv4());
        of_family.count() <= 1
    };
    let is_shared = |backend: &Backend| {
        let mut others = other.backends.iter();
        has_one_source(backend) && others.any(|other| other.identity() == backend.identity())
    };
    other.name != vip.name
        && other.forward == Forward::Nat
        && other.protocol == vip.protocol
        && vip.backends.iter().any(is_shared)
}
