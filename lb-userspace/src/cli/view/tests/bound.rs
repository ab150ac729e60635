//! The part of a plan about bounds.

use super::{fixtures, plain, plan, widest};
use lb_api::{BoundPlan, BoundStatus, FullBackend, Plan, SpillingBackend};

fn full(backend: &str, share_of_spilled: f64, times_share: f64) -> FullBackend {
    FullBackend {
        backend: backend.into(),
        share_of_spilled,
        times_share,
        peak_new_flows_per_s: 1240.2,
        capacity: None,
        seconds: 600,
    }
}

fn with_bound(bound: BoundPlan) -> Plan {
    let mut plan = fixtures::plan();
    plan.vips[0].settings = vec!["bound.factor: none → 1.25".into()];
    plan.vips[0].bound = Some(bound);
    plan
}

fn skewed() -> BoundPlan {
    BoundPlan {
        minutes: 60,
        new_flows: 216_000,
        spilled: 0.124,
        full: 1,
        full_backends: vec![full("web-3", 1.0, 4.1)],
        ..BoundPlan::default()
    }
}

#[test]
fn a_plan_says_what_its_bound_would_have_spilled() {
    let text = plan::plan(plain(80), &with_bound(skewed()));
    insta::assert_snapshot!(text);
    assert!(widest(&text) <= 80, "{text}");
}

#[test]
fn a_plan_names_the_backends_that_would_have_been_full() {
    let shown = |bound: BoundPlan| {
        let text = plan::plan(plain(300), &with_bound(bound));
        let lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("  bound: "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let second = FullBackend {
        capacity: Some(1240),
        ..full("web-5", 0.19, 1.6)
    };
    let several = BoundPlan {
        minutes: 42,
        spilled: 0.000_4,
        unplaced: 0.03,
        full: 12,
        full_backends: vec![full("web-3", 0.81, 4.14), second],
        notes: vec!["without `capacity`, and so not bounded by it: web-1".into()],
        ..skewed()
    };
    assert_eq!(
        shown(several),
        [
            "less than 0.1% of the new flows of the last 42 minutes would have spilled, from web-3 (81.0% of these; \
             4.1 × its share), web-5 (19.0% of these; peak 1,241/s, capacity 1,240/s), 10 more",
            "3.0% of them were over a bound when no other backend had room: they would have gone where the ring \
             says",
            "without `capacity`, and so not bounded by it: web-1",
        ]
    );
    let none = BoundPlan {
        minutes: 0,
        spilled: 0.0,
        full: 0,
        full_backends: Vec::new(),
        ..skewed()
    };
    let line = "none of the new flows of the last minute would have spilled";
    assert_eq!(shown(none.clone()), [line]);
    let unknown = BoundPlan {
        unknown: Some("no new flows of this VIP were seen".into()),
        ..none
    };
    let line = "how many new flows would spill is unknown: no new flows of this VIP were seen";
    assert_eq!(shown(unknown), [line]);
}

#[test]
fn status_shows_what_a_bound_spilled() {
    let mut status = fixtures::status();
    let mut shown = |bound: BoundStatus| {
        status.vips[0].bound = Some(bound);
        let text = crate::cli::view::status::status(plain(200), &status, false);
        let mut lines = text.lines().filter(|line| line.contains("bound:"));
        lines.next().unwrap().trim().to_owned()
    };
    let mut bound = BoundStatus {
        factor: Some(1.25),
        ..BoundStatus::default()
    };
    assert_eq!(
        shown(bound.clone()),
        "bound: factor 1.25; no new flows spilled"
    );
    bound.spilled = 0.124;
    bound.spilling = vec![SpillingBackend {
        backend: "web-3".into(),
        ..SpillingBackend::default()
    }];
    assert_eq!(
        shown(bound.clone()),
        "bound: factor 1.25; 12.4 % of new flows spilled, from web-3"
    );
    bound.capacity = true;
    bound.spilling = vec![bound.spilling[0].clone(); 5];
    (bound.unplaced, bound.all_full_per_s) = (0.015, 3.0);
    assert_eq!(
        shown(bound.clone()),
        "bound: factor 1.25, capacity; 12.4 % of new flows spilled, from web-3, web-3, web-3, 2 more; 1.5 % unplaced \
         (all backends full)"
    );
    bound.factor = None;
    (bound.all_full_per_s, bound.no_room_per_s, bound.spilled) = (0.0, 1.0, 0.0);
    assert_eq!(
        shown(bound),
        "bound: capacity; no new flows spilled; 1.5 % unplaced (tracking table full)"
    );
}
