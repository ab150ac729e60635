//! What nodes say of each other's backends: failures that all see, and a path that only one node has lost.

use std::process::Command;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use lab::deadline;
use lab::host::Host;
use lab::process::{Daemon, finish};
use lab::topology::{Family, Lab};
use lb_api::{Alert, Event, FleetHealth};
use lb_dataplane::{Pins, Proof};

use crate::connections::serve;
use crate::site::{LIMIT, Options, SERVING, Site, build, can_run};

fn start(lab: &Lab, slow_checks: bool) -> Site<'_> {
    let options = Options {
        exchange: std::env::var("EVENKEEL_EXCHANGE").map_or(true, |value| value != "0"),
        slow_checks,
        ..Options::default()
    };
    let site = Site::start_nodes(lab, options);
    let nodes = site.nodes.len();
    for node in 0..nodes {
        site.wait("each node hears all others", || {
            site.fleet(node).health.is_some_and(|it| it.nodes == nodes)
        });
    }
    site
}

fn get<T: serde::de::DeserializeOwned>(site: &Site<'_>, node: usize, path: &str) -> T {
    let value = site.nodes[node].operator().get(path).unwrap();
    serde_json::from_value(value).unwrap()
}

fn health(site: &Site<'_>, node: usize) -> FleetHealth {
    site.fleet(node).health.unwrap()
}

/// When each node took a backend down, in order.
fn taken_down(site: &Site<'_>, backend: &str, after: Timestamp) -> Vec<Timestamp> {
    let nodes = 0..site.nodes.len();
    let at = nodes.filter_map(|node| {
        let events: Vec<Event> = get(site, node, "/v1/events?limit=1000");
        let mut events = events.into_iter().filter(|event| event.at > after);
        let begin = format!("{backend} is down");
        let found = events.find(|it| it.kind == "health" && it.message.starts_with(&begin));
        found.map(|event| event.at)
    });
    let mut at: Vec<Timestamp> = at.collect();
    at.sort();
    at
}

/// Drops what a host sends to the backend, and what it gets.
fn cut(backend: &Host, from: &Host) {
    let rules = format!(
        "table inet cut {{ chain in {{ type filter hook input priority 0; ip saddr {} drop; }}; }}",
        from.address(Family::V4)
    );
    nft(backend, &rules);
}

/// Drops all that others send to the backend's server.
fn silence(backend: &Host) {
    nft(
        backend,
        "table inet cut { chain in { type filter hook input priority 0; tcp dport 80 drop; }; }",
    );
}

fn mend(backend: &Host) {
    nft(backend, "delete table inet cut");
}

fn nft(host: &Host, rules: &str) {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]);
    let done = finish(&host.ns.entry(), command, rules).unwrap();
    assert!(done.status.success(), "{done:?}");
}

/// Waits until all nodes have taken a backend down; returns the time from the first to the last.
fn agreement(site: &Site<'_>, backend: &str, after: Timestamp) -> Duration {
    let nodes = site.nodes.len();
    site.wait(&format!("all nodes see {backend} down"), || {
        taken_down(site, backend, after).len() == nodes
    });
    let at = taken_down(site, backend, after);
    println!(
        "fleet: {backend} is down after {:?}",
        at.iter()
            .map(|it| it.duration_since(after))
            .collect::<Vec<_>>()
    );
    at[nodes - 1].duration_since(at[0]).unsigned_abs()
}

