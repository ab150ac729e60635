//! Every cause is identified.

use super::*;
use crate::{Cause, Elephant, SampledFlows, Severity, Source};

const SKEW: [f64; 4] = [2.0, 2.0 / 3.0, 2.0 / 3.0, 2.0 / 3.0];

#[test]
fn reports_a_table_that_differs_from_the_weights() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_faultless(30, 100.0);
    for (member, share) in vip.members.iter_mut().zip([0.4, 0.2, 0.2, 0.2]) {
        member.table_share = share;
    }
    let (seconds, found) = vip.run_until(Kind::TableSkew, 15, 100.0, &[1.0; 4]);
    assert!(seconds >= 5, "{seconds}");
    assert_eq!(found.cause, Cause::TableNotIntended);
    assert_eq!(found.members.len(), 4);
    assert_eq!(found.severity, Severity::Warning);
}

#[test]
fn allows_rounding_of_slots() {
    let mut vip = Vip::new(TCP, 3);
    for (member, slots) in vip.members.iter_mut().zip([21_846.0, 21_846.0, 21_845.0]) {
        member.table_share = slots / 65_537.0;
    }
    vip.run_faultless(60, 100.0);
}

#[test]
fn names_a_revision_that_gives_one_member_nearly_everything() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_faultless(200, 200.0);
    vip.revise(12, &[5000.0, 100.0, 100.0, 100.0]);
    let (seconds, found) = vip.run_until(Kind::Concentration, 15, 200.0, &[1.0; 4]);
    assert!(seconds <= 10, "{seconds}");
    assert_eq!(found.cause, Cause::Revision { number: 12 });
    assert_eq!(found.cause_key(), "revision:12");
    assert_eq!(names(&found), ["b0"]);
    assert_eq!(found.severity, Severity::Critical);
    assert_eq!(vip.detector.findings().len(), 1, "the table is obeyed");
    // Rolling back clears the finding.
    vip.revise(13, &[1.0; 4]);
    assert!(vip.run(60, 200.0, &[1.0; 4]).is_empty());
}

#[test]
fn names_a_revision_that_gives_one_of_two_members_nearly_everything() {
    let mut vip = Vip::new(TCP, 2);
    vip.run_faultless(200, 200.0);
    vip.revise(3, &[30.0, 1.0]);
    let (_, found) = vip.run_until(Kind::Concentration, 15, 200.0, &[1.0; 2]);
    assert_eq!(found.cause, Cause::Revision { number: 3 });
}

#[test]
fn ignores_a_revision_that_removes_half_of_the_backends() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_faultless(200, 200.0);
    vip.revise(4, &[1.0, 1.0, 0.0, 0.0]);
    for member in &mut vip.members[2..] {
        member.phase = Phase::Draining;
    }
    vip.run_faultless(300, 200.0);
}

#[test]
fn accepts_unequal_weights_that_no_revision_changed() {
    let mut vip = Vip::weighted(TCP, &[1000.0, 1.0, 1.0]);
    vip.run_faultless(300, 1000.0);
}

#[test]
fn reports_weights_that_contradict_capacities() {
    let mut vip = Vip::new(TCP, 4);
    for (member, capacity) in vip.members.iter_mut().zip([100.0, 1000.0, 1000.0, 1000.0]) {
        member.capacity = Some(capacity);
    }
    let (_, found) = vip.run_until(Kind::Concentration, 30, 1000.0, &[1.0; 4]);
    assert_eq!(names(&found), ["b0"]);
    assert_eq!(found.cause, Cause::Unknown);
    assert_eq!(
        found.severity,
        Severity::Critical,
        "it is over its capacity"
    );
}

#[test]
fn names_a_revision_shortly_before_a_skew() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_faultless(200, 200.0);
    vip.revise(7, &[1.1, 1.0, 1.0, 1.0]);
    let (_, found) = vip.run_until(Kind::Overload, 20, 200.0, &[2.0, 0.6, 0.6, 0.6]);
    assert_eq!(found.cause, Cause::Revision { number: 7 });
    assert!(
        found
            .evidence
            .iter()
            .any(|line| line.contains("revision 7")),
        "{found:?}"
    );
}

#[test]
fn does_not_name_an_old_revision() {
    let mut vip = Vip::new(TCP, 4);
    vip.revise(7, &[1.1, 1.0, 1.0, 1.0]);
    vip.run_faultless(300, 200.0);
    let (_, found) = vip.run_until(Kind::Overload, 20, 200.0, &[2.0, 0.6, 0.6, 0.6]);
    assert_eq!(found.cause, Cause::Unknown);
}

