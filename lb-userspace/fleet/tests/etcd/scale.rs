//! Twenty nodes with a large configuration: how long a plan takes, and what an idle fleet writes.

use std::time::{Duration, Instant};

use lb_api::{FleetNodeState, FleetPlanRequest, FleetRolloutState};
use lb_etcd::Options;

use crate::fleet::{World, cluster};

const NODES: usize = 20;

/// 1,024 VIPs with four members each.
fn large(weight: u32) -> String {
    let mut text = String::new();
    for vip in 0..1024 {
        let (high, low) = (vip / 256, vip % 256);
        text += &format!(
            "[[vip]]\nname = \"vip-{vip}\"\naddress = \"10.9.{high}.{low}\"\nport = 443\nprotocol = \"tcp\"\n"
        );
        for member in 0..4 {
            let name = format!("vip-{vip}-backend-{member}");
            text += &format!(
                "[[vip.backend]]\nname = \"{name}\"\naddress = \"10.{member}.{high}.{low}\"\nweight = {weight}\n"
            );
        }
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_nodes_with_a_large_configuration() {
    const TEST: &str = "fleet of 20 nodes";
    if std::env::var_os("EVENKEEL_FLEET_SCALE").is_none() {
        lb_skip::skip(TEST, "takes a minute: set EVENKEEL_FLEET_SCALE=1");
        return;
    }
    let Some(cluster) = cluster(TEST, Options::default()) else {
        return;
    };
    let world = World::start(cluster, NODES).await;
    let text = large(100);
    println!("text of {} kB", text.len() / 1024);
    let began = Instant::now();
    let request = FleetPlanRequest {
        text: text.clone(),
        force: Vec::new(),
        override_local: false,
    };
    let plan = world.nodes[3]
        .fleet
        .plan(request, "root".to_owned())
        .await
        .unwrap();
    let took = began.elapsed();
    println!("plan of {} nodes: {took:?}", plan.nodes.len());
    assert_eq!(plan.nodes.len(), NODES);
    assert!(plan.nodes.iter().all(|node| node.refusal.is_none()));
    assert!(took < Duration::from_secs(5 * 10), "{took:?}");

    let began = Instant::now();
    let started = world.apply(&text).await;
    let (state, reason) = world.end(started.revision).await;
    assert_eq!(state, FleetRolloutState::Confirmed, "{reason}");
    world.all_run(&text).await;
    println!("rollout with 1 s of bake: {:?}", began.elapsed());

    world.all(FleetNodeState::InSync).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = world.cluster.writes();
    let idle = Duration::from_secs(20);
    tokio::time::sleep(idle).await;
    let writes = world.cluster.writes() - before;
    let per_s = writes as f64 / idle.as_secs_f64();
    println!("idle: {writes} writes to the raft log in {idle:?}, {per_s:.1} per second");
    assert!(per_s < 50.0, "{per_s}");
}
