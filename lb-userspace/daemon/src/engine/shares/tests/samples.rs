//! What is read from sampled flows, while the part of them that is sampled changes.

use std::time::Instant;

use lb_common::{
    address_v4, family,
    hash::{flow_hash_v4, slot_of},
    proto,
    sample::{FlowKey, FlowSample},
    vip::{Vip, affinity},
};

use super::super::{
    samples::Sampled,
    sampling::{Demand, Sampling},
};
use crate::reconciler::{Assignment, MemberReport, ServiceId, VipReport};
use lb_model::{
    config::{self, BackendState, Config},
    ring::Identity,
    transition::RingState,
};

pub(in crate::engine) fn config(vips: u16) -> Config {
    let mut text =
        "[node]\ninterfaces = [\"eth0\"]\nhash_seed = \"000102030405060708090a0b0c0d0e0f\"\n"
            .to_owned();
    for vip in 0..vips {
        text += &format!(
            "[[vip]]\nname = \"v{vip}\"\naddress = \"203.0.113.{vip}\"\nport = 80\nprotocol = \"tcp\"\n\
             forward = \"l2\"\n[[vip.backend]]\nname = \"b\"\naddress = \"10.0.0.1\"\n"
        );
    }
    match config::parse("test.toml", &text) {
        Ok(config) => config,
        Err(errors) => panic!("{errors}"),
    }
}

/// VIPs with so many members each; numbers of members go on from VIP to VIP.
pub(in crate::engine) fn reports(config: &Config, members: u16) -> Vec<VipReport> {
    let member = |index: u16| MemberReport {
        index,
        generation: 1,
        name: format!("b{index}"),
        check_name: format!("b{index}"),
        identity: Identity {
            address: [10, 0, (index >> 8) as u8, index as u8].into(),
            port: 80,
        },
        wanted: BackendState::Up,
        healthy: true,
        proven: true,
        leaving: false,
        weight: 1,
        effective_weight: 1,
        next_hop: None,
        nat_source: None,
        intended_share: 1.0 / f64::from(members),
        table_share: 1.0 / f64::from(members),
    };
    let report = |(index, vip): (usize, &config::Vip)| VipReport {
        is_limited: false,
        assignment: None,
        index: index as u16,
        name: vip.name.clone(),
        service: ServiceId::of(vip),
        forward: 1,
        panic: false,
        slots: 65_537,
        counts: Default::default(),
        members: (0..members)
            .map(|member_of| member(index as u16 * members + member_of))
            .collect(),
    };
    config.vips.iter().enumerate().map(report).collect()
}

/// A flow of VIP 0; its number is its hash.
fn flow(
    source: u32,
    number: u32,
    member: u16,
    first_s: u32,
    packets: u64,
) -> (FlowKey, FlowSample) {
    let key = FlowKey {
        source: address_v4(source.to_be()),
        dest: address_v4(0xcb00_7100_u32.to_be()),
        source_be: (number as u16).to_be(),
        dest_be: 80_u16.to_be(),
        protocol: proto::TCP,
        family: family::V4,
        _pad: (number >> 16) as u16,
    };
    let sample = FlowSample {
        packets,
        bytes: 100 * packets,
        first_s,
        last_s: first_s,
        syns: 1,
        resets: 0,
        member,
        vip: 0,
        hash: number,
    };
    (key, sample)
}

pub(super) fn demand(new_flows: f64, mask: u32) -> Demand {
    Demand {
        vip: 0,
        new_flows,
        packets: 6.0 * new_flows,
        begun: 0.0,
        search: false,
        mask,
    }
}

/// Flows that ceased to be sampled after their SYN look as if nobody had answered them.
#[test]
fn a_change_of_the_part_makes_no_black_hole() {
    let config = config(1);
    let reports = reports(&config, 2);
    let mut sampling = Sampling::default();
    let mut sampled = Sampled::default();
    sampling.adapt(100, &[demand(100.0, 0)], 0);
    // Eight flows with a SYN in second 110; then one in four is sampled.
    let begun: Vec<_> = (0..8).map(|n| flow(n, n, 0, 110, 1)).collect();
    sampled.take(110, &begun, &reports, &config.vips, &sampling);
    assert_eq!(sampling.adapt(110, &[demand(1_500.0, 0)], 0), [(0, 3)]);
    // What is still sampled was answered, of the rest nothing was seen.
    let later: Vec<_> = (0..8_u32)
        .map(|n| flow(n, n, 0, 110, if n & 3 == 0 { 6 } else { 1 }))
        .collect();
    sampled.take(114, &later, &reports, &config.vips, &sampling);
    let openings = &sampled.of("v0").unwrap().flows_by_member;
    assert_eq!(openings.len(), 1);
    assert_eq!((openings[0].flows, openings[0].unanswered), (2, 0));
}

