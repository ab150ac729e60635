//! 2. Adding, draining and reweighting members breaks and moves no established connection.

use std::time::Duration;

use lab::configuration::{Forward, State};
use lab::deadline::until;
use lab::service::{Kind, backend, vip_name};
use lab::topology::{Family, Layout};
use lab::traffic::flows::FlowLoad;
use lb_common::proto;

use crate::site::{Site, assert_alive, build, can_run};

const FLOWS: usize = 400;

/// Makes several changes, opens flows after each, and checks that all flows continue.
fn go_through_changes(layout: Layout, forward: Forward, family: Family) {
    let lab = build(layout);
    let mut site = Site::start(&lab, forward);
    let name = vip_name(Kind::Echo, family);
    let mut loads = vec![site.open(family, FLOWS)];
    let step = |site: &mut Site<'_>, loads: &mut Vec<FlowLoad>, what: &str| {
        assert_alive(what, loads.iter());
        loads.push(site.open(family, FLOWS));
        let report = loads[loads.len() - 1].snapshot();
        println!("{what}: {:?}", report.per_backend());
        report.per_backend()
    };

    let new = backend(&lab.backends[3], forward, Kind::Echo, family, 100);
    site.node
        .reload(|c| c.vip(&name).backends.push(new))
        .unwrap();
    let got = step(&mut site, &mut loads, "added");
    assert!(got["backend-3"] > 0, "{got:?}");

    site.node
        .reload(|c| c.vip(&name).backend("backend-1").state = State::Drain)
        .unwrap();
    let got = step(&mut site, &mut loads, "drained");
    assert!(!got.contains_key("backend-1"), "{got:?}");

    site.node
        .reload(|c| c.vip(&name).backend("backend-0").weight = 20)
        .unwrap();
    step(&mut site, &mut loads, "weight changed");

    site.node
        .reload(|c| {
            c.vip(&name).backend("backend-1").state = State::Up;
            c.vip(&name).backend("backend-3").state = State::Drain;
            c.vip(&name).backend("backend-0").weight = 100;
        })
        .unwrap();
    let got = step(&mut site, &mut loads, "back, and another drained");
    assert!(got["backend-1"] > 0 && !got.contains_key("backend-3"));

    for load in &loads {
        assert_alive("at the end", [load]);
    }
    // The first flows show that the drained members still serve them.
    let first = loads[0].snapshot().per_backend();
    assert!(first["backend-1"] > 0, "{first:?}");
    drop(loads);
    site.check_health();
}

#[test]
fn changes_break_no_connection_of_ipip() {
    if can_run("changes of ipip") {
        go_through_changes(Layout::TwoArm, Forward::Ipip, Family::V4);
    }
}

#[test]
fn changes_break_no_connection_of_l2() {
    if can_run("changes of l2") {
        go_through_changes(Layout::OneArm, Forward::L2, Family::V6);
    }
}

#[test]
fn changes_break_no_connection_of_nat() {
    if can_run("changes of nat") {
        go_through_changes(Layout::TwoArm, Forward::Nat, Family::V4);
    }
}

#[test]
fn connections_survive_the_end_of_a_transition() {
    if !can_run("end of a transition") {
        return;
    }
    let lab = build(Layout::OneArm);
    let family = Family::V4;
    let mut site = Site::start_with(&lab, Forward::L2, |configuration| {
        configuration.transition_ttl = "2s".to_owned();
    });
    let name = vip_name(Kind::Echo, family);
    let before = site.open(family, FLOWS);
    site.node
        .reload(|c| c.vip(&name).backend("backend-1").state = State::Drain)
        .unwrap();
    let during = site.open(family, FLOWS);
    let moved = before.snapshot().per_backend()["backend-1"];
    until("the transition is over", Duration::from_secs(10), || {
        let view = site.node.view()?;
        let vip = view.vip(lab.vip(family, 1), Kind::Echo.port(), proto::TCP)?;
        let ring = view.ring(vip.unwrap_or(u16::MAX))?;
        Ok(ring.is_some_and(|ring| {
            let counts = ring.counts();
            counts.in_transition == 0 && counts.settling > 0
        }))
    })
    .unwrap();
    let after = site.open(family, FLOWS);
    assert_alive("after the transition", [&before, &during, &after]);
    let kept = before.stop().per_backend()["backend-1"];
    assert_eq!(kept, moved, "the drained backend has its flows still");
    let tracked = site.node.tracked_flows().unwrap();
    assert!(tracked > 0, "that is what the table is for");
    drop((during, after));
    site.check_health();
}
