//! A short replay of the outage with a spike (`cargo xtask outage spike`).

use lab::outage::spike::{self, Contestant, Timeline};

use crate::can_run;

/// Bounded load by capacity keeps every server alive when a wrong weight and a spike come together.
#[test]
fn bounded_load_survives_a_wrong_weight_in_a_spike() {
    let name = "bounded_load_survives_a_wrong_weight_in_a_spike";
    if !can_run(name) || !lab::skip::can_run(name, &["nft"]) {
        return;
    }
    let rows = [Contestant::EvenkeelForced, Contestant::EvenkeelCapacity];
    let report = spike::run(&rows, 1, Timeline::SHORT);
    let report = report.unwrap_or_else(|error| panic!("{error:#}"));
    let table = report.to_table();
    let [unbounded, bounded] = report.medians()[..] else {
        panic!("two rows are expected:\n{table}");
    };
    assert!(!unbounded.crashes.is_empty(), "no server crashes:\n{table}");
    assert!(unbounded.lost.all() > 0, "nothing is lost:\n{table}");
    assert!(bounded.crashes.is_empty(), "a server crashes:\n{table}");
    assert!(bounded.lost_share() < 0.03, "{table}");
    assert!(bounded.lost_share() <= unbounded.lost_share(), "{table}");
}
