//! etcd and controllers that fail while a change is rolled out.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use lb_api::{FleetNodeState, FleetRolloutState, FleetState, RevisionState};

use crate::site::{NODES, Site, build, can_run, rolled_back};

/// The place of a node in the site, by its name in the fleet.
fn index(node: &str) -> usize {
    node.rsplit('-').next().unwrap().parse().unwrap()
}

/// The node that is changed first, once it is on trial.
fn canary(site: &Site<'_>, revision: u64) -> usize {
    let mut found = None;
    let how = format!("fleet revision {revision}");
    site.wait("the canary is changed", || {
        found = (0..NODES).find(|node| {
            let last = site.fleet_changes(*node).pop();
            last.is_some_and(|it| it.how == how && site.active(*node) == it.number)
        });
        found.is_some()
    });
    found.unwrap()
}

fn leader(site: &Site<'_>) -> usize {
    let mut found = None;
    site.wait("there is a leader", || {
        found = site.fleet(0).leader.map(|leader| index(&leader));
        found.is_some()
    });
    found.unwrap()
}

fn has_ended(state: &FleetState, revision: u64) -> bool {
    let rollout = state.rollout.as_ref();
    rollout.is_some_and(|it| it.revision == revision && it.state.is_over())
}

#[test]
fn a_change_ends_whatever_fails() {
    if !can_run("faults") {
        return;
    }
    let lab = build(NODES);
    let mut site = Site::start(&lab);
    etcd_freezes(&site);
    leader_dies(&mut site);
    leader_stops(&mut site);
    canary_restarts(&mut site);
    waits_for_a_person(&site);
    let requests = site.assert_nothing_lost();
    eprintln!("fleet: {requests} requests, none lost");
}

/// Without the fleet's confirmation the canary undoes the change by itself.
fn etcd_freezes(site: &Site<'_>) {
    let file = site.file("frozen.toml", 50, false);
    let begun = ["fleet", "apply", &file, "--bake", "2s", "--detach"];
    site.expect(0, 0, &begun);
    let canary = canary(site, 2);
    site.etcd.freeze().unwrap();
    let undone = site.wait("the canary undoes the change", || {
        site.fleet_changes(canary).last().is_some_and(rolled_back)
    });
    eprintln!("fleet: without etcd the canary undid the change after {undone:?} (confirm 10 s)");
    assert!(undone < Duration::from_secs(60), "{undone:?}");
    for node in (0..NODES).filter(|node| *node != canary) {
        let of_candidate = site.fleet_changes(node);
        assert!(of_candidate.iter().all(|it| it.how != "fleet revision 2"));
    }
    site.etcd.thaw().unwrap();
    site.wait("the rollout has ended", || has_ended(&site.fleet(0), 2));
    let rollout = site.fleet(0).rollout.unwrap();
    assert_eq!(rollout.state, FleetRolloutState::Undone, "{rollout:?}");
    site.wait_in_sync(1);
}

/// Another node leads, and goes on with the rollout once all nodes are back.
fn leader_dies(site: &mut Site<'_>) {
    let leader = leader(site);
    let other = (leader + 1) % NODES;
    let file = site.file("leader.toml", 50, false);
    let canary_name = format!("lb-{other}");
    let begun = [
        "fleet",
        "apply",
        &file,
        "--bake",
        "2s",
        "--detach",
        "--canary",
        &canary_name,
    ];
    site.expect(0, other, &begun);
    assert_eq!(canary(site, 3), other);
    // A node that is away when its wave begins fails the rollout.
    site.expect(0, other, &["fleet", "pause"]);
    site.nodes[leader].kill();
    let taken = another_leads(site, leader);
    site.nodes[leader].try_start(&[]).unwrap();
    site.wait("the node is back", || {
        let nodes = site.fleet(other).nodes;
        nodes.iter().all(|it| it.state != FleetNodeState::Away)
    });
    site.expect(0, other, &["fleet", "resume"]);
    site.wait("the rollout has ended", || has_ended(&site.fleet(other), 3));
    let rollout = site.fleet(other).rollout.unwrap();
    assert_eq!(rollout.state, FleetRolloutState::Confirmed, "{rollout:?}");
    site.wait_in_sync(3);
    eprintln!("fleet: another leader after {taken:?}, which goes on with the rollout");
}

fn another_leads(site: &Site<'_>, leader: usize) -> Duration {
    site.wait("another node leads", || {
        let state = site.fleet((leader + 1) % NODES);
        state.leader.is_some_and(|it| index(&it) != leader)
    })
}

/// A controller that is stopped does not leave the fleet without a leader until its lease ends (10 s).
fn leader_stops(site: &mut Site<'_>) {
    let leader = leader(site);
    let begun = Instant::now();
    site.nodes[leader].stop().unwrap();
    let stopped = begun.elapsed();
    another_leads(site, leader);
    let taken = begun.elapsed();
    eprintln!("fleet: the leader stopped in {stopped:?}; another leader after {taken:?}");
    assert!(taken < Duration::from_secs(5), "{taken:?}");
    site.nodes[leader].try_start(&[]).unwrap();
    site.wait_in_sync(3);
}

/// The deadline of a trial survives a restart, and the rollout goes on.
fn canary_restarts(site: &mut Site<'_>) {
    let file = site.file("restarted.toml", 70, false);
    let begun = [
        "fleet", "apply", &file, "--bake", "3s", "--detach", "--canary", "lb-1",
    ];
    site.expect(0, 0, &begun);
    assert_eq!(canary(site, 4), 1);
    site.nodes[1].kill();
    site.nodes[1].try_start(&[]).unwrap();
    site.wait("the rollout has ended", || has_ended(&site.fleet(0), 4));
    let rollout = site.fleet(0).rollout.unwrap();
    assert_eq!(rollout.state, FleetRolloutState::Confirmed, "{rollout:?}");
    site.wait_in_sync(4);
}

/// While etcd answers, a candidate stays on trial for longer than the nodes' own deadline.
fn waits_for_a_person(site: &Site<'_>) {
    let file = site.file("manual.toml", 30, false);
    let begun = [
        "fleet", "apply", &file, "--manual", "--now", "--bake", "1s", "--detach",
    ];
    site.expect(0, 0, &begun);
    let state = |node| site.fleet(node).rollout.unwrap().state;
    site.wait("the rollout waits", || {
        state(0) == FleetRolloutState::AwaitingConfirm
    });
    let deadline = |node: usize| match site.fleet_changes(node).pop().unwrap().state {
        RevisionState::AwaitingConfirm { until } => until,
        state => panic!("{state:?}"),
    };
    let first: Vec<Timestamp> = (0..NODES).map(deadline).collect();
    let busy = site.expect(1, 1, &["backend", "weight", "web/backend-1", "90"]);
    assert!(
        busy.err.contains("`evenkeel fleet rollback` undoes it"),
        "{busy:?}"
    );
    // Only the fleet keeps a change of the fleet.
    let refused = site.expect(1, 1, &["confirm"]);
    assert!(
        refused.err.contains("evenkeel fleet confirm"),
        "{refused:?}"
    );
    site.wait("the first deadline has passed", || {
        let last = first.iter().max().unwrap();
        Timestamp::now() > *last
    });
    for (node, first) in first.iter().enumerate() {
        assert!(deadline(node) > *first, "node {node}");
    }
    site.expect(0, 2, &["fleet", "confirm"]);
    let head = site.fleet(0).head.unwrap().revision;
    site.wait_in_sync(head);
    for node in 0..NODES {
        let last = site.fleet_changes(node).pop().unwrap();
        assert_eq!(last.state, RevisionState::Applied, "node {node}");
    }
}
