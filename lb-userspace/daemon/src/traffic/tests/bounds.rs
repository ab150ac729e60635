//! Spilled flows.

use super::*;

impl Node {
    /// New flows of a member, and how many of them it received from others; `spilled`: flows of its slots
    /// that others received.
    fn spill(&mut self, index: MemberIndex, (new_flows, received): (u64, u64), spilled: u64) {
        self.count(index, new_flows);
        let spills = self.spills.entry(index).or_default();
        spills.received += received;
        spills.spilled += spilled;
    }
}

fn spills(traffic: &Traffic, backend: &str) -> [u64; 2] {
    let spills = traffic.copy().vips["api"].members[backend].spills;
    [spills.spilled, spills.received]
}

fn ring_flows(traffic: &Traffic) -> [u64; 2] {
    ["a", "b"].map(|backend| traffic.ring_flows("api", backend))
}

#[test]
fn flows_are_counted_for_the_member_of_the_ring_and_where_they_went() {
    let (mut node, mut traffic) = (Node::new(), Traffic::new(EPOCH));
    node.put(0, 1, "a");
    node.put(1, 1, "b");
    node.tick(&mut traffic);
    node.spill(0, (60, 0), 30);
    node.spill(1, (40, 30), 0);
    node.tick(&mut traffic);
    assert_eq!(ring_flows(&traffic), [90, 10]);
    assert_eq!(spills(&traffic, "a"), [30, 0]);
    assert_eq!(spills(&traffic, "b"), [0, 30]);
    // What operators see is what the backends got.
    let observed = |backend| traffic.member("api", backend).unwrap().observed_share;
    assert_eq!([observed("a"), observed("b")], [Some(0.6), Some(0.4)]);
}

#[test]
fn flows_of_the_ring_never_decrease() {
    let (mut node, mut traffic) = (Node::new(), Traffic::new(EPOCH));
    node.put(0, 1, "a");
    node.put(1, 1, "b");
    node.spill(1, (100, 0), 0);
    node.tick(&mut traffic);
    // The counters are read one after the other: flows are already counted as received.
    node.spill(1, (0, 5), 0);
    node.tick(&mut traffic);
    assert_eq!(ring_flows(&traffic), [0, 100]);
    node.spill(1, (7, 0), 0);
    node.tick(&mut traffic);
    assert_eq!(ring_flows(&traffic), [0, 102]);
}

#[test]
fn spilled_flows_survive_a_restart_and_a_time_without_bound() {
    let (mut node, mut traffic) = (Node::new(), Traffic::new(EPOCH));
    node.put(0, 1, "a");
    node.put(1, 1, "b");
    node.overfull = Some(Overfull {
        all_full: 3,
        no_room: 1,
    });
    node.spill(0, (50, 0), 10);
    node.tick(&mut traffic);
    // Without a bound, the kernel's counters stay as they are, and are not read.
    let kernel = (std::mem::take(&mut node.spills), node.overfull.take());
    node.tick(&mut traffic);
    (node.spills, node.overfull) = kernel;
    node.spill(0, (0, 0), 1);
    node.tick(&mut traffic);
    assert_eq!(spills(&traffic, "a"), [11, 0]);
    let ledger = traffic.to_ledger(false);
    node.spill(0, (0, 0), 4);
    node.overfull.as_mut().unwrap().all_full += 2;
    let (mut traffic, error) = Traffic::from_ledger(EPOCH, &ledger, node.wall());
    assert!(error.is_none(), "{error:?}");
    assert_eq!(ring_flows(&traffic), [61, 0], "before the first reading");
    node.tick(&mut traffic);
    assert_eq!(spills(&traffic, "a"), [15, 0]);
    let overfull = traffic.copy().vips["api"].overfull;
    assert_eq!((overfull.all_full, overfull.no_room), (5, 1));
    // An index that another backend gets starts again.
    node.put(0, 2, "c");
    node.spills.clear();
    node.spill(0, (9, 9), 0);
    node.tick(&mut traffic);
    assert_eq!(spills(&traffic, "c"), [0, 9]);
    // A ledger of an older version has none.
    let mut old: serde_json::Value = serde_json::from_slice(&ledger).unwrap();
    for row in old["readings"].as_array_mut().unwrap() {
        row.as_object_mut().unwrap().remove("spills");
    }
    old["vips"]["api"]
        .as_object_mut()
        .unwrap()
        .remove("overfull");
    let old = serde_json::to_vec(&old).unwrap();
    let (_, error) = Traffic::from_ledger(EPOCH, &old, node.wall());
    assert!(error.is_none(), "{error:?}");
}
