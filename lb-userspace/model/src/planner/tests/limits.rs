//! Whom limits would have limited.

use std::sync::Arc;

use super::*;
use crate::sources::{Counts, SourceRates, Window, source_of};
use lb_api::{LimitedRate, LimitsPlan};

/// 20 minutes in which sources had new flows at these rates, with three packets each.
fn seen(sources: &[(&str, u32)]) -> SourceHistory {
    let all: u32 = sources.iter().map(|(_, rate)| rate).sum();
    let sources = sources.iter().map(|(source, rate)| {
        let counts = Counts {
            new_flows: 10 * rate,
            opened: 10 * rate,
            packets: 30 * rate,
            flows: 10 * rate,
        };
        (source_of(source.parse().unwrap()), counts)
    });
    let window = Arc::new(Window {
        seconds: 10.0,
        new_flows: (10 * all).into(),
        packets: (30 * all).into(),
        peak: SourceRates {
            new_flows: all.into(),
            packets: (3 * all).into(),
        },
        sources: sources.collect(),
        ..Window::default()
    });
    let mut history = SourceHistory::new("192.0.2.1".parse().unwrap());
    for _ in 0..120 {
        history.push(Arc::clone(&window));
    }
    history
}

fn usual() -> SourceHistory {
    seen(&[
        ("198.51.100.7", 480),
        ("198.51.100.8", 90),
        ("203.0.113.9", 20),
    ])
}

/// The limits of a VIP before and after a change, as seen with this traffic.
fn judged(before: &str, after: &str, seen: SourceHistory) -> Option<LimitsPlan> {
    let case = Case {
        seen,
        ..Case::new(&vip(before, &["a"]), &vip(after, &["a"]))
    };
    let plan = case.plan();
    assert_eq!(plan.verdict, PlanVerdict::Allowed, "no guard judges limits");
    plan.vips[0].limits.clone()
}

type Exceeded = Vec<(LimitedRate, f64, u32)>;

fn named(plan: &LimitsPlan) -> Vec<(&str, Exceeded)> {
    let exceeded = |source: &lb_api::LimitedSource| {
        let exceeded = source.exceeded.iter();
        exceeded
            .map(|e| (e.of, e.rate_per_s, e.limit_per_s))
            .collect()
    };
    let sources = plan.limited_sources.iter();
    sources
        .map(|source| (&*source.source, exceeded(source)))
        .collect()
}

#[test]
fn names_the_sources_that_exceed_a_new_limit() {
    let plan = judged("", "[vip.limit.source]\nnew_flows = 100", usual()).unwrap();
    assert_eq!((plan.minutes, plan.sources, plan.limited), (20, 3, 1));
    let expected = vec![(LimitedRate::NewFlows, 480.0, 100)];
    assert_eq!(named(&plan), [("198.51.100.7", expected)]);
    assert!(plan.vip.is_empty() && plan.notes.is_empty() && plan.denied == 0);
    let both = judged(
        "",
        "[vip.limit.source]\nnew_flows = 50\npackets = 100",
        usual(),
    )
    .unwrap();
    let sources: Vec<&str> = both.limited_sources.iter().map(|s| &*s.source).collect();
    assert_eq!(
        sources,
        ["198.51.100.7", "198.51.100.8"],
        "the largest excess first"
    );
    assert_eq!(both.limited_sources[1].exceeded.len(), 2);
}

#[test]
fn bursts_are_allowed_once_in_ten_seconds() {
    let limited = |burst: u32| {
        let keys = format!("[vip.limit.source]\nnew_flows = 80\nnew_flows_burst = {burst}");
        judged("", &keys, seen(&[("198.51.100.8", 90)]))
            .unwrap()
            .limited
    };
    assert_eq!((limited(80), limited(100), limited(99)), (1, 0, 1));
}

#[test]
fn judges_the_limits_of_the_vip() {
    let keys = "[vip.limit]\nnew_flows = 500\nnew_flows_burst = 100\npackets = 5000";
    let plan = judged("", keys, usual()).unwrap();
    assert_eq!(plan.vip.len(), 1);
    assert_eq!(
        (
            plan.vip[0].of,
            plan.vip[0].rate_per_s,
            plan.vip[0].limit_per_s
        ),
        (LimitedRate::NewFlows, 590.0, 500)
    );
    assert_eq!(plan.limited, 0);
}