/// Of the flows of the last three seconds half are the NAT's; of those of the last ten less.
#[test]
fn the_share_of_a_source_is_that_of_now() {
    let config = config(1);
    let reports = reports(&config, 2);
    let mut sampling = Sampling::default();
    sampling.adapt(80, &[demand(200.0, 0)], 0);
    let flows: Vec<_> = (0..2000)
        .map(|n| {
            let first_s = 91 + n / 200;
            let from_nat = first_s >= 97 && n % 16 < 8;
            let source = if from_nat {
                0x0a09_0807
            } else {
                0xc612_0000 + n
            };
            flow(source, n, u16::from(!from_nat), first_s, 6)
        })
        .collect();
    let mut sampled = Sampled::default();
    sampled.take(100, &flows, &reports, &config.vips, &sampling);
    let sources = &sampled.of("v0").unwrap().sources;
    assert_eq!(sources.len(), 1, "{sources:?}");
    assert_eq!(sources[0].prefix, "10.9.8.7");
    assert!(
        (sources[0].share - 0.5).abs() < 0.02,
        "{}",
        sources[0].share
    );

    // The same while one in eight is sampled, since a moment: those that were sampled all the time are few, so those
    // of all ten seconds count.
    sampling.adapt(98, &[demand(3_000.0, 0)], 0);
    sampled.take(100, &flows, &reports, &config.vips, &sampling);
    let share = sampled.of("v0").unwrap().sources[0].share;
    assert!((share - 0.2).abs() < 0.02, "{share}");
}

/// A source whose flows spill is where the ring assigns them, not where most of them go.
#[test]
fn a_source_is_at_the_member_of_the_ring() {
    let config = config(1);
    let mut reports = reports(&config, 2);
    let mut entry: Vip = bytemuck::Zeroable::zeroed();
    entry.affinity = affinity::SOURCE;
    (entry.hash_key.k1, entry.hash_key.k2) = (0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03);
    let flows: Vec<_> = (0..200)
        .map(|n| flow(0x0a09_0807, n, u16::from(n % 4 > 0), 97, 6))
        .collect();
    let mut sampling = Sampling::default();
    sampling.adapt(80, &[demand(200.0, 0)], 0);
    let at = |reports: &[VipReport]| {
        let mut sampled = Sampled::default();
        sampled.take(100, &flows, reports, &config.vips, &sampling);
        let source = sampled.of("v0").unwrap().sources[0].clone();
        (source.member, source.at_member)
    };
    assert_eq!(at(&reports), ("b1".into(), 0.75));
    for member in 0..2 {
        // A ring of this member alone in the half of the slots that the source is in.
        let hash = flow_hash_v4(&entry.hash_key, flows[0].0.source[0] as u32, 0);
        let mut ring = [1 - member; 251];
        ring[slot_of(hash, 251) as usize] = member;
        let ring = RingState::new_clean(&ring).into();
        reports[0].assignment = Some(Assignment::new(entry, ring));
        assert_eq!(at(&reports), (format!("b{member}").into(), 1.0));
    }
    // By the whole flow, its flows are all over the ring.
    entry.affinity = affinity::FLOW;
    let ring = (0..251).map(|slot| slot % 2).collect::<Vec<_>>();
    reports[0].assignment = Some(Assignment::new(entry, RingState::new_clean(&ring).into()));
    let (_, part) = at(&reports);
    assert!((0.5..0.65).contains(&part), "{part}");
}

#[test]
#[ignore = "a measurement: cargo test --release -- --ignored --nocapture"]
fn cost_of_4096_samples() {
    let config = config(64);
    let reports = reports(&config, 64);
    let sampling = Sampling::default();
    let mut sampled = Sampled::default();
    let mut times = Vec::new();
    for second in 0..60_u32 {
        let flows: Vec<_> = (0..4096_u32)
            .map(|n| {
                let age = n / 400;
                let mut flow = flow(n ^ second << 12, n, n as u16, 1000 + second - age, 6);
                flow.1.vip = (n / 64) as u16;
                flow
            })
            .collect();
        let begun = Instant::now();
        sampled.take(
            1000 + u64::from(second),
            &flows,
            &reports,
            &config.vips,
            &sampling,
        );
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    println!("median {:?}, worst {:?} a second", times[30], times[59]);
}
