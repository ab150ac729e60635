//! Measures the cost of the failure of a server that is a backend of many VIPs. Needs root:
//! `cargo test --release -p lb-daemon --lib -- --ignored --nocapture cost_of_a_server`.

use std::time::{Duration, Instant};

use lb_common::member::NextHop;

use super::{HealthUpdate, Reconciler, Route, Routes};
use lb_dataplane::{Dataplane, LoadOptions};
use lb_model::{
    MemberRef,
    config::{self, Config, Fraction},
};

const VIPS: usize = 64;
const ROUNDS: usize = 21;

/// What the VIPs share besides their backends.
#[derive(Clone, Copy, Debug)]
enum Common {
    Port,
    Address,
}

/// VIPs that share a number of servers as backends.
fn config(backends: usize, common: Common) -> Config {
    let mut text = String::from(
        "[node]\ninterfaces = [\"lo\"]\nhash_seed = \"000102030405060708090a0b0c0d0e0f\"\n",
    );
    for vip in 0..VIPS {
        let (address, port) = match common {
            Common::Port => (vip, 443),
            Common::Address => (0, 8000 + vip),
        };
        text += &format!(
            "[[vip]]\nname = \"v{vip}\"\naddress = \"203.0.113.{address}\"\nport = {port}\nprotocol = \"tcp\"\n\
             forward = \"l2\"\n[vip.health]\nkind = \"tcp\"\n"
        );
        for backend in 0..backends {
            text += &format!(
                "[[vip.backend]]\nname = \"b{backend}\"\naddress = \"10.0.0.{}\"\n",
                backend + 1
            );
        }
    }
    config::parse("test.toml", &text).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Health check results of some servers in all VIPs.
fn updates(backends: std::ops::Range<usize>, healthy: bool) -> Vec<HealthUpdate> {
    let of_vip = |vip: usize| {
        backends.clone().map(move |backend| HealthUpdate {
            member: MemberRef::new(format!("v{vip}"), format!("b{backend}")),
            healthy,
            ramp: Fraction::ALL,
        })
    };
    (0..VIPS).flat_map(of_vip).collect()
}

fn measure(backends: usize, common: Common) {
    let config = config(backends, common);
    let mut dataplane = Dataplane::load(&LoadOptions::default()).unwrap();
    let egress = dataplane
        .egress
        .assign(1, 1500, [2, 0, 0, 0, 0, 1])
        .unwrap();
    let route = |n: usize| Route {
        next_hop: NextHop {
            mac: [2, 0, 0, 0, 1, n as u8],
            egress,
        },
        on_link: true,
        replies_seen: true,
        source: None,
    };
    let routes: Routes = (0..backends)
        .map(|n| ([10, 0, 0, n as u8 + 1].into(), Some(route(n))))
        .collect();
    let mut reconciler = Reconciler::fresh();
    let dataplane = &mut dataplane;
    reconciler
        .apply_with_routes(dataplane, &config, routes)
        .unwrap();
    let all_up = updates(0..backends, true);
    reconciler.set_healths(dataplane, &all_up).unwrap();
    let mut times: Vec<(Duration, Duration)> = Vec::new();
    for round in 0..ROUNDS {
        dataplane.rings.reserve(VIPS).unwrap();
        let update = updates(0..1, round % 2 == 1);
        let (built, begun) = (reconciler.ring_builds(), Instant::now());
        let done = reconciler.set_healths(dataplane, &update).unwrap();
        let took = begun.elapsed();
        assert_eq!(done.rings_changed as usize, VIPS);
        times.push((took, reconciler.ring_builds().1 - built.1));
    }
    times.sort_unstable();
    let (median, worst) = (times[ROUNDS / 2], times[ROUNDS - 1]);
    println!(
        "a server of {backends} goes down in {VIPS} VIPs of one {common:?}: all rings are swapped after {:?} (of that planned \
         and built: {:?}) best, {:?} ({:?}) median, {:?} ({:?}) worst of {ROUNDS}",
        times[0].0, times[0].1, median.0, median.1, worst.0, worst.1
    );
}

#[test]
#[ignore = "a measurement, which needs root"]
fn cost_of_a_server_that_fails_in_64_vips() {
    for common in [Common::Port, Common::Address] {
        for backends in [4, 16, 64] {
            measure(backends, common);
        }
    }
}
