//! Counters of rate limits.

use super::*;

#[test]
fn counters_of_limits_survive_a_restart_and_a_time_without_limits() {
    let (mut node, mut traffic) = (Node::new(), Traffic::new(EPOCH));
    node.put(0, 1, "a");
    let mut counters = LimitCounters::zeroed();
    let mut over = |node: &mut Node, packets| {
        counters.source_packets += packets;
        node.limits = Some(counters);
    };
    let counted = |traffic: &Traffic| traffic.copy().vips["api"].limits.source_packets;
    over(&mut node, 10);
    node.tick(&mut traffic);
    over(&mut node, 5);
    node.tick(&mut traffic);
    assert_eq!(counted(&traffic), 15);
    // Without limits, the kernel's counters stay as they are.
    node.limits = None;
    node.tick(&mut traffic);
    over(&mut node, 1);
    node.tick(&mut traffic);
    assert_eq!(counted(&traffic), 16);
    let ledger = traffic.to_ledger(false);
    over(&mut node, 4);
    let (mut traffic, error) = Traffic::from_ledger(EPOCH, &ledger, node.wall());
    assert!(error.is_none(), "{error:?}");
    node.tick(&mut traffic);
    assert_eq!(counted(&traffic), 20);
    // A ledger of an older version has none.
    let mut old: serde_json::Value = serde_json::from_slice(&ledger).unwrap();
    old["vips"]["api"].as_object_mut().unwrap().remove("limits");
    let old = serde_json::to_vec(&old).unwrap();
    let (_, error) = Traffic::from_ledger(EPOCH, &old, node.wall());
    assert!(error.is_none(), "{error:?}");
}
