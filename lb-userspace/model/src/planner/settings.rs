//! Settings that a change changes, in words.
//!
//! Every structure is taken apart key by key: a key that is added to the configuration does not
//! compile until it is said here how its change is told.

use super::{
    pairs::Pair,
    words::{self, Changes},
};
use crate::config::{
    Alerts, Api, Backend, ChangeSettings, Config, Guard, Health, HealthKind, Metrics, Node,
    Scaling, Skew, Vip,
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
    } = running;
    let mut changes = Changes::default();
    of_node(&mut changes, node, &candidate.node);
    let ChangeSettings { bake } = change;
    changes.key("change.bake", bake, &candidate.change.bake, words::duration);
    of_services(&mut changes, (api, metrics, alerts), candidate);
    changes.0
}

fn of_node(changes: &mut Changes, before: &Node, after: &Node) {
    let Node {
        interfaces,
        xdp_mode,
        state_dir,
        hash_seed,
        encap_source_v4,
        encap_source_v6,
        nat_sources,
        nat_ports,
        transition_ttl,
        track_idle,
        track_flows,
        nat_sessions,
        sample,
    } = before;
    changes.key("node.interfaces", interfaces, &after.interfaces, |list| {
        words::list(list)
    });
    changes.key("node.xdp_mode", xdp_mode, &after.xdp_mode, words::xdp_mode);
    changes.key("node.state_dir", state_dir, &after.state_dir, words::quoted);
    if *hash_seed != after.hash_seed {
        let text = "node.hash_seed: another secret; every flow gets a new place in its ring";
        changes.0.push(text.to_owned());
    }
    let (v4, v6) = (&after.encap_source_v4, &after.encap_source_v6);
    changes.key(
        "node.encap_source (IPv4)",
        encap_source_v4,
        v4,
        words::option,
    );
    changes.key(
        "node.encap_source (IPv6)",
        encap_source_v6,
        v6,
        words::option,
    );
    changes.key("node.nat_source", nat_sources, &after.nat_sources, |list| {
        words::list(list)
    });
    changes.key("node.nat_ports", nat_ports, &after.nat_ports, |ports| {
        format!("{}-{}", ports.start(), ports.end())
    });
    let ttl = &after.transition_ttl;
    changes.key("node.transition_ttl", transition_ttl, ttl, words::duration);
    changes.key(
        "node.track_idle",
        track_idle,
        &after.track_idle,
        words::duration,
    );
    changes.key(
        "node.track_flows",
        track_flows,
        &after.track_flows,
        words::plain,
    );
    changes.key(
        "node.nat_sessions",
        nat_sessions,
        &after.nat_sessions,
        words::plain,
    );
    changes.key("node.sample", sample, &after.sample, words::plain);
}

fn of_services(
    changes: &mut Changes,
    (api, metrics, alerts): (&Api, &Metrics, &Alerts),
    after: &Config,
) {
    let Api { socket, group } = api;
    changes.key_at_start("api.socket", socket, &after.api.socket, words::quoted);
    changes.key_at_start("api.group", group, &after.api.group, words::option);
    let Metrics { listen } = metrics;
    changes.key(
        "metrics.listen",
        listen,
        &after.metrics.listen,
        words::plain,
    );
    let Alerts {
        alertmanager,
        webhook,
        webhook_secret,
        resend,
        escalate_after,
    } = alerts;
    let after = &after.alerts;
    let list = |list: &Vec<String>| words::list(list);
    changes.key(
        "alerts.alertmanager",
        alertmanager,
        &after.alertmanager,
        list,
    );
    changes.key("alerts.webhook", webhook, &after.webhook, list);
    if *webhook_secret != after.webhook_secret {
        let text = "alerts.webhook_secret: another secret";
        changes.0.push(text.to_owned());
    }
    changes.key("alerts.resend", resend, &after.resend, words::duration);
    changes.key(
        "alerts.escalate_after",
        escalate_after,
        &after.escalate_after,
        |time| {
            time.as_ref()
                .map_or_else(|| "never".to_owned(), words::duration)
        },
    );
}

