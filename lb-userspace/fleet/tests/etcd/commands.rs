//! Commands that are repeated, come too late, or come to the wrong node.

use std::time::{Duration, Instant};

use lb_api::{
    ExplainRequest, FleetApplyRequest, FleetInitRequest, FleetNodeState, FleetRollbackRequest,
    FleetRolloutState,
};
use lb_etcd::Options;
use lb_fleet::Fleet;

use crate::{
    fleet::{FIRST, World, cluster, settings, until_of},
    node::SimNode,
};

fn root() -> String {
    "root".to_owned()
}

impl World {
    async fn apply_slowly(&self, text: &str, bake_s: u32) -> u64 {
        let request = FleetApplyRequest {
            text: text.to_owned(),
            bake_s: Some(bake_s),
            ..FleetApplyRequest::default()
        };
        let started = self.nodes[0].fleet.apply(request, root()).await;
        started.unwrap().revision
    }

    async fn in_wave(&self) {
        self.until("a wave", |state| {
            let rollout = state.rollout.as_ref();
            rollout.is_some_and(|rollout| rollout.state == FleetRolloutState::Wave)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_commands_mean_the_same() {
    let Some(cluster) = cluster("fleet: repeated commands", Options::default()) else {
        return;
    };
    let world = World::start(cluster, 3).await;
    let [first, second] = [&world.nodes[0].fleet, &world.nodes[1].fleet];
    let rollback = |fleet: &Fleet| {
        let fleet = fleet.clone();
        async move {
            fleet
                .rollback(FleetRollbackRequest::default(), root())
                .await
        }
    };

    // A rollout is undone, by two operators at once.
    let undone = world.apply_slowly("# undone\n", 30).await;
    world.in_wave().await;
    for done in <[_; 2]>::from(tokio::join!(rollback(first), rollback(second))) {
        let done = done.unwrap_or_else(|error| panic!("{}", error.message));
        assert!(done.undone && done.revision == undone, "{done:?}");
    }
    let (state, _) = world.end(undone).await;
    assert_eq!(state, FleetRolloutState::Undone);
    world.all_run(FIRST).await;

    // A confirmed one is rolled back; again, while the rollback runs, and when it is done.
    let bad = world.apply("# bad\n").await.revision;
    assert_eq!(world.end(bad).await.0, FleetRolloutState::Confirmed);
    let back = rollback(first).await.unwrap();
    assert!(!back.undone && back.revision == bad + 1, "{back:?}");
    assert_eq!(rollback(second).await.unwrap(), back);
    assert_eq!(
        world.end(back.revision).await.0,
        FleetRolloutState::Confirmed
    );
    world.all_run(FIRST).await;
    let again = rollback(first).await.unwrap_err();
    assert!(
        again.message.contains("has rolled 3 back already"),
        "{}",
        again.message
    );

    let import = second.import(root()).await.unwrap_err();
    assert!(
        import.message.contains("nothing to import"),
        "{}",
        import.message
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_rollout_goes_on_when_it_is_resumed() {
    let Some(cluster) = cluster("fleet: pause", Options::default()) else {
        return;
    };
    let world = World::start(cluster, 3).await;
    let fleet = &world.nodes[1].fleet;
    let revision = world.apply_slowly("# two\n", 2).await;
    world.in_wave().await;
    fleet.pause(root()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(8)).await;
    let rollout = world.state(0).rollout.unwrap();
    assert_eq!(
        (rollout.state, rollout.position),
        (FleetRolloutState::Wave, 0)
    );
    assert_eq!(world.reached("# two\n"), 1);
    fleet.resume(root()).await.unwrap();
    assert_eq!(world.end(revision).await.0, FleetRolloutState::Confirmed);
    world.all_run("# two\n").await;
}

/// As when all nodes get a version with another layout of maps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn facts_that_all_nodes_have_changed_are_imported() {
    let Some(cluster) = cluster("fleet: other facts", Options::default()) else {
        return;
    };
    let mut world = World::start(cluster, 3).await;
    for index in 0..3 {
        let node = world.nodes[index].node.clone();
        world.nodes[index].node = node.with_seed("another");
        world.restart(index).await;
    }
    for member in &world.nodes {
        let refuses = |state: &lb_api::FleetState| state.state == FleetNodeState::Refused;
        let state = until_of(&member.fleet, "refusal", refuses).await;
        assert!(state.reason.contains("fleet import"), "{}", state.reason);
    }
    world.nodes[2].fleet.import(root()).await.unwrap();
    world.all(FleetNodeState::InSync).await;
    let started = world.apply("# two\n").await;
    assert_eq!(
        world.end(started.revision).await.0,
        FleetRolloutState::Confirmed
    );
    world.all_run("# two\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_taken_and_a_fleet_that_is_remembered_are_refused() {
    let Some(cluster) = cluster("fleet: names", Options::default()) else {
        return;
    };
    let mut world = World::start(cluster, 2).await;
    let folder = tempfile::tempdir().unwrap();
    let twin = settings(&world.cluster, folder.path(), "n01");
    let twin = Fleet::start(twin, SimNode::new("n01", FIRST));
    let error = twin.join(root()).await.unwrap_err();
    assert!(
        error.message.contains("has a live node n01"),
        "{}",
        error.message
    );
    twin.stop().await;

    world.cluster.restore(None);
    let fleet = &world.nodes[0].fleet;
    let refuses = |state: &lb_api::FleetState| state.state == FleetNodeState::Refused;
    until_of(fleet, "refusal", refuses).await;
    let error = fleet
        .init(FleetInitRequest::default(), root())
        .await
        .unwrap_err();
    assert!(error.message.contains("fleet import"), "{}", error.message);
    fleet.leave(None, root()).await.unwrap();
    fleet
        .init(FleetInitRequest::default(), root())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_explains_a_packet_and_disagreement_shows() {
    let Some(cluster) = cluster("fleet: explain", Options::default()) else {
        return;
    };
    let world = World::start(cluster, 3).await;
    let explain = async |flow: &str| {
        let request = ExplainRequest {
            flow: flow.to_owned(),
            syn: false,
        };
        world.nodes[1].fleet.explain(request, "root").await.unwrap()
    };
    let explained = explain("tcp a").await;
    assert!(
        explained.agree && explained.nodes.len() == 3,
        "{explained:#?}"
    );
    // What the secret key makes of the packet stays on the node.
    assert!(
        explained.nodes.iter().all(|it| it.error.is_none()),
        "{explained:#?}"
    );
    let steps = explained
        .nodes
        .iter()
        .flat_map(|it| &it.explanation.as_ref().unwrap().steps);
    assert!(steps.clone().count() == 3 && steps.into_iter().all(|step| step.step == "slot"));

    let request = ExplainRequest {
        flow: "nonsense".to_owned(),
        syn: false,
    };
    let error = world.nodes[1]
        .fleet
        .explain(request, "root")
        .await
        .unwrap_err();
    assert!(error.message.contains("not a flow"), "{}", error.message);

    world.nodes[2].node.change("# other\n");
    let differ = |state: &lb_api::FleetState| state.state == FleetNodeState::Differs;
    until_of(&world.nodes[2].fleet, "a difference", differ).await;
    let explained = explain("tcp a").await;
    assert!(!explained.agree, "{explained:#?}");
    assert_eq!(
        explained.nodes[2]
            .explanation
            .as_ref()
            .unwrap()
            .backend
            .as_deref(),
        Some("# other")
    );
}

/// etcd takes no value of this size at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_of_several_parts_reaches_all() {
    let Some(cluster) = cluster("fleet: large text", Options::default()) else {
        return;
    };
    let world = World::start(cluster, 2).await;
    let large = "# one line of a large configuration\n".repeat(50_000);
    assert!(large.len() > 3 * (512 << 10));
    let started = world.apply(&large).await;
    assert_eq!(
        world.end(started.revision).await.0,
        FleetRolloutState::Confirmed
    );
    world.all_run(&large).await;
    let shown = world.nodes[1].fleet.revision(None).await.unwrap();
    assert!(shown.text == large);
}

/// The controller runs health checks in the same thread.
#[tokio::test]
async fn a_disk_that_stalls_delays_nothing_else() {
    let Some(cluster) = cluster("fleet: stalled disk", Options::default()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&cluster, folder.path(), "n00");
    // Opening it waits for a reader.
    let stalled = settings.state_file.with_extension("json.new");
    nix::unistd::mkfifo(&stalled, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let reader = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(5));
        std::fs::File::options().read(true).open(&stalled)
    });
    let fleet = Fleet::start(settings, SimNode::new("n00", FIRST));
    let init = tokio::spawn(async move {
        let created = fleet.init(FleetInitRequest::default(), root()).await;
        created.map_err(|error| error.message)
    });
    let began = Instant::now();
    let mut longest = Duration::ZERO;
    while began.elapsed() < Duration::from_secs(3) {
        let before = Instant::now();
        tokio::time::sleep(Duration::from_millis(20)).await;
        longest = longest.max(before.elapsed());
    }
    assert!(!init.is_finished(), "the disk did not stall");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    // A pipe can't be flushed.
    let error = init.await.unwrap().unwrap_err();
    assert!(error.contains("can't write"), "{error}");
    reader.join().unwrap().unwrap();
}
