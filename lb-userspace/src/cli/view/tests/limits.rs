//! The part of a plan about limits.

use super::{fixtures, plain, plan, widest};
use lb_api::{ExceededLimit, LimitedRate, LimitedSource, LimitsPlan, Plan};

/// Limits that a source and the VIP exceeded.
fn with_limits() -> Plan {
    let exceeded = |of, rate_per_s, limit_per_s| ExceededLimit {
        of,
        rate_per_s,
        limit_per_s,
    };
    let mut plan = fixtures::plan();
    plan.vips[0].settings = vec!["limit.source.new_flows: none → 100".into()];
    plan.vips[0].limits = Some(LimitsPlan {
        minutes: 42,
        vip: vec![exceeded(LimitedRate::NewFlows, 12_000.0, 10_000)],
        sources: 1204,
        busiest_only: false,
        limited: 13,
        limited_sources: vec![
            LimitedSource {
                source: "198.51.100.7".into(),
                exceeded: vec![
                    exceeded(LimitedRate::NewFlows, 479.8, 100),
                    exceeded(LimitedRate::Packets, 2_400.0, 1_000),
                ],
            },
            LimitedSource {
                source: "2001:db8:7::/64".into(),
                exceeded: vec![exceeded(LimitedRate::NewFlows, 120.0, 100)],
            },
        ],
        denied: 1,
        denied_sources: vec!["203.0.113.9".into()],
        notes: vec!["on_excess = \"count\" in [vip.limit]: excess is counted and passes".into()],
    });
    plan
}

#[test]
fn a_plan_says_whom_its_limits_would_have_limited() {
    let mut limited = with_limits();
    let text = plan::plan(plain(80), &limited);
    insta::assert_snapshot!(text);
    assert!(widest(&text) <= 80, "{text}");
    let limits = limited.vips[0].limits.as_mut().unwrap();
    (limits.limited, limits.denied, limits.busiest_only) = (0, 0, true);
    let text = plan::plan(plain(200), &limited);
    let line =
        "in the last 42 minutes these would have limited nobody (1,204 busiest sources seen)\n";
    assert!(text.contains(line), "{text}");
    limited.vips[0].limits = Some(LimitsPlan {
        minutes: 0,
        sources: 0,
        ..limited.vips[0].limits.clone().unwrap()
    });
    let text = plan::plan(plain(200), &limited);
    assert!(
        text.contains("  limits: no traffic of this VIP was seen"),
        "{text}"
    );
    assert!(!text.contains("the VIP: peak"), "{text}");
}
