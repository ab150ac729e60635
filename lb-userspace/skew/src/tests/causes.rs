//! Each cause, made on purpose, is named.

use super::*;
use crate::{Cause, Elephant, SampledFlows, Severity, Source};

const SKEW: [f64; 4] = [2.0, 2.0 / 3.0, 2.0 / 3.0, 2.0 / 3.0];

#[test]
fn a_table_that_is_not_intended() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_well(30, 100.0);
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
fn rounding_is_not_a_wrong_table() {
    let mut vip = Vip::new(TCP, 3);
    for (member, slots) in vip.members.iter_mut().zip([21_846.0, 21_846.0, 21_845.0]) {
        member.table_share = slots / 65_537.0;
    }
    vip.run_well(60, 100.0);
}

#[test]
fn a_revision_that_gives_one_member_nearly_everything() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_well(200, 200.0);
    vip.revise(12, &[5000.0, 100.0, 100.0, 100.0]);
    let (seconds, found) = vip.run_until(Kind::Concentration, 15, 200.0, &[1.0; 4]);
    assert!(seconds <= 10, "{seconds}");
    assert_eq!(found.cause, Cause::Revision { number: 12 });
    assert_eq!(found.cause_key(), "revision:12");
    assert_eq!(names(&found), ["b0"]);
    assert_eq!(found.severity, Severity::Critical);
    assert_eq!(vip.detector.findings().len(), 1, "the table is obeyed");
    // Taken back, it ends.
    vip.revise(13, &[1.0; 4]);
    assert!(vip.run(60, 200.0, &[1.0; 4]).is_empty());
}

#[test]
fn of_two_members_one_with_nearly_everything() {
    let mut vip = Vip::new(TCP, 2);
    vip.run_well(200, 200.0);
    vip.revise(3, &[30.0, 1.0]);
    let (_, found) = vip.run_until(Kind::Concentration, 15, 200.0, &[1.0; 2]);
    assert_eq!(found.cause, Cause::Revision { number: 3 });
}

#[test]
fn a_revision_that_takes_half_the_backends_out_is_no_concentration() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_well(200, 200.0);
    vip.revise(4, &[1.0, 1.0, 0.0, 0.0]);
    for member in &mut vip.members[2..] {
        member.phase = Phase::Draining;
    }
    vip.run_well(300, 200.0);
}

#[test]
fn unequal_weights_that_nobody_changed_are_wanted() {
    let mut vip = Vip::weighted(TCP, &[1000.0, 1.0, 1.0]);
    vip.run_well(300, 1000.0);
}

#[test]
fn weights_that_do_not_fit_the_capacities() {
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
fn traffic_that_leaves_the_table_just_after_a_revision() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_well(200, 200.0);
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
fn an_old_revision_is_not_blamed() {
    let mut vip = Vip::new(TCP, 4);
    vip.revise(7, &[1.1, 1.0, 1.0, 1.0]);
    vip.run_well(300, 200.0);
    let (_, found) = vip.run_until(Kind::Overload, 20, 200.0, &[2.0, 0.6, 0.6, 0.6]);
    assert_eq!(found.cause, Cause::Unknown);
}

#[test]
fn one_source_that_is_half_the_traffic() {
    let mut vip = Vip::new(SOURCE, 4);
    vip.run_well(400, 200.0);
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
    // Half of all on top of a quarter of the other half.
    let (_, found) = vip.run_until(Kind::Overload, 20, 200.0, &[2.5, 0.5, 0.5, 0.5]);
    let prefix = "203.0.113.7/32".to_owned();
    assert_eq!(found.cause, Cause::NarrowHashInput { prefix, share: 0.5 });
    assert_eq!(found.cause_key(), "narrow_hash_input:203.0.113.7/32");
    assert_eq!(names(&found), ["b0"]);
    assert_eq!(found.severity, Severity::Critical);
}

#[test]
fn a_small_source_does_not_explain_a_large_excess() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_well(200, 200.0);
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
fn an_elephant() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_well(200, 100.0);
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
    // One flow that is seen to be it needs no half a minute.
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
fn a_short_large_flow_is_nothing() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_well(100, 100.0);
    for second in 0..60 {
        if second < 15 {
            vip.members[1].bytes += 100_000_000;
        }
        vip.run_well(1, 100.0);
    }
}

#[test]
fn a_black_hole_by_its_syns() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_well(200, 100.0);
    vip.packets_per_flow[3] = 1.0;
    // Each SYN that nothing answers is repeated.
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
fn a_backend_that_accepts_and_never_answers() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_well(400, 200.0);
    vip.packets_per_flow[1] = 3.0;
    let (seconds, hole) = vip.run_until(Kind::BlackHole, 40, 200.0, &[1.0; 4]);
    assert!(seconds >= 10, "{seconds}");
    assert_eq!(
        hole.cause,
        Cause::BlackHole {
            member: Arc::from("b1")
        }
    );
    // It does not become usual while it lasts.
    assert_eq!(vip.run(1200, 200.0, &[1.0; 4]).len(), 1);
}

#[test]
fn a_black_hole_by_sampled_flows() {
    let mut vip = Vip::new(TCP, 2);
    vip.run_well(60, 2.0);
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
fn a_syn_flood_makes_no_black_holes() {
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
fn a_member_that_is_opened_more_often_and_served_late() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_well(200, 200.0);
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
fn old_udp_flows_in_a_transition_are_no_alarm() {
    let mut vip = Vip::new(UDP, 4);
    vip.run_well(200, 200.0);
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
    assert!(named, "it is said what is going on");
    vip.in_transition = false;
    vip.run_well(60, 200.0);
}

#[test]
fn a_spike_is_a_note_about_the_vip() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_well(300, 100.0);
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
fn an_excess_that_no_sampled_source_explains() {
    let mut vip = Vip::new(SOURCE, 4);
    vip.run_well(400, 200.0);
    let (_, found) = vip.run_until(Kind::Overload, 20, 200.0, &[2.5, 0.5, 0.5, 0.5]);
    assert_eq!(found.cause, Cause::HeavySources);
    assert_eq!(found.cause_key(), "narrow_hash_input");
    assert_eq!(found.severity, Severity::Warning);
}

/// Its new flows have few packets each, because packets of old connections are missing.
#[test]
fn who_comes_back_without_connections_is_no_black_hole() {
    let mut vip = Vip::new(TCP, 4);
    vip.run_well(400, 200.0);
    vip.revise(2, &[0.0, 1.0, 1.0, 1.0]);
    vip.run_well(30, 200.0);
    vip.revise(3, &[1.0; 4]);
    vip.packets_per_flow[0] = 3.0;
    vip.run_well(60, 200.0);
}
