//! 4. A flood breaks no established connection, refuses no new one, and SYNs fill no table.

use std::time::Duration;

use lab::configuration::{Forward, State, Vip};
use lab::deadline::until;
use lab::service::{Kind, address, vip_name};
use lab::topology::{Family, Layout};
use lab::traffic::flood::{Forged, flood};
use lab::traffic::flows::FlowLoad;

use lb_common::proto;

use crate::site::{LIMIT, Site, assert_alive, build, can_run};

const FLOWS: usize = 200;
const SYNS: u64 = 1_000_000;
const FLOOD_LIMIT: Duration = Duration::from_secs(10);

fn flood_site(site: &Site<'_>, family: Family, forged: Forged, seed: u32, count: u64) {
    let gateway = &site.lab.balancers[0].ports[0];
    let to = address(site.lab, Kind::Echo, family);
    let client = &site.lab.clients[0];
    let forwarded = || site.node.reasons().unwrap()["FORWARDED"];
    let before = forwarded();
    let report = flood(client, gateway, (to, forged), seed, count, FLOOD_LIMIT).unwrap();
    let counted = forwarded() - before;
    println!("flood: {report:?}, {counted} packets were forwarded");
    assert!(
        counted * 10 > report.sent * 9,
        "the flood got to the balancer: {report:?}, {counted} counted"
    );
}

/// The smallest possible table: a flood would fill each bucket many times.
const SMALLEST: u32 = 8192;

fn assert_full(site: &Site<'_>) {
    let view = site.node.view().unwrap();
    let (taken, room) = (view.tracking.count(), view.tracking.capacity());
    println!("{taken} of {room} cells are taken");
    assert!(
        taken * 10 > room * 9,
        "{taken} of {room} cells: the flood fills the table"
    );
}

#[test]
fn does_not_track_a_flood_of_a_stable_vip() {
    if !can_run("flood of a stable VIP") {
        return;
    }
    let lab = build(Layout::OneArm);
    let mut site = Site::start(&lab, Forward::L2);
    let load = site.open(Family::V4, FLOWS);
    flood_site(&site, Family::V4, Forged::Syn, 1, SYNS);
    assert_eq!(site.node.tracked_flows().unwrap(), 0);
    assert_alive("flooded", [&load]);
    drop(load);
    site.check_health();
}

#[test]
fn a_flood_in_a_transition_breaks_no_connection() {
    if !can_run("flood in a transition") {
        return;
    }
    let lab = build(Layout::OneArm);
    let family = Family::V6;
    let mut site = Site::start_with(&lab, Forward::L2, |configuration| {
        configuration.track_flows = Some(SMALLEST);
    });
    let name = vip_name(Kind::Echo, family);
    let before = site.open(family, FLOWS);
    site.node
        .reload(|c| c.vip(&name).backend("backend-0").state = State::Drain)
        .unwrap();
    let during = site.open(family, FLOWS);
    flood_site(&site, family, Forged::Syn, 2, SYNS);
    assert_alive("flooded in a transition", [&before, &during]);
    // A second change while the table is full of the flood.
    site.node
        .reload(|c| {
            c.vip(&name).backend("backend-0").state = State::Up;
            c.vip(&name).backend("backend-2").state = State::Drain;
        })
        .unwrap();
    flood_site(&site, family, Forged::Syn, 3, SYNS);
    let after = site.open(family, FLOWS);
    assert_alive("flooded in a second transition", [&before, &during, &after]);
    assert_full(&site);
    drop((before, during, after));
    site.check_health();
}

/// Packets of forged flows: enough to fill the table, although only two slots in five change.
const FORGED: u64 = 6 * SMALLEST as u64;

/// A change of the VIP while forged flows keep the tracking table full: connections from before and
/// during the change survive. Returns them.
fn change_while_full(site: &mut Site<'_>, family: Family, forged: Forged) -> (FlowLoad, FlowLoad) {
    let name = vip_name(Kind::Echo, family);
    let before = site.open(family, FLOWS);
    if forged == Forged::TwoDatagrams {
        flood_site(site, family, forged, 4, FORGED);
        assert_full(site);
    }
    site.node
        .reload(|c| c.vip(&name).backend("backend-0").state = State::Drain)
        .unwrap();
    flood_site(site, family, forged, 5, FORGED);
    assert_full(site);
    let during = site.open(family, FLOWS);
    flood_site(site, family, forged, 6, FORGED);
    assert_alive("forged flows", [&before, &during]);
    (before, during)
}

#[test]
fn forged_flows_of_another_vip_cost_no_connection() {
    if !can_run("forged flows of another VIP") {
        return;
    }
    let lab = build(Layout::OneArm);
    let family = Family::V4;
    let mut site = Site::start_with(&lab, Forward::L2, |configuration| {
        configuration.track_flows = Some(SMALLEST);
        configuration.transition_ttl = "5s".to_owned();
        let name = vip_name(Kind::Echo, family);
        let tcp = configuration.vip(&name).clone();
        configuration.vips.push(Vip {
            name: "udp".to_owned(),
            udp: true,
            ..tcp
        });
    });
    let (before, during) = change_while_full(&mut site, family, Forged::TwoDatagrams);
    // After the transition, only entries keep the connections to the drained backend.
    let at = address(&lab, Kind::Echo, family);
    until("the transition ends", LIMIT, || {
        let view = site.node.view()?;
        let vip = view.vip(at.ip(), at.port(), proto::TCP)?.unwrap();
        let ring = view.ring(vip)?;
        Ok(ring.is_some_and(|ring| ring.counts().in_transition == 0))
    })
    .unwrap();
    assert_alive("after the transition", [&before, &during]);
    drop((before, during));
    site.check_health();
}

#[test]
fn forged_connections_in_a_transition_cost_no_connection() {
    if !can_run("forged connections in a transition") {
        return;
    }
    let lab = build(Layout::OneArm);
    let mut site = Site::start_with(&lab, Forward::L2, |configuration| {
        configuration.track_flows = Some(SMALLEST);
    });
    let loads = change_while_full(&mut site, Family::V4, Forged::Handshake);
    drop(loads);
    site.check_health();
}