#[test]
fn names_a_source_with_half_of_the_traffic() {
    let mut vip = Vip::new(SOURCE, 4);
    vip.run_faultless(400, 200.0);
    vip.samples = Some(Samples {
        sources: vec![
            Source {
                prefix: "203.0.113.7/32".into(),
                share: 0.5,
                member: Arc::from("b0"),
                at_member: 1.0,
            },
            Source {
                prefix: "198.51.100.0/24".into(),
                share: 0.05,
                member: Arc::from("b2"),
                at_member: 1.0,
            },
        ],
        ..Samples::default()
    });
    // Half of all flows plus a quarter of the rest.
    let (_, found) = vip.run_until(Kind::Overload, 20, 200.0, &[2.5, 0.5, 0.5, 0.5]);
    let prefix = "203.0.113.7/32".to_owned();
    assert_eq!(found.cause, Cause::NarrowHashInput { prefix, share: 0.5 });
    assert_eq!(found.cause_key(), "narrow_hash_input:203.0.113.7/32");
    assert_eq!(names(&found), ["b0"]);
    assert_eq!(found.severity, Severity::Critical);
}

#[test]
fn does_not_name_a_small_source_for_a_large_excess() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_faultless(200, 200.0);
    vip.samples = Some(Samples {
        sources: vec![Source {
            prefix: "198.51.100.9/32".into(),
            share: 0.03,
            member: Arc::from("b0"),
            at_member: 1.0,
        }],
        ..Samples::default()
    });
    let (_, found) = vip.run_until(Kind::Overload, 20, 200.0, &SKEW);
    assert_eq!(found.cause, Cause::Unknown);
}

#[test]
fn names_an_elephant() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_faultless(200, 100.0);
    let flow = "tcp 198.51.100.7:40000 > 203.0.113.10:443";
    let mut found = Vec::new();
    let mut raised = None;
    for second in 1..=60 {
        vip.members[2].bytes += 50_000_000;
        vip.members[2].packets += 40_000;
        vip.samples = Some(Samples {
            elephants: vec![Elephant {
                flow: flow.into(),
                member: Arc::from("b2"),
                packets_per_s: 40_000.0,
                bytes_per_s: 50e6,
            }],
            ..Samples::default()
        });
        found = vip.run(1, 100.0, &[1.0; 4]).to_vec();
        if !found.is_empty() {
            raised.get_or_insert(second);
        }
    }
    // With a sampled elephant, half a minute is not needed.
    assert!(
        raised.is_some_and(|second| (8..=12).contains(&second)),
        "{raised:?}"
    );
    let kinds: Vec<Kind> = found.iter().map(|finding| finding.kind).collect();
    assert_eq!(kinds, [Kind::ByteSkew, Kind::PacketSkew], "{found:?}");
    for finding in &found {
        assert_eq!(names(finding), ["b2"]);
        assert_eq!(
            finding.cause,
            Cause::Elephants {
                flows: vec![flow.to_owned()]
            }
        );
    }
    let found = vip.run(60, 100.0, &[1.0; 4]);
    assert!(found.is_empty(), "it ended: {found:?}");
}

#[test]
fn ignores_a_short_large_flow() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_faultless(100, 100.0);
    for second in 0..60 {
        if second < 15 {
            vip.members[1].bytes += 100_000_000;
        }
        vip.run_faultless(1, 100.0);
    }
}

#[test]
fn detects_a_black_hole_by_its_syns() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_faultless(200, 100.0);
    vip.packets_per_flow[3] = 1.0;
    // Unanswered SYNs are repeated.
    let (seconds, hole) = vip.run_until(Kind::BlackHole, 15, 100.0, &[1.0, 1.0, 1.0, 2.5]);
    assert!(seconds >= 4, "{seconds}");
    let cause = Cause::BlackHole {
        member: Arc::from("b3"),
    };
    assert_eq!(hole.cause, cause);
    assert_eq!(hole.severity, Severity::Critical);
    vip.run(20, 100.0, &[1.0, 1.0, 1.0, 2.5]);
    for finding in vip.detector.findings() {
        assert_eq!(finding.cause, cause, "one cause for all it does");
    }
    vip.packets_per_flow[3] = 6.0;
    assert!(vip.run(120, 100.0, &[1.0; 4]).is_empty());
}

#[test]
fn detects_a_backend_that_accepts_but_never_replies() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_faultless(400, 200.0);
    vip.packets_per_flow[1] = 3.0;
    let (seconds, hole) = vip.run_until(Kind::BlackHole, 40, 200.0, &[1.0; 4]);
    assert!(seconds >= 10, "{seconds}");
    assert_eq!(
        hole.cause,
        Cause::BlackHole {
            member: Arc::from("b1")
        }
    );
    // A lasting fault does not change the baseline.
    assert_eq!(vip.run(1200, 200.0, &[1.0; 4]).len(), 1);
}

#[test]
fn detects_a_black_hole_by_sampled_flows() {
    let mut vip = Vip::new(TCP, 2);
    vip.run_faultless(60, 2.0);
    let sampled_flows = |member: &str, flows, unanswered| SampledFlows {
        member: Arc::from(member),
        flows,
        unanswered,
    };
    vip.samples = Some(Samples {
        flows_by_member: vec![sampled_flows("b0", 32, 1), sampled_flows("b1", 24, 24)],
        ..Samples::default()
    });
    let (_, hole) = vip.run_until(Kind::BlackHole, 5, 2.0, &[1.0; 2]);
    assert_eq!(
        hole.cause,
        Cause::BlackHole {
            member: Arc::from("b1")
        }
    );
}