/// Changes of a VIP's settings. Weights and states of backends are not among them: they are told
/// with the members.
pub(super) fn of_pair(pair: &Pair<'_>) -> Vec<String> {
    let (Some(before), Some(after)) = (pair.before, pair.after) else {
        return Vec::new();
    };
    let mut changes = Changes::default();
    let Vip {
        name,
        address,
        port,
        protocol,
        forward,
        affinity,
        track,
        ring_size,
        health,
        guard,
        scaling,
        skew,
        backends,
    } = before;
    changes.key("name", name, &after.name, words::quoted);
    changes.key("address", address, &after.address, words::plain);
    changes.key("port", port, &after.port, words::plain);
    changes.key("protocol", protocol, &after.protocol, words::plain);
    changes.key("forward", forward, &after.forward, words::forward);
    changes.key("affinity", affinity, &after.affinity, words::affinity);
    changes.key("track", track, &after.track, words::track);
    changes.key("ring_size", ring_size, &after.ring_size, |size| {
        size.get().to_string()
    });
    of_health(&mut changes, health.as_ref(), after.health.as_ref());
    of_guard(&mut changes, guard, &after.guard);
    of_scaling(&mut changes, scaling, &after.scaling);
    of_skew(&mut changes, skew, &after.skew);
    for backend in backends {
        of_backend(&mut changes, backend, &after.backends);
    }
    changes.0
}

fn of_health(changes: &mut Changes, before: Option<&Health>, after: Option<&Health>) {
    let kind = |health: Option<&Health>| {
        health.map_or_else(|| "none".to_owned(), |h| words::health_kind(&h.kind))
    };
    let (Some(before), Some(after)) = (before, after) else {
        changes.key("health", &kind(before), &kind(after), String::clone);
        return;
    };
    let Health {
        kind,
        port,
        interval,
        fast_interval,
        jitter,
        timeout,
        rise,
        fall,
        via,
        damping,
        slow_start,
        panic_threshold,
    } = before;
    changes.key("health.kind", kind, &after.kind, |kind: &HealthKind| {
        words::health_kind(kind)
    });
    let show_port = |port: &u16| match port {
        0 => "the backend's".to_owned(),
        port => port.to_string(),
    };
    changes.key("health.port", port, &after.port, show_port);
    changes.key(
        "health.interval",
        interval,
        &after.interval,
        words::duration,
    );
    changes.key("health.timeout", timeout, &after.timeout, words::duration);
    changes.key("health.rise", rise, &after.rise, words::plain);
    changes.key("health.fall", fall, &after.fall, words::plain);
    changes.key("health.via", via, &after.via, words::via);
    changes.key(
        "health.fast_interval",
        fast_interval,
        &after.fast_interval,
        words::duration,
    );
    changes.key("health.jitter", jitter, &after.jitter, words::fraction);
    changes.key("health.damping", damping, &after.damping, words::plain);
    changes.key(
        "health.slow_start",
        slow_start,
        &after.slow_start,
        words::duration,
    );
    let threshold = &after.panic_threshold;
    changes.key(
        "health.panic_threshold",
        panic_threshold,
        threshold,
        words::fraction,
    );
}

fn of_guard(changes: &mut Changes, before: &Guard, after: &Guard) {
    let Guard {
        max_share,
        max_moved,
        min_backends,
    } = before;
    changes.key(
        "guard.max_share",
        max_share,
        &after.max_share,
        words::fraction,
    );
    changes.key(
        "guard.max_moved",
        max_moved,
        &after.max_moved,
        words::fraction,
    );
    changes.key(
        "guard.min_backends",
        min_backends,
        &after.min_backends,
        words::plain,
    );
}

fn of_scaling(changes: &mut Changes, before: &Scaling, after: &Scaling) {
    let Scaling {
        target_utilisation,
        alert_utilisation,
    } = before;
    for (key, before, after) in [
        (
            "scaling.target_utilisation",
            target_utilisation,
            &after.target_utilisation,
        ),
        (
            "scaling.alert_utilisation",
            alert_utilisation,
            &after.alert_utilisation,
        ),
    ] {
        changes.key(key, before, after, words::fraction);
    }
}

/// Thresholds of an expert: that they change is said, not how.
fn of_skew(changes: &mut Changes, before: &Skew, after: &Skew) {
    if before != after {
        changes.0.push("skew: other thresholds".to_owned());
    }
}

fn of_backend(changes: &mut Changes, before: &Backend, all: &[Backend]) {
    let Backend {
        name,
        address,
        port,
        weight: _,
        capacity,
        state: _,
    } = before;
    let same = all.iter().find(|b| b.identity() == before.identity());
    if let Some(after) = same {
        changes.key("backend", name, &after.name, words::quoted);
        let key = format!("backend {}: capacity", after.name);
        changes.key(&key, capacity, &after.capacity, words::option);
    } else if let Some(after) = all.iter().find(|b| b.name == *name) {
        let place = |(address, port): &(std::net::IpAddr, u16)| match port {
            0 => address.to_string(),
            port => std::net::SocketAddr::new(*address, *port).to_string(),
        };
        let key = format!("backend {name} (a new member; the old one keeps its flows)");
        let (before, after) = ((*address, *port), (after.address, after.port));
        changes.key(&key, &before, &after, place);
    }
}
