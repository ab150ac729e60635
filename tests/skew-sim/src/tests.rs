//! The bars, with fixed seeds and little enough to run every time; `cargo xtask skew-sim` runs it all.

use super::{
    bake, faultless,
    power::{self, Cell},
    rules::RuleKind,
    scenario::Scenario,
};

fn found(members: usize, flows_per_s: f64, times: f64, trials: usize) -> power::Line {
    let cell = Cell {
        members,
        flows_per_s,
        times,
    };
    let lines = power::run(&[cell], &RuleKind::ALL[..1], trials, 2);
    lines.into_iter().next().expect("a line for the cell")
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    let lines = faultless::run(&Scenario::ALL, 1.0, 3, |alarm| eprintln!("{alarm}"));
    for line in lines.iter().filter(|line| line.rule == "evenkeel") {
        assert_eq!(line.false_alarms, 0, "{line:?}");
        assert!(line.vip_days > 0.9, "{line:?}");
    }
}

#[test]
fn twice_its_share_is_found_within_fifteen_seconds_at_a_hundred_flows() {
    for members in [2, 4, 10] {
        let line = found(members, 100.0, 2.0, 60);
        assert!(line.median_s.is_some_and(|s| s <= 15.0), "{line:?}");
        assert!(line.p99_s.is_some_and(|s| s <= 30.0), "{line:?}");
    }
}

#[test]
fn a_fifth_over_its_share_is_found_within_five_minutes_at_a_thousand_flows() {
    for members in [4, 10] {
        let line = found(members, 1000.0, 1.2, 40);
        assert!(line.p99_s.is_some_and(|s| s <= 300.0), "{line:?}");
    }
}

#[test]
fn few_flows_take_longer_and_are_not_forgotten() {
    let line = found(2, 1.0 / 6.0, 2.0, 20);
    assert!(
        line.missed == 0.0 && line.median_s.is_some_and(|s| s < 1800.0),
        "{line:?}"
    );
}

#[test]
fn a_wrong_table_is_taken_back_in_seconds_and_a_good_one_is_not() {
    for line in bake::run(200, 4) {
        assert_eq!(line.false_rollbacks.0, 0, "{line:?}");
        assert!(line.wrong_table_s.is_some_and(|s| s <= 10), "{line:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_result() {
    let cells = [Cell {
        members: 4,
        flows_per_s: 100.0,
        times: 1.5,
    }];
    let run = || power::run(&cells, &RuleKind::ALL, 10, 5);
    assert_eq!(run(), run());
}
