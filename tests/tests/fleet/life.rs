//! Everyday use, and nodes and etcd that are away.

use std::time::Duration;

use lab::link::ip;
use lab::topology::Family;
use lb_api::{FleetNodeState, FleetRolloutState, RevisionState};

use crate::site::{NODES, Site, build, can_run, rolled_back};

/// How long the trial of a bad change may last.
const BAKE_S: u32 = 3;

#[test]
fn changes_reach_all_nodes_or_one() {
    if !can_run("life") {
        return;
    }
    let lab = build(NODES);
    let site = Site::start(&lab);
    good_change(&site);
    shown_again(&site);
    file_changes(&site);
    bad_change(&site);
    local_change(&site);
    partition(&site);
    etcd_away(&site);
    let requests = site.assert_nothing_lost();
    eprintln!("fleet: {requests} requests, none lost");
}

fn good_change(site: &Site<'_>) {
    let file = site.file("good.toml", 50, false);
    let planned = site.expect(2, 1, &["fleet", "plan", &file]);
    assert!(planned.out.contains("3 nodes would take it"), "{planned:?}");
    let applied = site.expect(
        0,
        1,
        &["fleet", "apply", &file, "--why", "less for the first"],
    );
    assert!(
        applied.out.contains("revision 2 is confirmed"),
        "{applied:?}"
    );
    site.wait_in_sync(2);
    for node in 0..NODES {
        let share = site.first_share(node);
        assert!((share - 0.2).abs() < 0.01, "node {node}: {share}");
    }
    eprintln!(
        "fleet: a good change of {NODES} nodes took {:?}",
        applied.took
    );
    // The status is published once per second.
    site.wait("the status has the fleet", || {
        let status = site.expect(0, 2, &["status"]).out;
        status.contains("fleet lab: lb-2 is in sync, revision 2")
    });
    let history = site.expect(0, 0, &["fleet", "history"]).out;
    assert!(history.contains("less for the first"), "{history}");
    let diff = site.expect(0, 0, &["fleet", "diff"]).out;
    assert!(diff.contains("-weight = 100\n+weight = 50"), "{diff}");
    site.expect(0, 0, &["fleet", "doctor"]);
    for port in 40_000..40_010 {
        let explained = site.expect(0, 0, &["fleet", "explain", &flow(site, port), "--syn"]);
        assert!(explained.out.contains("3 nodes agree"), "{explained:?}");
    }
}

fn flow(site: &Site<'_>, port: u16) -> String {
    let vip = site.lab.vip(Family::V4, 1);
    format!("tcp 198.51.100.7:{port} > {vip}:80")
}

/// What `fleet show` prints is the head again, and a text without VIPs or with a secret is none.
fn shown_again(site: &Site<'_>) {
    let shown = site.expect(0, 1, &["fleet", "show"]).out;
    let file = site.write("shown.toml", &shown);
    site.expect(0, 1, &["fleet", "plan", &file]);
    let applied = site.expect(1, 1, &["fleet", "apply", &file]);
    assert!(applied.err.contains("no changes"), "{applied:?}");
    let none = site.write("none.toml", "# [[vip]]\n");
    let seed = "000102030405060708090a0b0c0d0e0f";
    // Without the line that divides it from the VIPs, the comment belongs to them.
    let undivided = shown.replace("# The tables below", "# Tables below");
    let secret = site.write(
        "secret.toml",
        &format!("# hash_seed = \"{seed}\"\n{undivided}"),
    );
    for command in ["init", "plan", "apply"] {
        let from: &[&str] = if command == "init" { &["--from"] } else { &[] };
        for (file, why) in [(&none, "no [[vip]] table"), (&secret, "secret in line 1")] {
            let refused = site.expect(1, 1, &[&["fleet", command], from, &[file]].concat());
            assert!(refused.err.contains(why), "{command}: {refused:?}");
        }
    }
}

/// Reloads of a file with the VIPs of the fleet: what is not a change of the VIPs is no difference.
fn file_changes(site: &Site<'_>) {
    let node = &site.nodes[0];
    let original = std::fs::read_to_string(node.file()).unwrap();
    let (local, _) = original.split_once("[[vip]]").unwrap();
    let vips = std::fs::read_to_string(site.file("good.toml", 50, false)).unwrap();
    let reload = |code, local: &str| {
        let spaced = vips.replace("weight = ", "weight  =  ");
        node.write_configuration(&format!("{local}{spaced}"))
            .unwrap();
        let reloaded = site.expect(code, 0, &["reload"]);
        assert!(!reloaded.out.contains("only this node"), "{reloaded:?}");
        // The agent looks twice per second.
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(site.fleet(0).state, FleetNodeState::InSync, "{reloaded:?}");
        reloaded
    };
    let seed = local.lines().find(|line| line.starts_with("hash_seed"));
    let other_seed = local.replace(
        seed.unwrap(),
        "hash_seed = \"0123456789abcdef0123456789abcdef\"",
    );
    let refused = reload(1, &other_seed);
    assert!(refused.err.contains("evenkeel fleet import"), "{refused:?}");
    reload(
        0,
        &local.replace("[change]", "[change]\nkeep_revisions = 60"),
    );
    let (above, _) = local.split_once("[fleet]").unwrap();
    reload(0, above);
    assert!(
        node.log().contains("[fleet] changed: takes effect"),
        "{}",
        node.log()
    );
    reload(0, local);
}

