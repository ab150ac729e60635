//! Properties for arbitrary input.

use proptest::prelude::*;

use super::*;

fn phase() -> impl Strategy<Value = Phase> {
    prop_oneof![
        Just(Phase::Serving),
        Just(Phase::SlowStart),
        Just(Phase::Draining),
        Just(Phase::Out)
    ]
}

fn member() -> impl Strategy<Value = Member> {
    let shares = (0.0..=1.0f64, 0.0..=1.0f64);
    let totals = (any::<u64>(), any::<u64>(), any::<u64>());
    (
        0..8u8,
        shares,
        proptest::option::of(0.0..1e9f64),
        phase(),
        totals,
    )
        .prop_map(
            |(
                name,
                (table_share, intended_share),
                capacity,
                phase,
                (new_flows, packets, bytes),
            )| Member {
                name: Arc::from(format!("b{name}")),
                table_share,
                intended_share,
                capacity,
                phase,
                new_flows,
                ring_flows: None,
                packets,
                bytes,
            },
        )
}

/// Findings with rounded numbers.
fn brief(findings: &[Finding]) -> Vec<(Kind, Vec<&str>, f64, f64)> {
    findings
        .iter()
        .map(|finding| {
            (
                finding.kind,
                names(finding),
                finding.since_s,
                finding.raised_s,
            )
        })
        .collect()
}

proptest! {
    /// Arbitrary input causes no panic, and findings have finite numbers.
    #[test]
    fn never_panics(
        tcp: bool,
        independent: bool,
        steps in prop::collection::vec((prop::collection::vec(member(), 0..6), 0.0..5.0f64, any::<bool>()), 1..40),
    ) {
        let mut detector = Detector::new(Thresholds::default(), Facts { tcp, independent });
        let mut at_s = 0.0;
        for (members, length_s, in_transition) in &steps {
            at_s += length_s;
            let seen = Observation {
                at_s,
                members,
                ring_size: 251,
                in_transition: *in_transition,
                change: None,
                samples: None,
                bounded: false,
            };
            for finding in detector.observe(&seen) {
                prop_assert!(finding.since_s <= at_s && finding.raised_s <= at_s);
                prop_assert!(!finding.evidence.is_empty());
                for affected in &finding.members {
                    prop_assert!(affected.ratio.is_finite() && affected.z.is_finite(), "{:?}", affected);
                    prop_assert!(members.iter().any(|m| m.name == affected.name));
                }
            }
            prop_assert!(detector.dispersion().is_finite() && detector.dispersion() >= 1.0);
        }
    }

    /// Exact shares cause no finding, for any weights and rate.
    #[test]
    fn reports_nothing_for_exact_shares(
        weights in prop::collection::vec(1.0..1000.0f64, 2..20),
        rate in 1.0..1e6f64,
    ) {
        let mut vip = Vip::weighted(TCP, &weights);
        let shares = vip.shares();
        for second in 1..300u64 {
            for (member, share) in vip.members.iter_mut().zip(&shares) {
                member.new_flows = 1000 + (rate * share * second as f64) as u64;
                member.packets = 9000 + (6.0 * rate * share * second as f64) as u64;
            }
            let found = vip.observe();
            prop_assert!(found.is_empty(), "{:?}", found);
        }
    }

    #[test]
    fn does_not_depend_on_the_order_of_members(seed in 1..1000u64, culprit in 0..5usize) {
        let mut times = [0.75; 5];
        times[culprit] = 2.0;
        let mut straight = Vip::new(TCP, 5);
        straight.seed = seed;
        let mut turned = Detector::new(Thresholds::default(), TCP);
        for second in 0..60 {
            let times = if second < 30 { [1.0; 5] } else { times };
            let flows: Vec<f64> = times.iter().map(|times| 40.0 * times).collect();
            let found = straight.second(&flows).to_vec();
            let mut members = straight.members.clone();
            members.reverse();
            let seen = Observation {
                at_s: straight.now_s,
                members: &members,
                ring_size: 65_537,
                in_transition: false,
                change: None,
                samples: None,
                bounded: false,
            };
            prop_assert_eq!(brief(&found), brief(turned.observe(&seen)));
        }
        let name = format!("b{culprit}");
        prop_assert_eq!(names(&straight.detector.findings()[0]), [name.as_str()]);
    }

    /// Deviations beyond the tolerance are always detected. Of two members either may be named.
    #[test]
    fn detects_large_deviations(members in 2..12usize, times in 1.4..1.9f64, seed in 1..1000u64) {
        let mut vip = Vip::new(TCP, members);
        vip.seed = seed;
        vip.run(60, 500.0, &vec![1.0; members]);
        let mut skew = vec![(members as f64 - times) / (members as f64 - 1.0); members];
        skew[0] = times;
        let found = vip.run(120, 500.0, &skew);
        let named = |kind, name| found.iter().any(|finding| finding.kind == kind && names(finding) == [name]);
        prop_assert!(
            named(Kind::Overload, "b0") || members == 2 && named(Kind::Starvation, "b1"),
            "{:?}", found
        );
    }
}
