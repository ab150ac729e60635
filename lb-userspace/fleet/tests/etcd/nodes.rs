//! Nodes that join, differ, leave, restart, and are refused.

use lb_api::{
    FleetApplyRequest, FleetNodeState, FleetPlanRequest, FleetRollbackRequest, FleetRolloutState,
};
use lb_etcd::Options;
use lb_fleet::{Fleet, Tls};

use crate::{
    fleet::{FIRST, World, cluster, settings, until_of},
    node::SimNode,
};

fn root() -> String {
    "root".to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_join_differ_restart_and_leave() {
    let Some(cluster) = cluster("fleet nodes", Options::default()) else {
        return;
    };
    let mut world = World::start(cluster, 2).await;

    // A node with another seed would choose other backends.
    world.add_node(
        "stranger",
        SimNode::new("stranger", FIRST).with_seed("0ther"),
    );
    let error = world.nodes[2].fleet.join(root()).await.unwrap_err();
    assert!(
        error.message.contains("copy the hash seed"),
        "{}",
        error.message
    );
    world.nodes.pop();

    // One that joins takes the head, whatever it ran.
    world.add("n02", "# its own\n");
    world.nodes[2].fleet.join(root()).await.unwrap();
    world.all(FleetNodeState::InSync).await;
    world.all_run(FIRST).await;

    // A change on a node: shown, and refused by the preflight.
    world.nodes[2].node.change("# local\n");
    world
        .until("n02 differs", |state| {
            let node = state.nodes.iter().find(|node| node.node == "n02");
            node.is_some_and(|node| node.state == FleetNodeState::Differs)
        })
        .await;
    let request = FleetPlanRequest {
        text: "# refuse=n01\n".to_owned(),
        force: Vec::new(),
        override_local: false,
    };
    let plan = world.nodes[0].fleet.plan(request, root()).await;
    let plan = plan.unwrap_or_else(|error| panic!("{}", error.message));
    let refusals: Vec<Option<&str>> = plan.nodes.iter().map(|n| n.refusal.as_deref()).collect();
    assert_eq!(refusals[0], None);
    assert!(refusals[1].is_some());
    let local = refusals[2].expect("it differs");
    assert!(
        local.contains("VIPs were changed on this node (local revision"),
        "{local}"
    );
    let started = world.apply("# two\n").await;
    let (state, reason) = world.end(started.revision).await;
    assert_eq!(state, FleetRolloutState::Undone);
    assert!(
        reason.contains("node n02 refuses: VIPs were changed"),
        "{reason}"
    );
    let request = FleetApplyRequest {
        text: "# two\n".to_owned(),
        override_local: true,
        canary: Some("n01".to_owned()),
        ..FleetApplyRequest::default()
    };
    let started = world.nodes[1].fleet.apply(request, root()).await.unwrap();
    // The controller of the canary restarts during the rollout.
    world.restart(1).await;
    let (state, reason) = world.end(started.revision).await;
    assert_eq!(state, FleetRolloutState::Confirmed, "{reason}");
    world.all_run("# two\n").await;
    assert_eq!(world.nodes[2].node.active(), "# two\n");

    // Back to the first revision, all at once.
    let request = FleetRollbackRequest {
        revision: Some(1),
        now: true,
        ..FleetRollbackRequest::default()
    };
    let started = world.nodes[0]
        .fleet
        .rollback(request, root())
        .await
        .unwrap();
    world.end(started.revision).await;
    world.all_run(FIRST).await;
    let history = world.nodes[2].fleet.history().await.unwrap();
    let numbers: Vec<u64> = history.iter().map(|revision| revision.number).collect();
    assert_eq!(numbers, [4, 3, 2, 1]);
    let shown = world.nodes[1].fleet.revision(None).await.unwrap();
    assert_eq!((shown.info.number, &*shown.text), (4, FIRST));

    world.all(FleetNodeState::InSync).await;
    let doctor = world.nodes[0].fleet.doctor().await;
    assert!(doctor.checks.iter().all(|check| check.ok), "{doctor:#?}");
    assert_eq!(doctor.endpoints.iter().filter(|e| e.has_quorum).count(), 3);

    world.nodes[0]
        .fleet
        .leave(Some("n02".to_owned()), root())
        .await
        .unwrap();
    until_of(&world.nodes[2].fleet, "n02 has left", |state| {
        state.state == FleetNodeState::NotJoined
    })
    .await;
    world
        .until("two nodes", |state| state.nodes.len() == 2)
        .await;
    assert_eq!(world.nodes[2].node.active(), FIRST);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_refused_with_the_reason() {
    const REFUSED: &str = "this node's certificate (`fleet.cert_file`)";
    let options = Options {
        tls: true,
        ..Options::default()
    };
    let Some(cluster) = cluster("fleet: TLS", options) else {
        return;
    };
    let mut world = World::start(cluster, 1).await;
    let folder = tempfile::tempdir().unwrap();
    let files = world.cluster.certificates().clone();
    let own = Some(files.client.clone());
    let cases = [
        ("wrong-ca", files.other_ca, own, "UnknownIssuer"),
        ("no-certificate", files.ca.clone(), None, REFUSED),
        ("expired", files.ca.clone(), Some(files.expired), REFUSED),
        ("stranger", files.ca.clone(), Some(files.stranger), REFUSED),
        ("no-file", folder.path().join("none"), None, "can't read"),
    ];
    // All at once: each tries for seconds.
    let fleets = cases.map(|(name, ca, client, expected)| {
        let mut settings = settings(&world.cluster, folder.path(), name);
        settings.tls = Some(Tls { ca, client });
        let fleet = Fleet::start(settings, SimNode::new(name, FIRST));
        (name, fleet, expected)
    });
    for (name, fleet, expected) in &fleets {
        let state = until_of(fleet, "an error", |state| state.last_error.is_some()).await;
        let error = state.last_error.unwrap();
        println!("{name}: {error}");
        assert!(error.contains(expected), "{name}: {error}");
        assert!(!state.connected);
    }
    let error = fleets[0].1.join("root".to_owned()).await.unwrap_err();
    let message = &error.message;
    assert!(message.contains("evenkeel fleet doctor"), "{message}");
    drop(fleets);
    // One of three endpoints is dead.
    let leader = world.cluster.leader();
    let dead = (leader + 1) % 3;
    world.cluster.kill(dead);
    let started = world.apply("# two\n").await;
    world.end(started.revision).await;
    world.all_run("# two\n").await;
    let doctor = world.nodes[0].fleet.doctor().await;
    assert!(doctor.endpoints[dead].error.is_some(), "{doctor:#?}");
}