#[test]
fn all_nodes_see_a_failure_at_nearly_the_same_time() {
    if !can_run("agrees on failures") || !lab::skip::can_run("fleet agrees on failures", &["nft"]) {
        return;
    }
    let lab = build(5);
    let mut servers: Vec<Daemon> = serve(&lab, SERVING);
    let site = start(&lab, true);
    let mut times = Vec::new();
    for (what, backend) in [("refuses", 0), ("is silent", 1)] {
        let host = &lab.backends[backend];
        let now = Timestamp::now();
        match backend {
            0 => drop(servers.remove(0)),
            _ => silence(host),
        }
        let took = agreement(&site, &host.name, now);
        println!("fleet: a backend {what}: 5 nodes agree {took:?} after the first");
        times.push(took);
        site.wait("it is down for the fleet", || {
            let down = health(&site, 4).down;
            down.iter()
                .any(|it| it.backend == host.name && it.nodes == 5)
        });
    }
    // Checks are 5 s apart, and three that fail are a verdict: without hints, some nodes would be seconds late.
    assert!(
        times.iter().all(|it| *it <= Duration::from_millis(1500)),
        "{times:?}"
    );
    mend(&lab.backends[1]);
    site.wait("it is up again for the fleet", || {
        let down = health(&site, 4).down;
        down.len() == 1 && down[0].backend == lab.backends[0].name
    });
}

fn disagreement(site: &Site<'_>, node: usize) -> Option<Alert> {
    let alerts: Vec<Alert> = get(site, node, "/v1/alerts");
    alerts
        .into_iter()
        .find(|alert| alert.kind == "fleet_health")
}

#[test]
fn a_path_that_one_node_has_lost_is_no_fault_of_the_backend() {
    if !can_run("names a lost path") || !lab::skip::can_run("fleet names a lost path", &["nft"]) {
        return;
    }
    let lab = build(3);
    let _servers = serve(&lab, SERVING);
    let site = start(&lab, false);
    let backend = &lab.backends[0];
    let shares: Vec<f64> = [0, 2].map(|node| site.first_share(node)).into();
    let now = Timestamp::now();
    cut(backend, &lab.balancers[1]);
    site.wait("the node sees it down", || {
        taken_down(&site, &backend.name, now).len() == 1
    });
    let seen = Instant::now();
    for node in [0, 1, 2] {
        let what = "the alert names it";
        let found = deadline::poll(what, LIMIT, || Ok(disagreement(&site, node))).unwrap();
        println!("fleet: node {node} names it after {:?}", seen.elapsed());
        let wanted = format!(
            "lb-1 sees {} of VIP web down, which 2 other nodes see up: lb-1 itself is suspect",
            backend.name
        );
        assert_eq!(found.summary, wanted);
        let cause = found.cause.unwrap_or_default();
        for reason in [
            "lb-1: down, no ",
            "lb-0: up, its checks succeed",
            "lb-2: up, its checks succeed",
        ] {
            assert!(cause.contains(reason), "{reason}: {cause}");
        }
    }
    assert!(
        seen.elapsed() < Duration::from_secs(10),
        "{:?}",
        seen.elapsed()
    );
    // Nothing has changed for the others.
    for node in [0, 1, 2] {
        assert_eq!(health(&site, node).down, []);
    }
    assert_eq!([0, 2].map(|node| site.first_share(node)).to_vec(), shares);
    assert_eq!(taken_down(&site, &backend.name, now).len(), 1);
    // The node's own ring follows its own checks, and routers are to use the others.
    assert!(site.first_share(1) < 0.01);
    let suspect = |node: usize| {
        let proof = Proof::load(&Pins::at(site.nodes[node].bpffs())).unwrap();
        proof.suspect().unwrap().is_some()
    };
    assert_eq!([0, 1, 2].map(suspect), [false, true, false]);
    let shown = site.expect(0, 0, &["fleet", "status"]).out;
    assert!(
        shown.contains("lb-1 itself is suspect: it alone sees 1 of its 3 backends down"),
        "{shown}"
    );

    mend(backend);
    site.wait("nobody disagrees", || {
        (0..3).all(|node| {
            let health = health(&site, node);
            health.disagreements.is_empty() && health.suspect.is_none()
        })
    });
    site.wait("the alert is over", || {
        (0..3).all(|node| disagreement(&site, node).is_none_or(|it| it.resolves_at.is_some()))
    });
    assert!(!suspect(1));
}
