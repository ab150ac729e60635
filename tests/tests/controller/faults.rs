//! Each write to a file or a map fails once, and is the point where the process dies once.
//!
//! Fault points are counted from the start of the process. The first are those of the start, which must not
//! affect forwarding either.

use lab::configuration::{Configuration, Vip};
use lab::deadline::until;
use lab::service::{FAMILIES, Kind, vip_name};
use serde_json::json;

use crate::site::{Flows, LIMIT, Site, build, can_run};

/// More fault points than exist.
const MOST: u32 = 200;

/// The change: a weight in both echo VIPs, a backend removed from the first, one added to it.
fn other(site: &Site<'_>, of: &Configuration) -> Configuration {
    let mut other = of.clone();
    for family in FAMILIES {
        let backend = other.vip(&vip_name(Kind::Echo, family));
        let weight = &mut backend.backend("backend-0").weight;
        *weight = if *weight == 100 { 40 } else { 100 };
    }
    let weight = other.vips[1].backends[0].weight;
    let backends = &mut other.vips[0].backends;
    let is_there = backends.iter().any(|b| b.name == "backend-2");
    backends.clone_from(&site.node.configuration().vips[0].backends);
    backends.remove(if is_there { 2 } else { 3 });
    backends[0].weight = weight;
    other
}

/// Phase in which a fault occurred.
enum Met {
    /// During the start.
    Start,
    /// During the change.
    Change,
    /// Not at all: there are fewer points.
    Nothing,
}

fn fault(site: &mut Site<'_>, flows: &Flows, fault: &str) -> Met {
    let (before, old) = site.node.active().unwrap();
    let new = other(site, &old);
    let logged = site.node.balancer.log().len();
    site.node.stop().unwrap();
    let is_up = site
        .node
        .balancer
        .try_start(&[("EVENKEEL_FAULT", fault)])
        .unwrap();
    if is_up {
        let hit = site.node.balancer.log()[logged..].contains("injecting a fault");
        let text = new.to_toml(site.lab.balancers[0].directory());
        let change = json!({"kind": "config", "file": "/new.toml", "text": text});
        let answer = site
            .operator
            .request("POST", "/v1/apply", &json!({"change": change}));
        let (is_old, is_new) = (site.node.difference(&old), site.node.difference(&new));
        match &answer {
            Ok((200, _)) => assert_eq!(is_new, None, "{fault}"),
            Ok((status, error)) => {
                assert_eq!((*status, is_old), (500, None), "{fault}: {error}");
            }
            // The controller died: each VIP has the old or the new ring, and the next start decides.
            Err(_) => {
                for (old, new) in old.vips.iter().zip(&new.vips) {
                    let between = [old, new].map(|vip| difference_of(site, vip));
                    let is_whole = between.iter().any(Option::is_none);
                    assert!(is_whole, "{fault}: {between:?}");
                }
            }
        }
        if hit {
            finish(site, flows, fault, before, [&old, &new]);
            return Met::Start;
        }
    }
    let hit = site.node.balancer.log()[logged..].contains("injecting a fault");
    finish(site, flows, fault, before, [&old, &new]);
    match (hit, is_up) {
        (false, _) => Met::Nothing,
        (true, true) => Met::Change,
        (true, false) => Met::Start,
    }
}

/// Returns how the maps differ from a VIP's configuration, if at all.
fn difference_of(site: &Site<'_>, vip: &Vip) -> Option<String> {
    let mut only = site.node.configuration().clone();
    only.vips = vec![vip.clone()];
    site.node.difference(&only)
}

/// Checks that the next start is clean, with the old or the new state.
fn finish(
    site: &mut Site<'_>,
    flows: &Flows,
    fault: &str,
    before: u64,
    [old, new]: [&Configuration; 2],
) {
    flows.assert_intact(fault);
    site.node.kill();
    site.node.restart().unwrap();
    let (number, running) = site.node.active().unwrap();
    let expected = if number == before { old } else { new };
    assert_eq!(running.vips, expected.vips, "{fault}");
    assert!(number >= before, "{fault}");
    site.assert_settled(fault);
    let temporary = std::fs::read_dir(site.node.balancer.state_dir().join("revisions")).unwrap();
    for file in temporary {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(!name.ends_with(".tmp"), "{fault}: {name} was left");
    }
}

fn every_point(kind: &str) {
    let lab = build();
    // The controller itself does not check this.
    let mut site = Site::start(&lab, |_| {});
    let flows = site.open(50);
    let (mut of_start, mut of_change) = (0, 0);
    for point in 1.. {
        assert!(point < MOST, "it does not end");
        match fault(&mut site, &flows, &format!("{point}{kind}")) {
            Met::Start => of_start += 1,
            Met::Change => of_change += 1,
            Met::Nothing => break,
        }
        if point % 10 == 0 {
            flows.assert_alive(&format!("{point}{kind}"));
        }
    }
    println!("faults{kind}: {of_start} points of a start, {of_change} of a change");
    assert!(of_change >= 15, "only {of_change} points");
    flows.assert_alive("at the end");
    until("it answers", LIMIT, || {
        Ok(site.operator.controller().is_some())
    })
    .unwrap();
    drop(flows);
    site.check_health();
}

#[test]
fn any_write_may_fail() {
    if can_run("faults that fail") {
        every_point("");
    }
}

#[test]
fn any_write_may_be_the_last() {
    if can_run("faults that kill") {
        every_point(":kill");
    }
}
