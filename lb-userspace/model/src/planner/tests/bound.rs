//! How many new flows a bound would have spilled.

use std::sync::Arc;

use super::*;
use crate::flows::{STEP_S, StepMember};
use lb_api::{BoundPlan, FullBackend};

/// Four backends with the same weight.
const FOUR: [&str; 4] = ["a", "b", "c", "d"];
/// New flows of them in ten seconds: d has twice its share.
const SKEWED: [u32; 4] = [100, 100, 100, 300];
const EVEN: [u32; 4] = [150, 150, 150, 150];

/// Steps of [`FOUR`].
fn history(steps: &[([u32; 4], u32)]) -> FlowHistory {
    let config = parse(&vip("", &FOUR));
    let backends = config.vips[0].backends.iter();
    let members: Arc<[StepMember]> = backends
        .map(|backend| StepMember {
            identity: backend.identity(),
            share: 0.25,
        })
        .collect();
    let mut history = FlowHistory::default();
    for (new_flows, number) in steps {
        for _ in 0..*number {
            history.push(STEP_S, &members, new_flows);
        }
    }
    history
}

fn case(before: &str, after: &str, flows: FlowHistory) -> Case {
    Case {
        flows,
        ..Case::new(before, after)
    }
}

/// An hour of skewed traffic, and a bound with these backends.
fn judged(keys: &str, backends: &[&str]) -> BoundPlan {
    let flows = history(&[(SKEWED, 360)]);
    let after = vip(keys, backends);
    let plan = case(&vip("", &FOUR), &after, flows).plan();
    plan.vips[0].bound.clone().unwrap()
}

fn assert_near(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-9, "{found} != {expected}");
}

#[test]
fn counts_what_is_above_a_multiple_of_the_share() {
    // 1.25 × 150 = 187.5 per step; d has 300.
    let plan = judged("bound.factor = 1.25", &FOUR);
    assert_eq!((plan.minutes, plan.new_flows), (60, 216_000));
    assert_near(plan.spilled, 112.5 / 600.0);
    let full = FullBackend {
        backend: "d".into(),
        share_of_spilled: 1.0,
        times_share: 2.0,
        peak_new_flows_per_s: 30.0,
        capacity: None,
        seconds: 3600,
    };
    assert_eq!((plan.full, plan.full_backends), (1, vec![full]));
    assert_eq!((plan.unplaced, plan.unknown), (0.0, None));
    assert!(plan.notes.is_empty(), "{:?}", plan.notes);
    let plan = judged("bound.factor = 2", &FOUR);
    assert_eq!((plan.spilled, plan.full), (0.0, 0));
}

#[test]
fn a_few_flows_more_than_the_bound_are_chance() {
    let spilled = |new_flows: [u32; 4]| {
        let after = vip("bound.factor = 1.05", &FOUR);
        let plan = case(&vip("", &FOUR), &after, history(&[(new_flows, 6)])).plan();
        plan.vips[0].bound.as_ref().unwrap().spilled
    };
    // The bound is 157.5, with a standard deviation of 12.5.
    assert_near(spilled([135, 135, 135, 195]), 0.0);
    assert_near(spilled([134, 134, 134, 198]), 40.5 / 600.0);
}

#[test]
fn scales_what_a_backend_got_with_its_share() {
    // d: 300 × (1/7) / (1/4) = 171.4; the bound is 1.25 × 600/7 = 107.1.
    let plan = judged("bound.factor = 1.25", &["a", "b", "c", "d 50"]);
    assert_near(plan.spilled, (1200.0 / 7.0 - 750.0 / 7.0) / 600.0);
    // e gets a fifth; d: 300 × (1/5) / (1/4) = 240; the bound is 150.
    let plan = judged("bound.factor = 1.25", &["a", "b", "c", "d", "e"]);
    assert_near(plan.spilled, 90.0 / 600.0);
    assert_near(plan.full_backends[0].times_share, 2.0);
    // Without c and d, a gets half of their 400 and its 100; the bound is 1.25 × 300.
    let plan = judged("bound.factor = 1.25", &["a", "b"]);
    assert_eq!(plan.full, 0);
    let capacity = "a 100 capacity = 25";
    let plan = judged("bound.capacity = true", &[capacity, "b"]);
    assert_near(plan.spilled, 50.0 / 600.0);
    // Drained or down, d gets nothing.
    let plan = judged(
        "bound.factor = 1.25",
        &["a", "b", "c", "d 100 state = \"drain\""],
    );
    assert_eq!((plan.spilled, plan.full), (0.0, 0));
    let after = vip("bound.factor = 1.25", &FOUR);
    let flows = history(&[(SKEWED, 6)]);
    let plan = case(&vip("", &FOUR), &after, flows).down(&["d"]).plan();
    assert_eq!(plan.vips[0].bound.as_ref().unwrap().full, 0);
}

