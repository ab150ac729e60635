//! `explain` predicts what the program does with each packet.
//!
//! With VIPs of all kinds, rings in transition, changing members and sessions of all ages, each packet is
//! explained first (a run may change the tables) and then run on the same tables.

mod world;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use lab::{
    bytecode::tables::KEY,
    packet::{Frame, Ip, SYN, tcp, udp},
};
use lb_common::{
    hash::HashKey,
    ring::{MemberIndex, NO_MEMBER},
    trace::{NONE, Trace},
};
use lb_dataplane::{
    Dataplane, Run,
    explain::{self, Flow, Names, Sent, Sources, Tables, Verdict, Walk},
};
use lb_model::config::Protocol;
use rand::RngExt as _;

use world::{Reply, World};

/// Number of packets.
const PACKETS: usize = 30_000;
struct Numbers;

impl Names for Numbers {
    fn vip(&self, index: u16) -> Option<String> {
        Some(format!("vip-{index}"))
    }

    fn member(&self, index: MemberIndex) -> Option<String> {
        Some(format!("m-{index}"))
    }
}

pub(crate) fn sources(dataplane: &Dataplane) -> Sources<'_> {
    Sources {
        tables: Tables::from(dataplane),
        names: &Numbers,
        // The ingress interface of test runs.
        ingress: Some(1),
    }
}

fn frame(flow: &Flow, flags: u8) -> Frame {
    let (source, dest) = (flow.source.port(), flow.dest.port());
    let transport = match flow.protocol {
        Protocol::Tcp => tcp(source, dest, flags),
        Protocol::Udp => udp(source, dest),
    };
    Frame::new(Ip::new(flow.source.ip(), flow.dest.ip()), transport)
}

/// Returns the addresses of the outer IP header, and the four bytes behind it as ports.
fn ends(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let read = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    if frame[12..14] == [0x08, 0x00] {
        let ip = |at: usize| {
            let octets: [u8; 4] = frame[at..at + 4].try_into().unwrap();
            IpAddr::from(octets)
        };
        let ports = (read(34), read(36));
        return (
            SocketAddr::new(ip(26), ports.0),
            SocketAddr::new(ip(30), ports.1),
        );
    }
    let ip = |at: usize| {
        let octets: [u8; 16] = frame[at..at + 16].try_into().unwrap();
        IpAddr::from(octets)
    };
    (
        SocketAddr::new(ip(22), read(54)),
        SocketAddr::new(ip(38), read(56)),
    )
}

fn named(index: u16) -> Option<u16> {
    (index != NONE && index != NO_MEMBER).then_some(index)
}

/// Returns the differences between an explanation and a run.
fn differences(walk: &Walk, run: &Run, trace: &Trace) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |what: &str, explained: String, done: String| {
        if explained != done {
            found.push(format!("{what}: explained {explained}, was {done}"));
        }
    };
    let verdict = match walk.verdict {
        Verdict::Drop => 1,
        Verdict::Pass => 2,
        Verdict::Tx => 3,
        Verdict::Redirect => 4,
    };
    compare("verdict", verdict.to_string(), run.verdict.to_string());
    let reason = walk.reason as u32;
    compare("reason", reason.to_string(), trace.reason.to_string());
    let vip = format!("{:?}", named(trace.vip));
    compare("VIP", format!("{:?}", walk.vip), vip);
    // If the program drops the packet early, its trace has no member.
    if walk.sent.is_some() || named(trace.member).is_some() {
        let member = format!("{:?}", named(trace.member));
        compare("member", format!("{:?}", walk.member), member);
    }
    let slot = (trace.slot_hash != 0).then_some(trace.slot);
    compare("slot", format!("{:?}", walk.slot), format!("{slot:?}"));
    if let Some(sent) = &walk.sent
        && run.verdict > 2
    {
        compare_sent(sent, run, &mut compare);
    }
    found
}

fn compare_sent(sent: &Sent, run: &Run, compare: &mut impl FnMut(&str, String, String)) {
    let mac = format!("{:x?}", &run.frame[..6]);
    compare("MAC address", format!("{:x?}", sent.mac), mac);
    let (source, dest) = ends(&run.frame);
    if let Some(outer) = sent.outer {
        let done = format!("{:?}", (source.ip(), dest.ip()));
        compare("outer header", format!("{outer:?}"), done);
    }
    if let Some(rewritten) = sent.rewritten {
        let done = format!("{:?}", (source, dest));
        compare("rewriting", format!("{rewritten:?}"), done);
    }
}