#[test]
fn honours_exempt_and_denied_prefixes() {
    let limit = "[vip.limit.source]\nnew_flows = 50";
    let exempt = format!("[vip.limit]\nexempt = [\"198.51.100.7\"]\n{limit}");
    let plan = judged("", &exempt, usual()).unwrap();
    assert_eq!((plan.sources, plan.limited), (2, 1));
    let deny = format!("[vip.limit]\ndeny = [\"198.51.100.0/24\"]\n{limit}");
    let plan = judged("", &deny, usual()).unwrap();
    assert_eq!((plan.sources, plan.limited, plan.denied), (1, 0, 2));
    assert_eq!(plan.denied_sources, ["198.51.100.7", "198.51.100.8"]);
}

#[test]
fn only_stricter_limits_are_judged() {
    let limit = |keys: &str| format!("[vip.limit.source]\nnew_flows = 100\n{keys}");
    let list = |keys: &str| format!("[vip.limit]\n{keys}\n[vip.limit.source]\nnew_flows = 100");
    let is_judged = |before: &str, after: &str| {
        // Other settings change too, so that there is a plan.
        let after = after.replace(
            "[vip.limit.source]",
            "[vip.guard]\nmax_moved = 0.9\n[vip.limit.source]",
        );
        judged(before, &after, usual()).is_some()
    };
    let base = &limit("")[..];
    let stricter = [
        "[vip.limit.source]\nnew_flows = 99".to_owned(),
        limit("new_flows_burst = 50"),
        limit("packets = 1000000").replace("1000000", "500000"),
        limit("prefix_v4 = 24"),
        limit("prefix_v6 = 48"),
        list("packets = 5"),
        list("deny = [\"203.0.113.9\"]"),
    ];
    for after in &stricter {
        assert!(is_judged(base, after), "{after}");
        assert!(!is_judged(after, base), "back from {after}");
    }
    assert!(!is_judged(base, base));
    assert!(!is_judged(base, &limit("new_flows_burst = 200")));
    assert!(!is_judged(base, &list("exempt = [\"203.0.113.9\"]")));
    assert!(is_judged(&list("exempt = [\"203.0.113.9\"]"), base));
    assert!(is_judged(&limit("on_excess = \"count\""), base));
    assert!(!is_judged(base, &limit("on_excess = \"count\"")));
    assert!(is_judged(&limit("port_block = 64"), base));
    assert!(!is_judged(base, &limit("port_block = 64")));
    assert!(is_judged(
        &limit("port_block = 64"),
        &limit("port_block = 128")
    ));
}

#[test]
fn says_what_cant_be_judged() {
    let note = |before: &str, after: &str| {
        let plan = judged(before, after, usual()).unwrap();
        assert_eq!(plan.notes.len(), 1, "{:?}", plan.notes);
        plan.notes[0].clone()
    };
    let limit = "[vip.limit.source]\nnew_flows = 100\n";
    let block = format!("{limit}port_block = 64");
    assert!(note("", &block).contains("ports are not kept"));
    let counts = format!("{block}\non_excess = \"count\"");
    assert!(note(&counts, limit).contains("port_block is removed"));
    let lower = limit.replace("100", "99");
    assert!(note(limit, &lower).contains("dropped was not seen"));
    assert!(note("", &format!("{limit}on_excess = \"count\"")).contains("[vip.limit.source]"));
    let counts = "[vip.limit]\npackets = 100\non_excess = \"count\"";
    assert!(note("", counts).contains("[vip.limit]"));
    let nothing = judged("", limit, SourceHistory::default()).unwrap();
    assert_eq!(
        (nothing.minutes, nothing.sources, nothing.limited),
        (0, 0, 0)
    );
}

#[test]
fn names_at_most_ten_sources() {
    let names: Vec<String> = (1..=40).map(|host| format!("198.51.100.{host}")).collect();
    let sources: Vec<(&str, u32)> = names.iter().map(|name| (&**name, 200)).collect();
    let plan = judged("", "[vip.limit.source]\npackets = 100", seen(&sources)).unwrap();
    assert_eq!((plan.limited, plan.limited_sources.len()), (40, 10));
    let deny = judged(
        "",
        "[vip.limit]\ndeny = [\"198.51.100.0/24\"]",
        seen(&sources),
    )
    .unwrap();
    assert_eq!((deny.denied, deny.denied_sources.len()), (40, 10));
}
