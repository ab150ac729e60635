//! What happens to etcd, and what the nodes make of it.

use std::time::{Duration, Instant};

use lb_api::{FleetApplyRequest, FleetNodeState, FleetRolloutState};
use lb_etcd::Options;

use crate::fleet::{FIRST, Member, World, cluster, until_of, wait};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_survives_the_loss_of_a_member_and_compaction() {
    let Some(cluster) = cluster("fleet: member lost", Options::default()) else {
        return;
    };
    let mut world = World::start(cluster, 3).await;
    let started = world.apply("# two\n").await;
    let leader = world.cluster.leader();
    world.cluster.kill(leader);
    let (state, reason) = world.end(started.revision).await;
    assert_eq!(state, FleetRolloutState::Confirmed, "{reason}");

    // The other members have forgotten what watches of the killed one would ask for.
    world.cluster.compact();
    world.cluster.restart(leader);
    let started = world.apply("# three\n").await;
    world.cluster.compact();
    let (state, reason) = world.end(started.revision).await;
    assert_eq!(state, FleetRolloutState::Confirmed, "{reason}");
    world.all_run("# three\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_is_undone_without_etcd_and_the_fleet_catches_up_with_it() {
    let Some(cluster) = cluster("fleet: quorum frozen", Options::default()) else {
        return;
    };
    let world = World::start(cluster, 3).await;
    let candidate = "# two\n";
    let request = FleetApplyRequest {
        text: candidate.to_owned(),
        manual: true,
        ..FleetApplyRequest::default()
    };
    let applied = world.nodes[0].fleet.apply(request, "root".to_owned()).await;
    let started = applied.unwrap();
    wait("a node has the candidate", || world.reached(candidate) > 0).await;
    let frozen = Instant::now();
    for member in [0, 1] {
        world.cluster.freeze(member);
    }
    world.all_run(FIRST).await;
    println!("undone {:?} after the quorum was frozen", frozen.elapsed());
    until_of(&world.nodes[1].fleet, "etcd is away", |state| {
        !state.connected
    })
    .await;
    let reached = world.reached(candidate);
    let changes: Vec<usize> = world
        .nodes
        .iter()
        .map(|member| member.node.changes())
        .collect();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after: Vec<usize> = world
        .nodes
        .iter()
        .map(|member| member.node.changes())
        .collect();
    assert_eq!(changes, after, "changes without etcd");
    for member in [0, 1] {
        world.cluster.thaw(member);
    }
    let thawed = Instant::now();
    let (state, reason) = world.end(started.revision).await;
    println!(
        "caught up {:?} after the quorum was back: {reason}",
        thawed.elapsed()
    );
    assert_eq!(state, FleetRolloutState::Undone, "{reason}");
    assert_eq!(world.reached(candidate), reached);
    world.all(FleetNodeState::InSync).await;
    world.all_run(FIRST).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_and_an_older_etcd_are_refused_until_an_import() {
    let Some(cluster) = cluster("fleet: etcd wiped", Options::default()) else {
        return;
    };
    let mut world = World::start(cluster, 3).await;
    let folder = tempfile::tempdir().unwrap();
    let snapshot = folder.path().join("snapshot");
    world.cluster.save(&snapshot);
    let second = "# two\n";
    let started = world.apply(second).await;
    world.end(started.revision).await;
    world.all(FleetNodeState::InSync).await;
    let changes = |world: &World| -> Vec<usize> {
        world
            .nodes
            .iter()
            .map(|member| member.node.changes())
            .collect()
    };
    let before = changes(&world);
    for from in [Some(&*snapshot), None] {
        world.cluster.restore(from);
        for member in &world.nodes {
            let state = until_of(&member.fleet, "refusal", |state| {
                state.state == FleetNodeState::Refused
            })
            .await;
            assert!(
                state.reason.contains("evenkeel fleet import"),
                "{}",
                state.reason
            );
        }
        let applied = world.nodes[1]
            .fleet
            .apply(FleetApplyRequest::default(), "root".to_owned())
            .await;
        assert!(applied.is_err());
        assert_eq!(changes(&world), before, "a refused etcd changed a node");
        let imported = world.nodes[1].fleet.import("root".to_owned()).await;
        let imported = imported.unwrap_or_else(|error| panic!("{}", error.message));
        assert!(imported.number > 2, "{imported:?}");
        world.all(FleetNodeState::InSync).await;
    }
    assert_eq!(changes(&world), before);
    let started = world.apply("# three\n").await;
    let (state, reason) = world.end(started.revision).await;
    assert_eq!(state, FleetRolloutState::Confirmed, "{reason}");
    world.all_run("# three\n").await;
}

/// It answers, so the fleet is not away; but nobody can end the rollout there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_is_undone_while_etcd_is_out_of_space() {
    let Some(cluster) = cluster("fleet: no space", Options::default()) else {
        return;
    };
    let world = World::start(cluster, 3).await;
    let request = FleetApplyRequest {
        text: "# two\n".to_owned(),
        bake_s: Some(8),
        ..FleetApplyRequest::default()
    };
    let started = world.nodes[0].fleet.apply(request, "root".to_owned()).await;
    let revision = started.unwrap().revision;
    wait("the canary", || world.reached("# two\n") == 1).await;
    world.cluster.fill();
    wait("the undo", || {
        let runs = |member: &Member| member.node.active() == "# two\n";
        !world.nodes.iter().any(runs)
    })
    .await;
    assert_eq!(world.reached("# two\n"), 1);
    let ran = |member: &&Member| !member.node.spans("# two\n").is_empty();
    let canary = &world.nodes.iter().find(ran).unwrap().fleet;
    let state = until_of(canary, "the undo is told", |state| {
        state.state == FleetNodeState::InSync
    })
    .await;
    assert!(state.connected, "{state:#?}");
    let error = state.last_error.unwrap();
    assert!(error.contains("space exceeded"), "{error}");
    let doctor = world.nodes[0].fleet.doctor().await;
    let alarm = doctor.endpoints[0].error.as_ref().unwrap();
    assert!(alarm.contains("alarm disarm"), "{alarm}");

    world.cluster.make_room();
    let (state, reason) = world.end(revision).await;
    assert_eq!(state, FleetRolloutState::Undone, "{reason}");
    world.all(FleetNodeState::InSync).await;
    world
        .until("no error", |state| state.last_error.is_none())
        .await;
}