/// What must have happened to packets.
const OUTCOMES: [&str; 22] = [
    "FORWARDED tx",
    "FORWARDED redirect",
    "NAT_REPLY tx",
    "NO_VIP pass",
    "NO_SERVICE pass",
    "NAT_NO_SESSION pass",
    "NO_MEMBER drop",
    "MEMBER_DOWN drop",
    "NO_NEXT_HOP drop",
    "MARTIAN_SOURCE drop",
    "NAT_NO_FLOW drop",
    "NAT_NO_PORT drop",
    "DENIED drop",
    "SOURCE_FLOW_LIMIT drop",
    "SOURCE_PACKET_LIMIT drop",
    "VIP_FLOW_LIMIT drop",
    "VIP_PACKET_LIMIT drop",
    "FORWARDED tx entry found",
    "FORWARDED tx new flow, uses the slot's backend",
    "FORWARDED tx existing flow, stays on the slot's previous backend",
    "FORWARDED tx existing flow whose previous backend is down",
    "FORWARDED tx existing flow, uses the slot's unchanged backend",
];

fn has_seen(seen: &BTreeMap<String, u32>, kind: &str) -> bool {
    seen.keys().any(|key| key.starts_with(kind))
}

#[test]
fn explanations_match_the_program() {
    let mut rng = lab::random::seeded("packets");
    let mut world = World::new(&mut rng, KEY);
    let mut replies: Vec<Reply> = Vec::new();
    let mut seen = BTreeMap::<String, u32>::new();
    // Some are rare: a few times as many packets, until all were seen.
    for step in 0..5 * PACKETS {
        if step >= PACKETS && OUTCOMES.iter().all(|kind| has_seen(&seen, kind)) {
            break;
        }
        if rng.random_range(0..12) == 0 {
            world.change(&mut rng, step);
        }
        world.tick(&mut rng);
        let (flow, flags) = world.packet(&mut rng, &replies);
        let opens = flow.protocol == Protocol::Tcp && flags == SYN;
        let walk = explain::walk(&flow, opens, &sources(&world.dataplane)).unwrap();
        if step % 10 == 0 {
            check_names(&world, &flow, opens, &walk);
        }
        let bytes = frame(&flow, flags).bytes();
        let (run, trace) = world.dataplane.run_traced(&bytes).unwrap();
        let differences = differences(&walk, &run, &trace);
        assert!(
            differences.is_empty(),
            "step {step}, {flow}, opens {opens}: {differences:#?}\n{walk:#?}\n{trace:?}"
        );
        if let Some((source, dest)) = walk.sent.and_then(|sent| sent.rewritten)
            && replies.len() < 2000
        {
            replies.push((flow.protocol, dest, source));
        }
        let how = walk.steps.iter().rev().find(|step| step.step == "tracking");
        let how = how.map_or("", |step| step.finding.split(':').next().unwrap());
        let reason = walk.reason.text().name;
        *seen
            .entry(format!("{reason} {} {how}", walk.verdict))
            .or_default() += 1;
    }
    println!("{seen:#?}");
    for kind in OUTCOMES {
        assert!(has_seen(&seen, kind), "no packet had the outcome {kind}");
    }
}

/// Checks that `explain` returns the same walk with names.
fn check_names(world: &World, flow: &Flow, syn: bool, walk: &Walk) {
    let text = flow.to_string();
    let explanation = explain::explain(&text, syn, &sources(&world.dataplane)).unwrap();
    assert_eq!(explanation.flow, *flow);
    assert_eq!(explanation.walk, *walk);
    let backend = walk.member.filter(|_| walk.sent.is_some());
    assert_eq!(
        explanation.backend,
        backend.map(|member| format!("m-{member}"))
    );
    assert_eq!(explanation.vip, walk.vip.map(|vip| format!("vip-{vip}")));
}

/// Proves the comparison: with another hash key, most explanations are wrong.
#[test]
fn the_comparison_finds_wrong_slots() {
    const FLOWS: usize = 300;
    let mut rng = lab::random::seeded("packets");
    let world = World::new(&mut rng, KEY);
    let wrong = HashKey {
        k0: KEY.k0 ^ 1,
        ..KEY
    };
    let other = World::new(&mut rng, wrong);
    let mut noticed = 0;
    for _ in 0..FLOWS {
        let (flow, _) = world.packet(&mut rng, &[]);
        let opens = flow.protocol == Protocol::Tcp;
        let walk = explain::walk(&flow, opens, &sources(&other.dataplane)).unwrap();
        let bytes = frame(&flow, SYN).bytes();
        let (run, trace) = world.dataplane.run_traced(&bytes).unwrap();
        noticed += usize::from(!differences(&walk, &run, &trace).is_empty());
    }
    assert!(noticed > FLOWS / 2, "noticed {noticed} of {FLOWS}");
}
