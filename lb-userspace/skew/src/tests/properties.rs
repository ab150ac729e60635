//! What holds for any input.

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
                packets,
                bytes,
            },
        )
}

/// What a finding says, without the last digits of its numbers.
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
    /// Nonsense is survived, and no finding has a number that is none.
    #[test]
    fn any_input_is_survived(
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

    /// Flows that keep exactly to the table are never a finding, whatever the weights and the rate.
    #[test]
    fn exact_shares_are_never_a_finding(
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
            let found = vip.look();
            prop_assert!(found.is_empty(), "{:?}", found);
        }
    }

    /// The order of the members does not matter.
    #[test]
    fn order_does_not_matter(seed in 1..1000u64, culprit in 0..5usize) {
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
            };
            prop_assert_eq!(brief(&found), brief(turned.observe(&seen)));
        }
        let name = format!("b{culprit}");
        prop_assert_eq!(names(&straight.detector.findings()[0]), [name.as_str()]);
    }

    /// More than is tolerated is always found, sooner or later. Of two members one has what the other lacks, and
    /// either may be the one that is named.
    #[test]
    fn what_is_far_off_is_found(members in 2..12usize, times in 1.4..1.9f64, seed in 1..1000u64) {
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
