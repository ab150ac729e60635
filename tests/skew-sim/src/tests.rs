//! Acceptance limits with fixed seeds, small enough to run every time; `cargo xtask skew-sim` runs
//! everything.

use super::{
    bake, faultless,
    power::{self, FaultCase},
    rules::RuleKind,
    scenario::Scenario,
};

fn detect(members: usize, flows_per_s: f64, times: f64, trials: usize) -> power::Line {
    let case = FaultCase {
        members,
        flows_per_s,
        times,
    };
    let lines = power::run(&[case], &RuleKind::ALL[..1], trials, 2);
    lines.into_iter().next().expect("one line per case")
}

#[test]
fn raises_no_false_alarm() {
    let lines = faultless::run(&Scenario::ALL, 1.0, 3, |alarm| eprintln!("{alarm}"));
    for line in lines.iter().filter(|line| line.rule == "evenkeel") {
        assert_eq!(line.false_alarms, 0, "{line:?}");
        assert!(line.vip_days > 0.9, "{line:?}");
    }
}

#[test]
fn detects_twice_the_share_within_15_s_at_100_flows_per_s() {
    for members in [2, 4, 10] {
        let line = detect(members, 100.0, 2.0, 60);
        assert!(line.median_s.is_some_and(|s| s <= 15.0), "{line:?}");
        assert!(line.p99_s.is_some_and(|s| s <= 30.0), "{line:?}");
    }
}

#[test]
fn detects_1_2_times_the_share_within_5_min_at_1000_flows_per_s() {
    for members in [4, 10] {
        let line = detect(members, 1000.0, 1.2, 40);
        assert!(line.p99_s.is_some_and(|s| s <= 300.0), "{line:?}");
    }
}

#[test]
fn detects_a_fault_at_few_flows_within_30_min() {
    let line = detect(2, 1.0 / 6.0, 2.0, 20);
    assert!(
        line.missed == 0.0 && line.median_s.is_some_and(|s| s < 1800.0),
        "{line:?}"
    );
}

#[test]
fn rolls_back_wrong_tables_within_10_s_and_no_good_ones() {
    for line in bake::run(200, 4) {
        assert_eq!(line.false_rollbacks.0, 0, "{line:?}");
        assert!(line.wrong_table_s.is_some_and(|s| s <= 10), "{line:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_result() {
    let cases = [FaultCase {
        members: 4,
        flows_per_s: 100.0,
        times: 1.5,
    }];
    let run = || power::run(&cases, &RuleKind::ALL, 10, 5);
    assert_eq!(run(), run());
}
