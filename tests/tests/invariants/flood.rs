//! 4. A SYN flood breaks no established connection and fills no table.

use std::time::Duration;

use lab::configuration::{Forward, State};
use lab::service::{Kind, address, vip_name};
use lab::topology::{Family, Layout};
use lab::traffic::flood::{FloodReport, flood};

use crate::site::{Site, assert_alive, build, can_run};

const FLOWS: usize = 200;
const SYNS: u64 = 1_000_000;
const FLOOD_LIMIT: Duration = Duration::from_secs(10);

fn flood_site(site: &Site<'_>, family: Family, seed: u32) -> FloodReport {
    let gateway = &site.lab.balancers[0].ports[0];
    let to = address(site.lab, Kind::Echo, family);
    let client = &site.lab.clients[0];
    let before: u64 = site.new_flows(family).values().sum();
    let report = flood(client, gateway, to, seed, SYNS, FLOOD_LIMIT).unwrap();
    let counted = site.new_flows(family).values().sum::<u64>() - before;
    println!("flood: {report:?}, {counted} of them got to the balancer");
    assert!(
        counted * 10 > report.sent * 9,
        "the flood got to the balancer: {report:?}, {counted} counted"
    );
    report
}

#[test]
fn does_not_track_a_flood_of_a_stable_vip() {
    if !can_run("flood of a stable VIP") {
        return;
    }
    let lab = build(Layout::OneArm);
    let mut site = Site::start(&lab, Forward::L2);
    let load = site.open(Family::V4, FLOWS);
    flood_site(&site, Family::V4, 1);
    assert_eq!(site.node.tracked_flows().unwrap(), 0);
    assert_alive("flooded", [&load]);
    drop(load);
    site.check_health_after_flood();
}

#[test]
fn a_flood_in_a_transition_breaks_no_connection() {
    if !can_run("flood in a transition") {
        return;
    }
    let lab = build(Layout::OneArm);
    let family = Family::V6;
    // The smallest possible table: the flood would fill each bucket many times.
    let mut site = Site::start_with(&lab, Forward::L2, |configuration| {
        configuration.track_flows = Some(8192);
    });
    let name = vip_name(Kind::Echo, family);
    let before = site.open(family, FLOWS);
    site.node
        .reload(|c| c.vip(&name).backend("backend-0").state = State::Drain)
        .unwrap();
    let during = site.open(family, FLOWS);
    flood_site(&site, family, 2);
    assert_alive("flooded in a transition", [&before, &during]);
    // A second change while the table is full of the flood.
    site.node
        .reload(|c| {
            c.vip(&name).backend("backend-0").state = State::Up;
            c.vip(&name).backend("backend-2").state = State::Drain;
        })
        .unwrap();
    flood_site(&site, family, 3);
    let after = site.open(family, FLOWS);
    assert_alive("flooded in a second transition", [&before, &during, &after]);
    let view = site.node.view().unwrap();
    let (taken, room) = (view.tracking.count(), view.tracking.capacity());
    println!("{taken} of {room} cells are taken");
    assert!(
        taken * 10 > room * 9,
        "{taken} of {room} cells: the flood fills the table"
    );
    drop((before, during, after));
    site.check_health_after_flood();
}
