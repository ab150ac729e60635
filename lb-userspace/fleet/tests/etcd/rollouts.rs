//! Rollouts: good ones, bad ones, and those that nobody ends.

use std::time::Duration;

use lb_api::{FleetNodeState, FleetRolloutState};
use lb_etcd::Options;

use crate::fleet::{BAKE_S, FIRST, World, cluster};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_change_reaches_all_and_a_bad_one_only_the_canary() {
    let Some(cluster) = cluster("fleet rollouts", Options::default()) else {
        return;
    };
    let world = World::start(cluster, 5).await;
    let good = "# two\n";
    let started = world.apply(good).await;
    let (state, reason) = world.end(started.revision).await;
    assert_eq!(state, FleetRolloutState::Confirmed, "{reason}");
    world.all_run(good).await;
    world.all(FleetNodeState::InSync).await;

    // Its own trial sees nothing; the comparison with the others does.
    for bad in [
        "# resets\n",
        "# sick=n00 sick=n01 sick=n02 sick=n03 sick=n04\n",
    ] {
        let started = world.apply(bad).await;
        let (state, reason) = world.end(started.revision).await;
        assert_eq!(state, FleetRolloutState::Undone, "{reason}");
        assert_eq!(world.reached(bad), 1);
        world.all_run(good).await;
        let mut spans = world.nodes.iter().flat_map(|member| member.node.spans(bad));
        let (from, to) = spans.next().expect("the canary ran it");
        let bound = Duration::from_secs(u64::from(BAKE_S) + 3);
        let took = to.expect("it was undone") - from;
        println!("undone after {took:?} with a bake of {BAKE_S} s: {reason}");
        assert!(took < bound * 2, "{took:?}");
    }

    let refused = "# refuse=n03\n";
    let started = world.apply(refused).await;
    let (state, reason) = world.end(started.revision).await;
    assert_eq!(state, FleetRolloutState::Undone);
    assert!(reason.contains("node n03 refuses"), "{reason}");
    assert_eq!(world.reached(refused), 0);
    assert_eq!(world.state(4).head.unwrap().revision, 2);
    assert_eq!(world.reached(FIRST), 5);
}
