//! A cold start waits until health checks have judged all backends.

use super::*;

/// Unmet conditions of the address.
fn unmet(node: &Node<'_>) -> Vec<String> {
    let checks = node.state().unwrap()["addresses"][0]["checks"].clone();
    let checks = checks.as_array().cloned().unwrap_or_default().into_iter();
    let unmet = checks.filter(|check| check["is_met"] == false);
    unmet
        .map(|check| check["name"].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn a_cold_start_is_announced_once_all_backends_are_judged() {
    if !lab::skip::can_run(
        "announce after the first verdicts",
        &["ip", "bird", "birdc"],
    ) {
        return;
    }
    let site = Site::new(&RouterPlan::default()).unwrap();
    let _nginx = serve(&site).unwrap();
    let second = connect(&site.router_host, 2).unwrap();
    second.hold_vip(vip()).unwrap();
    // Nothing listens on the second backend: its checks fail, and need longer for a verdict than the test lasts.
    let vips = format!(
        "{}
[[vip.backend]]
name = \"web-2\"
address = \"{}\"

[vip.health]
kind = \"tcp\"
via = \"direct\"
interval = \"1s\"
rise = 1
fall = 100
",
        web(node_v4(1)),
        node_v4(2)
    );
    let node = Node::with(&site, 0, &by_bgp(node_v4(0)), &vips).unwrap();
    deadline::until("only the verdict is missing", LIMIT, || {
        Ok(unmet(&node) == ["warm"])
    })
    .unwrap();
    assert!(site.next_hops(vip()).unwrap().is_empty());
    let _server = EchoServer::start(&second, &["0.0.0.0:80".parse().unwrap()]).unwrap();
    let took = node.wait_route(true);
    println!("announced {took:?} after the last backend could be judged");
    assert_eq!(node.state().unwrap()["addresses"][0]["state"], "announced");
}
