//! `via = "kernel"`: `evenkeel announce` beside a routing daemon on the node, which learns the addresses from
//! the table and exports them to the router.

use std::fmt::Write as _;

use lab::router::bird::{Bird, general};

use super::*;
use crate::site::{LIMIT, NODE_AS, ROUTER_AS, ROUTER_V4, node_v4};

const TABLE: u32 = 7411;

fn kernel() -> String {
    format!("via = \"kernel\"\ntable = {TABLE}\n")
}

/// BIRD on the node: as in docs/announcing.md.
fn start_bird(host: &Host) -> Result<Bird> {
    let mut text = general(host, node_v4(0));
    let own = node_v4(0);
    let _ = writeln!(
        text,
        "ipv4 table vips;
protocol kernel {{
  kernel table {TABLE};
  learn;
  scan time 1;
  ipv4 {{ table vips; import all; export none; }};
}}
protocol bgp upstream {{
  local {own} as {NODE_AS};
  neighbor {ROUTER_V4} as {ROUTER_AS};
  hold time 9;
  connect delay time 1; connect retry time 1; error wait time 1, 2;
  ipv4 {{ table vips; import none; export all; next hop self; }};
}}"
    );
    Bird::start(host, &text)
}

/// The condition `table` of the address.
fn table_check(node: &Node<'_>) -> Value {
    let status = node.state().unwrap();
    let checks = status["addresses"][0]["checks"].as_array().cloned();
    let mut checks = checks.unwrap_or_default().into_iter();
    checks
        .find(|check| check["name"] == "table")
        .unwrap_or_default()
}

#[test]
fn a_routing_daemon_announces_what_the_node_forwards() {
    if !lab::skip::can_run("announce by BIRD on the node", &["ip", "bird", "birdc"]) {
        return;
    }
    let site = Site::new(&RouterPlan::default()).unwrap();
    let _nginx = serve(&site).unwrap();
    let _bird = start_bird(&site.nodes[0]).unwrap();
    let mut node = Node::with(&site, 0, &kernel(), &web(node_v4(1))).unwrap();
    node.wait_route(true);
    node.get_within("0.9").unwrap();

    node.balancer.kill();
    node.unload();
    let took = node.wait_route(false);
    println!("via kernel: data path removed: the router's route is gone after {took:?}");
    node.run().unwrap();
    let took = node.wait_route(true);
    println!("via kernel: data path back: the route is back after {took:?}");

    // Somebody removes the route: it is made again, and that is told.
    let del = format!("route del {} table {TABLE}", vip());
    ip(&node.host.ns, &[&del]).unwrap();
    deadline::until("the route is made again", LIMIT, || {
        Ok(node.state()?["kernel"]["restored"] == 1)
    })
    .unwrap();
    node.wait_route(true);
    let shown = node.ask(&["announce", "status"]).unwrap();
    assert!(shown.contains("somebody removed routes: 1"), "{shown}");

    // Somebody else's route to the same address is named.
    let other = format!("{} dev lo table {TABLE} metric 5", vip());
    ip(&node.host.ns, &[format!("route add {other}")]).unwrap();
    node.wait_state("worse");
    let check = table_check(&node);
    assert_eq!(check["is_met"], false, "{check}");
    let text = check["text"].as_str().unwrap_or_default();
    assert!(text.contains("dev lo proto boot metric 5"), "{text}");
    ip(&node.host.ns, &[format!("route del {other}")]).unwrap();
    node.wait_state("announced");
    // One in the place of ours is not removed, but told; with its end, ours is back.
    let other = format!("{} dev lo table {TABLE}", vip());
    ip(&node.host.ns, &[format!("route replace {other}")]).unwrap();
    deadline::until("the table is not in sync", LIMIT, || {
        Ok(node.state()?["kernel"]["in_sync"] == false)
    })
    .unwrap();
    node.wait_state("worse");
    ip(&node.host.ns, &[format!("route del {other}")]).unwrap();
    node.wait_state("announced");
    node.wait_route(true);
    node.get().unwrap();

    node.announcer.kill();
    let took = node.wait_route(false);
    println!("via kernel: announcer killed: the router's route is gone after {took:?}");
}
