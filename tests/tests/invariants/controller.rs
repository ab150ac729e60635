//! Invariant 6: forwarding continues and no connection breaks while the controller is stopped, killed,
//! restarted or upgraded.

use std::time::Duration;

use lab::configuration::{Forward, State};
use lab::link::ip_output;
use lab::service::{Kind, vip_name};
use lab::topology::{Family, Layout};
use lab::traffic::flows::FlowLoad;

use crate::site::{Site, assert_alive, build, can_run};

const FLOWS: usize = 200;

/// Returns the id of the program on the balancer's first interface.
fn program(site: &Site<'_>) -> u64 {
    let text = ip_output(&site.lab.balancers[0].ns, "-json link show dev eth0").unwrap();
    let links: serde_json::Value = serde_json::from_str(&text).unwrap();
    links[0]["xdp"]["prog"]["id"].as_u64().unwrap()
}

/// Checks that all flows continue and new ones can be opened.
fn assert_serves(when: &str, site: &Site<'_>, loads: &mut Vec<FlowLoad>) {
    assert_alive(when, loads.iter());
    for family in [Family::V4, Family::V6] {
        loads.push(site.open(family, FLOWS / 4));
    }
}

#[test]
fn forwarding_needs_no_controller() {
    if !can_run("controller") {
        return;
    }
    let lab = build(Layout::TwoArm);
    let mut site = Site::start(&lab, Forward::Ipip);
    let mut loads = vec![site.open(Family::V4, FLOWS), site.open(Family::V6, FLOWS)];

    let status = site.node.stop().unwrap();
    assert!(status.success(), "stopped: {status}");
    assert_serves("stopped", &site, &mut loads);
    let before = program(&site);
    site.node.resume().unwrap();
    assert_serves("started again", &site, &mut loads);
    assert_ne!(
        program(&site),
        before,
        "the new controller brings its program"
    );

    site.node.kill();
    assert_serves("killed", &site, &mut loads);
    site.node.resume().unwrap();
    assert_serves("started after it was killed", &site, &mut loads);
    drop(loads);
    site.check_health();
}

#[test]
fn a_transition_survives_the_controller() {
    if !can_run("controller in a transition") {
        return;
    }
    let lab = build(Layout::OneArm);
    let mut site = Site::start(&lab, Forward::L2);
    let mut loads = vec![site.open(Family::V4, FLOWS), site.open(Family::V6, FLOWS)];
    let names = [Family::V4, Family::V6].map(|family| vip_name(Kind::Echo, family));
    let set = |site: &mut Site<'_>, backend: &str, state: State| {
        let changed = site.node.reload(|c| {
            for name in &names {
                c.vip(name).backend(backend).state = state;
            }
        });
        changed.unwrap();
    };
    set(&mut site, "backend-0", State::Drain);
    site.node.kill();
    assert_serves("killed in a transition", &site, &mut loads);
    site.node.resume().unwrap();
    assert_serves("adopted in a transition", &site, &mut loads);
    set(&mut site, "backend-0", State::Up);
    set(&mut site, "backend-1", State::Drain);
    assert_serves("changed after adoption", &site, &mut loads);

    // Killed while it applies a change; the next controller completes it.
    for (delay_ms, weight) in [(0, 60), (2, 150), (5, 80), (10, 140), (20, 90)] {
        let delay = Duration::from_millis(delay_ms);
        let change = |c: &mut lab::configuration::Configuration| {
            for name in &names {
                c.vip(name).backend("backend-2").weight = weight;
            }
        };
        site.node.kill_while_reloading(delay, change).unwrap();
        assert_alive("killed in the middle of a change", &loads);
        site.node.resume().unwrap();
        assert_alive("completed by the next controller", &loads);
    }
    assert_serves("at the end", &site, &mut loads);
    drop(loads);
    site.check_health();
}