#[test]
fn only_times_when_a_backend_was_full_count_for_it() {
    let after = vip("bound.factor = 1.25", &FOUR);
    let flows = history(&[(EVEN, 90), (SKEWED, 30), ([300, 0, 0, 300], 6)]);
    let plan = case(&vip("", &FOUR), &after, flows).plan();
    let bound = plan.vips[0].bound.as_ref().unwrap();
    assert_eq!((bound.minutes, bound.full), (21, 2));
    assert_near(
        bound.spilled,
        (36.0 * 112.5 + 6.0 * 112.5) / (126.0 * 600.0),
    );
    let [d, a] = &bound.full_backends[..] else {
        panic!("{bound:?}")
    };
    assert_eq!((&*d.backend, d.seconds), ("d", 360));
    assert_eq!((&*a.backend, a.seconds), ("a", 60));
    assert_near(d.share_of_spilled, 36.0 / 42.0);
    assert_near(d.times_share, 2.0);
}

#[test]
fn capacity_is_a_bound_too() {
    let four = |a: &'static str, d: &'static str| [a, "b", "c", d];
    // 20 new flows per second are 200 in ten seconds.
    let plan = judged("bound.capacity = true", &four("a", "d 100 capacity = 20"));
    assert_near(plan.spilled, 100.0 / 600.0);
    let d = &plan.full_backends[0];
    assert_eq!((d.capacity, d.peak_new_flows_per_s), (Some(20), 30.0));
    assert_eq!(
        plan.notes,
        ["without `capacity`, and so not bounded by it: a, b, c"]
    );
    let plan = judged("bound.factor = 2", &four("a", "d 100 capacity = 20"));
    assert_eq!((plan.full, plan.notes.len()), (0, 0));
    // The smaller one of 187.5 and 150 counts.
    let both = "bound = { capacity = true, factor = 1.25 }";
    let plan = judged(both, &four("a", "d 100 capacity = 15"));
    assert_near(plan.spilled, 150.0 / 600.0);
    assert_eq!(plan.full_backends[0].capacity, Some(15));
    // Over its share, but not over its capacity.
    let plan = judged(both, &four("a", "d 100 capacity = 30"));
    assert_eq!(plan.full_backends[0].capacity, None);
}

#[test]
fn spills_only_where_there_is_room() {
    let backends = [
        "a 100 capacity = 10",
        "b 100 capacity = 10",
        "c 100 capacity = 11",
        "d 100 capacity = 20",
    ];
    let plan = judged("bound.capacity = true", &backends);
    assert_near(plan.spilled, 10.0 / 600.0);
    assert_near(plan.unplaced, 90.0 / 600.0);
    assert_near(plan.full_backends[0].share_of_spilled, 1.0);
    // A backend alone has nowhere to spill to: all 600 come to it.
    let flows = history(&[(SKEWED, 6)]);
    let one = vip("bound.capacity = true", &["d 100 capacity = 20"]);
    let plan = case(&vip("", &FOUR), &one, flows).plan();
    let bound = plan.vips[0].bound.as_ref().unwrap();
    assert_eq!((bound.spilled, bound.full), (0.0, 1));
    assert_near(bound.unplaced, 400.0 / 600.0);
}

