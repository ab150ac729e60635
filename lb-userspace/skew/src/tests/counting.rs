//! Totals, changes of members and tables, irregular clocks.

use super::*;
use crate::Severity;

#[test]
fn ignores_counter_resets() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_faultless(100, 1000.0);
    vip.members[2].new_flows = 0;
    vip.members[2].packets = 0;
    vip.members[2].bytes = 0;
    vip.run_faultless(100, 1000.0);
}

#[test]
fn uses_the_first_observation_only_as_a_baseline() {
    let mut vip = Vip::new(TCP, 4);
    vip.members[0].new_flows = 10_000_000;
    vip.run_faultless(60, 1000.0);
}

#[test]
fn ignores_frequent_table_changes() {
    let mut vip = Vip::new(TCP, 4);
    for turn in 0..100 {
        let down = turn % 2 == 1;
        let before = vip.shares();
        vip.share(&[1.0, 1.0, 1.0, if down { 0.0 } else { 1.0 }]);
        vip.members[3].phase = if down { Phase::Out } else { Phase::Serving };
        // The first second belongs half to the old table.
        let flows: Vec<f64> = vip
            .shares()
            .iter()
            .zip(&before)
            .map(|(a, b)| 500.0 * (a + b))
            .collect();
        let found = vip.second(&flows);
        assert!(found.is_empty(), "{found:?}");
        vip.run_faultless(turn % 5, 1000.0);
    }
}

#[test]
fn handles_added_removed_and_reordered_members() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_faultless(200, 400.0);
    let leaving = vip.members.remove(1);
    vip.share(&[1.0; 3]);
    vip.run_faultless(60, 400.0);
    vip.members.insert(0, leaving);
    vip.members.reverse();
    vip.share(&[1.0; 4]);
    vip.run_faultless(60, 400.0);
    let (_, found) = vip.run_until(Kind::Overload, 15, 400.0, &[0.6, 0.6, 0.6, 2.2]);
    assert_eq!(names(&found), ["b1"]);
}

#[test]
fn keeps_a_finding_when_members_are_reordered() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_faultless(200, 400.0);
    vip.run_until(Kind::Overload, 15, 400.0, &[0.6, 0.6, 0.6, 2.2]);
    vip.members.rotate_right(1);
    let found = vip.run(5, 400.0, &[2.2, 0.6, 0.6, 0.6]);
    assert_eq!(names(&found[0]), ["b3"]);
}

#[test]
fn detects_flows_to_a_member_without_slots() {
    let mut vip = Vip::new(TCP, 4);
    vip.share(&[1.0, 1.0, 1.0, 0.0]);
    vip.members[3].phase = Phase::Draining;
    vip.run_faultless(60, 300.0);
    let mut found = Vec::new();
    for _ in 0..15 {
        found = vip.second(&[100.0, 100.0, 100.0, 20.0]).to_vec();
    }
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(names(&found[0]), ["b3"]);
    assert_eq!(found[0].severity, Severity::Critical);
}

#[test]
fn ignores_a_clock_that_stops_or_jumps() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_faultless(100, 400.0);
    vip.now_s -= 5.0;
    vip.members[0].new_flows += 10_000;
    assert!(vip.observe().is_empty(), "time went back");
    vip.now_s += 3600.0;
    vip.members[0].new_flows += 10_000_000;
    assert!(
        vip.observe().is_empty(),
        "flows after a gap have no known time"
    );
    vip.run_faultless(60, 400.0);
}

#[test]
fn reports_nothing_for_one_member() {
    let mut vip = Vip::new(TCP, 1);
    vip.run_faultless(300, 1000.0);
}

#[test]
fn reports_nothing_without_members_or_flows() {
    let mut vip = Vip::new(TCP, 3);
    vip.run_faultless(300, 0.0);
    vip.members.clear();
    assert!(vip.observe().is_empty());
    assert!(vip.observe().is_empty());
}
