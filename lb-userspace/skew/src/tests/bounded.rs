//! VIPs whose full members spill new flows to others.

use super::*;
use crate::{Cause, Severity, Source};

/// The clients of one source, in a slot of `b0`.
const SOURCE_AT_B0: &str = "203.0.113.7";

/// A second with so many new flows by the ring; a member gets at most `factor` times its share, and the
/// others get the rest in equal parts.
fn second(vip: &mut Vip, rate: f64, times: &[f64; 4], factor: f64) -> Vec<Finding> {
    let flows = times.map(|times| vip.poisson(rate * times / 4.0));
    let all: u64 = flows.iter().sum();
    let most = (all as f64 * factor / 4.0) as u64;
    let spilled: u64 = flows.iter().map(|flows| flows.saturating_sub(most)).sum();
    let receiving = flows.iter().filter(|flows| **flows <= most).count().max(1) as u64;
    for (member, flows) in vip.members.iter_mut().zip(flows) {
        let got = flows.min(most)
            + if flows <= most {
                spilled / receiving
            } else {
                0
            };
        *member.ring_flows.get_or_insert(member.new_flows) += flows;
        member.new_flows += got;
        member.packets += 6 * got;
        member.bytes += 4800 * got;
    }
    vip.observe().to_vec()
}

fn bounded() -> Vip {
    let mut vip = Vip::new(SOURCE, 4);
    vip.bounded = true;
    for _ in 0..400 {
        assert_eq!(second(&mut vip, 400.0, &[1.0; 4], 1.25), []);
    }
    let source = Source {
        prefix: SOURCE_AT_B0.into(),
        share: 0.5,
        member: Arc::from("b0"),
        at_member: 1.0,
    };
    vip.samples = Some(Samples {
        sources: vec![source],
        ..Samples::default()
    });
    vip
}

/// Half of all flows, and a quarter of the rest.
const SKEWED: [f64; 4] = [2.5, 0.5, 0.5, 0.5];

#[test]
fn reports_the_source_and_not_the_members_that_its_flows_spill_to() {
    let mut vip = bounded();
    let mut found = Vec::new();
    for _ in 0..200 {
        found = second(&mut vip, 400.0, &SKEWED, 1.25);
        for finding in &found {
            assert_eq!((finding.kind, names(finding)), (Kind::Overload, vec!["b0"]));
        }
    }
    let cause = Cause::NarrowHashInput {
        prefix: SOURCE_AT_B0.into(),
        share: 0.5,
    };
    assert_eq!(found[0].cause, cause);
    // The bound spares the member.
    assert_eq!(found[0].severity, Severity::Warning);
    let evidence = &found[0].evidence[0];
    assert!(
        evidence.starts_with("b0 would have got, without its bound, "),
        "{evidence}"
    );
}

#[test]
fn what_a_member_really_gets_is_held_against_its_capacity() {
    let severity = |capacity, factor| {
        let mut vip = bounded();
        vip.members[0].capacity = Some(capacity);
        let mut worst = None;
        for _ in 0..30 {
            // Without a source that explains it.
            vip.samples = None;
            let found = second(&mut vip, 400.0, &SKEWED, factor);
            worst = worst.max(found.iter().map(|finding| finding.severity).max());
        }
        worst
    };
    assert_eq!(severity(200.0, 1.25), Some(Severity::Warning));
    assert_eq!(severity(100.0, 1.25), Some(Severity::Critical));
}

#[test]
fn spilled_flows_are_no_black_hole_and_no_skew_of_bytes() {
    let mut vip = bounded();
    // Nearly all flows are of the source: per flow of the ring, its member gets few packets.
    for _ in 0..300 {
        for finding in second(&mut vip, 400.0, &[3.7, 0.1, 0.1, 0.1], 1.05) {
            assert_eq!(finding.kind, Kind::Overload, "{finding:?}");
        }
    }
}

#[test]
fn a_member_is_starved_that_gets_too_little_with_spilled_flows() {
    let mut vip = bounded();
    let mut found = Vec::new();
    for _ in 0..30 {
        found = second(&mut vip, 400.0, &[1.3, 1.3, 1.3, 0.1], 10.0);
    }
    let starved = found
        .iter()
        .find(|finding| finding.kind == Kind::Starvation);
    assert_eq!(names(starved.unwrap()), ["b3"]);
}

#[test]
fn bytes_go_where_flows_spill() {
    let mut vip = bounded();
    for second in 0..4000 {
        // Only b1 has room. The bound ends, and connections stay for a while.
        let ring_flows = if second < 3900 {
            [300, 10, 10, 10]
        } else {
            [80; 4]
        };
        for (number, ring_flows) in ring_flows.into_iter().enumerate() {
            let member = &mut vip.members[number];
            *member.ring_flows.get_or_insert(member.new_flows) += ring_flows;
            member.new_flows += match second {
                ..3900 => [10, 300, 10, 10][number],
                _ => ring_flows,
            };
            let requests = if number == 1 { 300 } else { 10 };
            member.packets += 600 * requests;
            member.bytes += 480_000 * requests;
        }
        vip.bounded = second < 3900;
        for finding in vip.observe() {
            let is_volume = matches!(finding.kind, Kind::ByteSkew | Kind::PacketSkew);
            assert!(!is_volume, "{second}: {finding:?}");
        }
    }
}