/// After a wrong change of weights, what is over a capacity goes past the factors of the others, which are
/// multiples of wrong shares.
#[test]
fn capacities_count_more_than_shares() {
    let bound = "bound = { capacity = true, factor = 1.25 }";
    // d gets 588 of 600 and can take 200; the bounds of the others are 7.5 by their shares.
    let spills = |others: &str, spilled: f64| {
        let backend = |name| format!("{name} 100 capacity = {others}");
        let [a, b, c] = ["a", "b", "c"].map(backend);
        let plan = judged(bound, &[&a, &b, &c, "d 9700 capacity = 20"]);
        assert_near(plan.spilled, spilled / 600.0);
        assert_near(plan.unplaced, (388.0 - spilled) / 600.0);
    };
    spills("20", 388.0);
    // Each has 4 and can take 100.
    spills("10", 288.0);
}

#[test]
fn only_changes_of_bounds_and_what_they_depend_on_are_judged() {
    let bounded =
        |keys: &str, backends: &[&str]| vip(&format!("bound = {{ factor = 2, {keys} }}"), backends);
    let base = bounded("", &FOUR);
    let is_judged = |before: &str, after: &str| {
        // Another setting changes too, so that there is a plan.
        let after = format!("{after}\nstate = \"up\"")
            .replace("ring_size", "guard.max_moved = 0.9\nring_size");
        let plan = case(before, &after, FlowHistory::default()).plan();
        plan.vips[0].bound.is_some()
    };
    assert!(!is_judged(&base, &base));
    assert!(is_judged("", &base));
    assert!(is_judged(&vip("", &FOUR), &base));
    assert!(!is_judged(&base, &vip("", &FOUR)));
    assert!(is_judged(&base, &base.replace("factor = 2", "factor = 3")));
    for backends in [
        &["a", "b", "c", "d 50"][..],
        &["a", "b", "c 100 state = \"drain\"", "d"],
        &["a", "b 100 capacity = 9", "c", "d"],
        &["a", "b", "c", "d", "e"],
        &["b", "c", "d"],
    ] {
        assert!(is_judged(&base, &bounded("", backends)), "{backends:?}");
    }
    assert!(!is_judged(&base, &bounded("", &["d", "c", "b", "a"])));
}

#[test]
fn says_why_there_is_no_estimate() {
    let after = vip("bound.factor = 1.25", &FOUR);
    let unknown = |before: &str, after: &str, flows: FlowHistory| {
        let plan = case(before, after, flows).plan();
        let bound = plan.vips[0].bound.clone().unwrap();
        assert_eq!((bound.new_flows, bound.spilled, bound.full), (0, 0.0, 0));
        (bound.minutes, bound.unknown.unwrap())
    };
    let mut idle = FlowHistory::default();
    for _ in 0..60 {
        idle.pass();
    }
    let nothing = "no new flows of this VIP were seen".to_owned();
    assert_eq!(
        unknown(&vip("", &FOUR), &after, idle),
        (10, nothing.clone())
    );
    assert_eq!(unknown("", &after, FlowHistory::default()), (0, nothing));
    let seen = || history(&[(SKEWED, 6)]);
    let source = after.replace("ring_size", "affinity = \"source\"\nring_size");
    let (_, why) = unknown(&vip("", &FOUR), &source, seen());
    assert!(why.starts_with("the change replaces the VIP"), "{why}");
    let udp = |text: &str, keys: &str| text.replace("\"tcp\"", &format!("\"udp\"\n{keys}"));
    let before = udp(&vip("", &FOUR), "track = \"never\"");
    let (_, why) = unknown(&before, &udp(&after, ""), seen());
    assert!(why.contains("`track = \"always\"`"), "{why}");
}

#[test]
fn a_running_bound_changes_no_estimate() {
    let before = vip("bound.factor = 2", &FOUR);
    let after = vip("bound.factor = 1.25", &FOUR);
    let plan = case(&before, &after, history(&[(SKEWED, 6)])).plan();
    assert_eq!(plan.vips[0].settings, ["bound.factor: 2 → 1.25"]);
    let bound = plan.vips[0].bound.as_ref().unwrap();
    // The history has the new flows as the ring assigned them.
    assert!(bound.notes.is_empty(), "{:?}", bound.notes);
    assert_near(bound.spilled, 112.5 / 600.0);
}