#[test]
fn reports_no_black_hole_in_a_syn_flood() {
    let mut vip = Vip::new(TCP, 4);
    vip.run(200, 100.0, &[1.0; 4]);
    vip.packets_per_flow = vec![1.01; 4];
    for _ in 0..120 {
        let found = vip.run(1, 50_000.0, &[1.0; 4]);
        assert!(
            found.iter().all(|finding| finding.kind == Kind::Spike),
            "{found:?}"
        );
    }
}

#[test]
fn reports_a_slow_backend() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_faultless(200, 200.0);
    vip.packets_per_flow[0] = 4.0;
    let (_, found) = vip.run_until(Kind::Overload, 15, 200.0, &[1.8, 1.0, 1.0, 1.0]);
    assert_eq!(
        found.cause,
        Cause::SlowBackend {
            member: Arc::from("b0")
        }
    );
}

#[test]
fn reports_a_note_for_udp_flows_in_transition() {
    let mut vip = Vip::new(UDP, 4);
    vip.run_faultless(200, 200.0);
    vip.in_transition = true;
    vip.share(&[1.0, 1.0, 1.0, 0.0]);
    let mut named = false;
    for _ in 0..60 {
        let third = 200.0 / 3.0;
        let found = vip.second(&[third, third, third, 150.0]);
        named |= found
            .iter()
            .any(|finding| finding.cause == Cause::RingInTransition);
        assert!(
            found
                .iter()
                .all(|finding| finding.severity == Severity::Note),
            "{found:?}"
        );
    }
    assert!(named, "the finding names the transition");
    vip.in_transition = false;
    vip.run_faultless(60, 200.0);
}

#[test]
fn reports_a_spike_as_a_note() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_faultless(300, 100.0);
    let (_, found) = vip.run_until(Kind::Spike, 20, 1000.0, &[1.0; 4]);
    assert_eq!(found.severity, Severity::Note);
    assert!(found.members.is_empty());
    assert!(
        matches!(found.cause, Cause::Spike { times } if times > 3.0),
        "{found:?}"
    );
    assert!(vip.run(30, 100.0, &[1.0; 4]).is_empty());
}

#[test]
fn reports_heavy_sources_without_a_sampled_source() {
    let mut vip = Vip::new(SOURCE, 4);
    vip.run_faultless(400, 200.0);
    let (_, found) = vip.run_until(Kind::Overload, 20, 200.0, &[2.5, 0.5, 0.5, 0.5]);
    assert_eq!(found.cause, Cause::HeavySources);
    assert_eq!(found.cause_key(), "narrow_hash_input");
    assert_eq!(found.severity, Severity::Warning);
}

/// Its packets per new flow are few, because packets of old connections are missing.
#[test]
fn reports_no_black_hole_when_a_backend_returns_without_connections() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_faultless(400, 200.0);
    vip.revise(2, &[0.0, 1.0, 1.0, 1.0]);
    vip.run_faultless(30, 200.0);
    vip.revise(3, &[1.0; 4]);
    vip.packets_per_flow[0] = 3.0;
    vip.run_faultless(60, 200.0);
}

/// Backends that go down while the evidence accumulates change the reference.
#[test]
fn no_backend_gets_more_than_all_flows() {
    for seconds in 0..20 {
        let mut vip = Vip::new(TCP, 4);
        vip.run_faultless(60, 100.0);
        vip.revise(2, &[97.0, 1.0, 1.0, 1.0]);
        vip.run(seconds, 4.0, &[1.0; 4]);
        for down in &mut vip.members[2..] {
            down.phase = Phase::Out;
        }
        vip.share(&[97.0, 1.0, 0.0, 0.0]);
        let (_, found) = vip.run_until(Kind::Concentration, 60, 4.0, &[1.0; 4]);
        let evidence = found.evidence.join("; ");
        let share = evidence
            .split_once("b0 gets ")
            .unwrap()
            .1
            .split_once(" %")
            .unwrap()
            .0;
        let share: f64 = share.parse().unwrap();
        assert!(
            (80.0..=100.0).contains(&share),
            "after {seconds} s: {evidence}"
        );
        assert!(
            (share - 100.0 * found.members[0].observed_share).abs() < 0.1,
            "{found:?}"
        );
    }
}

/// A bad revision is rolled back, and only the one before it is left to be blamed.
#[test]
fn an_innocent_revision_is_not_blamed_after_a_rollback() {
    let mut vip = Vip::new(TCP, 4);
    let innocent = [1.2, 1.0, 1.0, 1.0];
    vip.revise(2, &innocent);
    vip.run_faultless(60, 200.0);
    let before = vip.change.clone();
    vip.revise(3, &[100.0, 1.0, 1.0, 1.0]);
    let (_, found) = vip.run_until(Kind::Concentration, 15, 200.0, &[1.0; 4]);
    assert_eq!(found.cause, Cause::Revision { number: 3 });
    vip.share(&innocent);
    vip.change = before;
    for _ in 0..120 {
        for found in vip.run(1, 200.0, &[1.0; 4]) {
            assert_ne!(found.cause, Cause::Revision { number: 2 }, "{found:?}");
        }
    }
    assert!(vip.detector.findings().is_empty());
}