/// A backend that never answers its checks is added.
fn bad_change(site: &Site<'_>) {
    let before: Vec<u64> = (0..NODES).map(|node| site.active(node)).collect();
    let file = site.file("bad.toml", 50, true);
    let bake = format!("{BAKE_S}s");
    let applied = site.expect(4, 0, &["fleet", "apply", &file, "--bake", &bake]);
    assert!(applied.out.contains("never came up"), "{applied:?}");
    site.wait_in_sync(2);
    let changed: Vec<_> = (0..NODES)
        .filter_map(|node| {
            let last = site.fleet_changes(node).pop()?;
            last.how.contains("revision 3").then_some(last)
        })
        .collect();
    let [canary] = &changed[..] else {
        panic!("more nodes than the canary were changed: {changed:?}")
    };
    assert!(rolled_back(canary), "{canary:?}");
    let RevisionState::RolledBack { at, .. } = &canary.state else {
        unreachable!("it was rolled back")
    };
    let active = at.duration_since(canary.at).as_secs_f64();
    eprintln!(
        "fleet: a bad change reached 1 of {NODES} nodes, for {active:.1} s (bake {BAKE_S} s)"
    );
    // 3 s of a machine that has nothing else to do.
    assert!(active <= f64::from(BAKE_S) + 20.0, "{active} s");
    let after: Vec<u64> = (0..NODES).map(|node| site.active(node)).collect();
    assert_eq!(before, after);
}

/// A change on one node is possible, warned about, shown, and keeps rollouts from it.
fn local_change(site: &Site<'_>) {
    let change = |arguments: &[&str]| {
        let changed = site.expect(0, 1, &[&["backend"], arguments, &["--bake", "0s"]].concat());
        let warning = "only this node of the fleet lab";
        assert!(changed.out.contains(warning), "{changed:?}");
    };
    let is = |state| site.fleet(1).state == state;
    change(&["drain", "web/backend-1"]);
    site.wait("the node differs", || is(FleetNodeState::Differs));
    change(&["undrain", "web/backend-1"]);
    site.wait("the node runs the head again", || {
        is(FleetNodeState::InSync)
    });
    change(&["weight", "web/backend-1", "90"]);
    site.wait("the node differs", || is(FleetNodeState::Differs));
    // Some slots have moved there.
    let is_disputed = |port: u16| {
        let explained = site.run(0, &["fleet", "explain", &flow(site, port), "--syn"]);
        explained.code == 1 && explained.out.contains("nodes disagree")
    };
    assert!(
        (1..1_000).any(is_disputed),
        "the node chooses as the others do"
    );
    let file = site.file("good.toml", 60, false);
    let refused = site.expect(3, 0, &["fleet", "apply", &file]);
    assert!(refused.out.contains("lb-1"), "{refused:?}");
    site.expect(0, 1, &["fleet", "join"]);
    site.wait_in_sync(2);
}

/// A node that reaches no etcd keeps forwarding, and follows once it does.
fn partition(site: &Site<'_>) {
    let cut = |verb: &str| {
        let ns = &site.lab.balancers[2].ns;
        ip(ns, &[format!("route {verb} blackhole 10.77.0.200/32")]).unwrap();
    };
    let head = site.fleet(0).head.unwrap().revision;
    cut("add");
    site.wait("the others miss the node", || {
        let nodes = site.fleet(0).nodes;
        nodes
            .iter()
            .any(|it| it.node == "lb-2" && it.state == FleetNodeState::Away)
    });
    site.wait("the node misses etcd", || !site.fleet(2).connected);
    let file = site.file("good.toml", 80, false);
    let applied = site.expect(0, 0, &["fleet", "apply", &file]);
    assert!(applied.out.contains("away: lb-2"), "{applied:?}");
    let confirmed = site.fleet(0).head.unwrap().revision;
    assert!(confirmed > head);
    assert!(
        site.fleet(2)
            .confirmed
            .is_some_and(|it| it.revision == head)
    );
    cut("del");
    let applied = site.wait("the node runs the head", || {
        (site.first_share(2) - 80.0 / 280.0).abs() < 0.01
    });
    site.wait_in_sync(confirmed);
    eprintln!("fleet: a node that etcd did not reach caught up in {applied:?}");
    assert!(applied < Duration::from_secs(50), "{applied:?}");
}

/// Without etcd nothing changes, and nothing is needed.
fn etcd_away(site: &Site<'_>) {
    let before: Vec<u64> = (0..NODES).map(|node| site.active(node)).collect();
    site.etcd.freeze().unwrap();
    // This takes longer than the leases.
    site.wait("all nodes miss etcd", || {
        (0..NODES).all(|node| !site.fleet(node).connected)
    });
    let refused = site.run(0, &["fleet", "apply", &site.file("good.toml", 90, false)]);
    assert_eq!(refused.code, 1, "{refused:?}");
    site.wait("the status says so", || {
        let status = site.expect(0, 0, &["status"]).out;
        status.contains("etcd does not answer")
    });
    let after: Vec<u64> = (0..NODES).map(|node| site.active(node)).collect();
    assert_eq!(before, after);
    site.etcd.thaw().unwrap();
    let back = site.wait("all nodes reach etcd", || {
        (0..NODES).all(|node| site.fleet(node).connected)
    });
    let state = site.fleet(0);
    assert_eq!(state.rollout.unwrap().state, FleetRolloutState::Confirmed);
    eprintln!("fleet: etcd back after {back:?}");
}
