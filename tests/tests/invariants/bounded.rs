//! Invariant 7, bounded load: a client that opens all connections overruns no backend, and every connection stays
//! with its backend through changes of the ring, of the bound, and of the controller.

use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use lab::configuration::{Configuration, Forward, State};
use lab::deadline::until;
use lab::service::{FAMILIES, Kind, address, vip_name};
use lab::topology::{Family, Layout};

use crate::drain::{Ending, Requests};
use crate::site::{LIMIT, Site, WEIGHTS, assert_alive, build, can_run};

const FLOWS: usize = 200;
/// Each of a client's thousand ports several times.
const REQUESTS: u64 = 8_000;
const CLIENTS: usize = 4;

fn every_vip(configuration: &mut Configuration, change: impl Fn(&mut lab::configuration::Vip)) {
    for family in FAMILIES {
        change(configuration.vip(&vip_name(Kind::Echo, family)));
    }
}

/// New flows of each backend beyond its bound.
fn excesses(site: &Site<'_>, family: Family) -> Vec<f64> {
    let counts = site.new_flows_of(Kind::Echo, family);
    let (flows, weights): (u64, u32) = (counts.values().sum(), WEIGHTS.iter().sum());
    let beyond = |(count, weight): (&u64, u32)| {
        *count as f64 - 1.25 * flows as f64 * f64::from(weight) / f64::from(weights)
    };
    counts.values().zip(WEIGHTS).map(beyond).collect()
}

fn holds(layout: Layout, forward: Forward) {
    let lab = build(layout);
    let mut site = Site::start_with(&lab, forward, |configuration| {
        every_vip(configuration, |vip| {
            vip.source_affinity = true;
            vip.bound = "factor = 1.25".to_owned();
        });
    });
    let mut loads = vec![site.open(Family::V4, FLOWS), site.open(Family::V6, FLOWS)];
    for family in FAMILIES {
        let excesses = excesses(&site, family);
        println!("{forward:?}, {family:?}: new flows beyond the bound: {excesses:.1?}");
        // All flows are of one source: unbounded, one backend would get 100 or more too many. Each CPU
        // tolerates a few.
        assert!(excesses.iter().all(|&beyond| beyond < 15.0), "{excesses:?}");
    }
    let reload = |site: &mut Site<'_>, change: &dyn Fn(&mut lab::configuration::Vip)| {
        site.node
            .reload(|configuration| every_vip(configuration, change))
            .unwrap();
    };

    reload(&mut site, &|vip| vip.backend("backend-2").weight = 150);
    assert_alive("another ring", &loads);
    loads.push(site.open(Family::V4, FLOWS / 4));
    reload(&mut site, &|vip| {
        vip.backend("backend-0").state = State::Drain;
    });
    loads.push(site.open(Family::V6, FLOWS / 4));
    assert_alive("a backend drained", &loads);

    site.node.kill();
    loads.push(site.open(Family::V4, FLOWS / 4));
    assert_alive("the controller killed", &loads);
    site.node.resume().unwrap();
    loads.push(site.open(Family::V4, FLOWS / 4));
    assert_alive("adopted", &loads);

    reload(&mut site, &|vip| vip.bound.clear());
    assert_alive("no bound any more", &loads);
    site.node.kill();
    site.node.resume().unwrap();
    assert_alive("adopted without bound", &loads);
    reload(&mut site, &|vip| {
        vip.backend("backend-0").state = State::Up;
        vip.bound = "factor = 1.1, capacity = false".to_owned();
    });
    loads.push(site.open(Family::V4, FLOWS / 4));
    assert_alive("bounded again", &loads);
    drop(loads);
    site.check_health();
}

/// A client with few ports reuses them, and most of its connections are spilled.
fn serves_reused_ports(layout: Layout, forward: Forward) {
    let lab = build(layout);
    let mut site = Site::start_kind_with(&lab, forward, Kind::Web, |vip| {
        vip.source_affinity = true;
        vip.bound = "factor = 1.25".to_owned();
    });
    let client = &lab.clients[0];
    let ports = ("net.ipv4.ip_local_port_range", "20000 20999");
    client.ns.set_sysctl(ports.0, ports.1).unwrap();
    client.ns.set_sysctl("net.ipv4.tcp_tw_reuse", "1").unwrap();
    let to = address(&lab, Kind::Web, Family::V4);
    let requests = Requests::default();
    thread::scope(|scope| {
        let _ending = Ending(&requests);
        for _ in 0..CLIENTS {
            scope.spawn(|| client.ns.enter(|| requests.run(to)));
        }
        let enough = || Ok(requests.answered.load(Relaxed) >= REQUESTS);
        until("requests are answered", 8 * LIMIT, enough).unwrap();
    });
    let counts = site.new_flows_of(Kind::Web, Family::V4);
    println!(
        "{forward:?}: {} requests, new flows {counts:?}",
        requests.answered.load(Relaxed)
    );
    assert_eq!(requests.failed.load(Relaxed), 0);
    assert!(
        counts.values().all(|&count| count > REQUESTS / 20),
        "{counts:?}"
    );
    site.check_health();
}

#[test]
fn spilled_ports_of_l2_are_reused() {
    if lab::skip::can_run(
        "invariants spilled ports of l2",
        &["ip", "ethtool", "nginx"],
    ) {
        serves_reused_ports(Layout::OneArm, Forward::L2);
    }
}

#[test]
fn spilled_ports_of_nat_are_reused() {
    if lab::skip::can_run(
        "invariants spilled ports of nat",
        &["ip", "ethtool", "nginx"],
    ) {
        serves_reused_ports(Layout::TwoArm, Forward::Nat);
    }
}

#[test]
fn a_bound_of_l2_breaks_no_connection() {
    if can_run("bound of l2") {
        holds(Layout::OneArm, Forward::L2);
    }
}

#[test]
fn a_bound_of_ipip_breaks_no_connection() {
    if can_run("bound of ipip") {
        holds(Layout::TwoArm, Forward::Ipip);
    }
}

#[test]
fn a_bound_of_nat_breaks_no_connection() {
    if can_run("bound of nat") {
        holds(Layout::TwoArm, Forward::Nat);
    }
}
