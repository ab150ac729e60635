//! Rate limits: what is admitted, to the packet, under a clock that the test sets.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use lab::{
    bytecode::tables::{SERVICES, Service},
    packet::{ACK, Frame, SYN},
    random::seeded,
};
use lb_common::{
    limit::{Kind, Limit, LimitCounters, Rate, excess},
    reason::{REASONS, Reason},
    vip::{forward, limited, track},
};
use lb_dataplane::Dataplane;
use lb_model::config::Prefix;
use rand::RngExt as _;

use crate::{
    fragments::part,
    stage::{Client, dataplane, options},
};

mod flood;

const MS: u64 = 1_000_000;
/// When the tests begin: a multiple of the unit of time.
const START_NS: u64 = 1 << 50;
/// IPv4 services: direct, encapsulated, `nat`; TCP and UDP. And three of IPv6.
const LIMITED: [Service; 8] = [
    SERVICES[0],
    SERVICES[1],
    SERVICES[3],
    SERVICES[5],
    SERVICES[6],
    SERVICES[9],
    SERVICES[12],
    SERVICES[13],
];

/// A time at which nothing is left of the packets to other services: with the key that all have here, they
/// share the state of their sources.
const fn later(service: &Service) -> u64 {
    service.index as u64 * 100_000
}

/// No limits; sources are addresses.
fn none() -> Limit {
    Limit {
        mask_v4: [u64::MAX; 2],
        mask_v6: [u64::MAX; 2],
        port_shift: 16,
        chunk: 1,
        ..bytemuck::Zeroable::zeroed()
    }
}

fn set(dataplane: &Dataplane, service: &Service, kinds: u8, limit: &Limit) {
    dataplane.limits.write(service.index, limit).unwrap();
    let mut vip = dataplane.vips.read(service.index).unwrap();
    vip.forward = vip.mode() | kinds;
    dataplane.vips.write(service.index, &vip).unwrap();
}

/// Runs a frame at a time; returns the name of the reason.
fn run_at(dataplane: &Dataplane, ms: u64, frame: &Frame) -> &'static str {
    dataplane.set_clock(START_NS + ms * MS).unwrap();
    run(dataplane, frame)
}

fn run(dataplane: &Dataplane, frame: &Frame) -> &'static str {
    let (_, trace) = dataplane.run_traced(&frame.bytes()).unwrap();
    REASONS[trace.reason as usize].name
}

fn counters(dataplane: &Dataplane, service: &Service) -> LimitCounters {
    dataplane.limits.counters(service.index).unwrap()
}

/// The algorithm by its definition, with the time of one bucket in nanoseconds.
#[derive(Default)]
struct Model(HashMap<u8, u64>);

impl Model {
    fn admits(&mut self, who: u8, now_ns: u64, per_s: u64, burst: u64) -> bool {
        let cost = 1_000_000_000 / per_s;
        let arrival = self.0.entry(who).or_default();
        if *arrival > now_ns + (burst - 1) * cost {
            return false;
        }
        *arrival = now_ns.max(*arrival) + cost;
        true
    }
}

/// Every packet gets the model's verdict, whatever the service, and for a source as for the VIP.
#[test]
fn admits_exactly_what_the_limit_says() {
    let mut random = seeded("admits_exactly_what_the_limit_says");
    for of_vip in [false, true] {
        for kind in [Kind::Flows, Kind::Packets] {
            let dataplane = dataplane(&options());
            for service in LIMITED {
                let (per_s, burst) = (1000, random.random_range(1..20));
                let rate = Rate::new(per_s, burst, 1);
                let mut limit = none();
                let (kinds, reason) = match (kind, of_vip) {
                    (Kind::Flows, false) => (limited::FLOWS, Reason::SourceFlowLimit),
                    (Kind::Flows, true) => (limited::FLOWS, Reason::VipFlowLimit),
                    (Kind::Packets, false) => (limited::PACKETS, Reason::SourcePacketLimit),
                    (Kind::Packets, true) => (limited::PACKETS, Reason::VipPacketLimit),
                };
                *match (kind, of_vip) {
                    (Kind::Flows, false) => &mut limit.source_flows,
                    (Kind::Flows, true) => &mut limit.vip_flows,
                    (Kind::Packets, false) => &mut limit.source_packets,
                    (Kind::Packets, true) => &mut limit.vip_packets,
                } = rate;
                set(&dataplane, &service, kinds, &limit);
                let mut model = Model::default();
                let mut now_ns = START_NS + later(&service) * MS;
                let mut over = 0;
                for port in 2000..2120 {
                    now_ns += random.random_range(0..20) * 16_000;
                    dataplane.set_clock(now_ns).unwrap();
                    let source = random.random_range(1..4);
                    let frame = Client::new(source).to(&service, port, SYN);
                    let who = if of_vip { 0 } else { source };
                    let admitted = model.admits(who, now_ns, per_s.into(), burst.into());
                    let expected = if admitted { Reason::Forwarded } else { reason };
                    let found = run(&dataplane, &frame);
                    let told = format!("{service:?}, {kind:?}, burst {burst}, packet {port}");
                    assert_eq!(found, expected.text().name, "{told}");
                    over += u64::from(!admitted);
                }
                let counted = counters(&dataplane, &service);
                let counted = match (kind, of_vip) {
                    (Kind::Flows, false) => counted.source_flows,
                    (Kind::Flows, true) => counted.vip_flows,
                    (Kind::Packets, false) => counted.source_packets,
                    (Kind::Packets, true) => counted.vip_packets,
                };
                assert_eq!(counted, over, "{service:?}");
                assert!(over > 0 && over < 120, "{over}: the test shows nothing");
            }
        }
    }
}

/// With a limit of new flows that is used up, the packets of flows go on.
#[test]
fn limits_of_new_flows_spare_flows() {
    let dataplane = dataplane(&options());
    for service in LIMITED {
        let limit = Limit {
            source_flows: Rate::new(1, 1, 1),
            ..none()
        };
        set(&dataplane, &service, limited::FLOWS, &limit);
        let client = Client::new(1);
        let start = later(&service);
        let opens = client.to(&service, 3000, SYN);
        assert_eq!(
            run_at(&dataplane, start, &opens),
            "FORWARDED",
            "{service:?}"
        );
        let another = client.to(&service, 3001, SYN);
        assert_eq!(
            run_at(&dataplane, start + 1, &another),
            "SOURCE_FLOW_LIMIT",
            "{service:?}"
        );
        if service.forward == forward::NAT && service.protocol == 6 {
            // Its backend has not answered; the repeated SYN is no new flow.
            assert_eq!(
                run_at(&dataplane, start + 2, &opens),
                "FORWARDED",
                "{service:?}"
            );
            continue;
        }
        for ms in 2..20 {
            let goes_on = client.to(&service, 3000, ACK);
            assert_eq!(
                run_at(&dataplane, start + ms, &goes_on),
                "FORWARDED",
                "{service:?}"
            );
        }
        // The refused flow of UDP was not entered into the table: it is refused again.
        if service.track == track::ALWAYS {
            assert_eq!(
                run_at(&dataplane, start + 30, &another),
                "SOURCE_FLOW_LIMIT"
            );
        }
    }
}

/// What takes the slow path is limited too.
#[test]
fn no_form_of_a_packet_goes_around_a_limit() {
    for service in LIMITED {
        let dataplane = dataplane(&options());
        let limit = Limit {
            source_packets: Rate::new(1, 1, 1),
            ..none()
        };
        set(&dataplane, &service, limited::PACKETS, &limit);
        let plain = Client::new(1).to(&service, 3000, SYN);
        let tagged = plain.clone().tags(&[(0x8100, 7)]);
        let whole = plain.clone().payload(vec![1; 300]);
        let first = part(&whole, 7, 0, 120, true);
        assert_eq!(run_at(&dataplane, 0, &first), "FORWARDED", "{service:?}");
        let later = part(&whole, 7, 120, 120, true);
        for frame in [&plain, &tagged, &first, &later] {
            assert_eq!(
                run_at(&dataplane, 1, frame),
                "SOURCE_PACKET_LIMIT",
                "{service:?}: {frame:?}"
            );
        }
        assert_eq!(run_at(&dataplane, 1001, &later), "FORWARDED", "{service:?}");
    }
}

#[test]
fn counts_without_dropping() {
    let dataplane = dataplane(&options());
    let service = &SERVICES[1];
    let limit = Limit {
        source_flows: Rate::new(1, 2, 1),
        source_excess: excess::COUNT,
        ..none()
    };
    set(&dataplane, service, limited::FLOWS, &limit);
    for port in 3000..3010 {
        let frame = Client::new(1).to(service, port, SYN);
        assert_eq!(run_at(&dataplane, 0, &frame), "FORWARDED");
    }
    assert_eq!(counters(&dataplane, service).source_flows, 8);
    let recorded = dataplane.limits.limited().unwrap();
    let [(key, packets)] = &recorded[..] else {
        panic!("{recorded:?}")
    };
    assert_eq!(*packets, 8);
    assert_eq!(
        (key.vip, key.kind, key.of_vip, key.family),
        (service.index, Kind::Flows as u8, 0, 4)
    );
    assert_eq!(
        lb_common::ip_of(&key.source, key.family),
        std::net::IpAddr::V4(Client::new(1).v4)
    );
}

/// A real client repeats its SYN a second later; a forged one does not.
#[test]
fn lets_the_second_syn_through() {
    for (service, of_vip) in [
        (&SERVICES[1], true),
        (&SERVICES[9], false),
        (&SERVICES[5], true),
    ] {
        let dataplane = dataplane(&options());
        let rate = Rate::new(1, 1, 1);
        let limit = Limit {
            source_flows: if of_vip { Rate::NONE } else { rate },
            vip_flows: if of_vip { rate } else { Rate::NONE },
            source_excess: excess::SECOND_SYN,
            vip_excess: excess::SECOND_SYN,
            ..none()
        };
        set(&dataplane, service, limited::FLOWS, &limit);
        let syn = |port| Client::new(1).to(service, port, SYN);
        assert_eq!(run_at(&dataplane, 0, &syn(3000)), "FORWARDED");
        for port in 3001..3100 {
            assert_eq!(run_at(&dataplane, 1, &syn(port)), "FIRST_SYN", "{port}");
        }
        for port in 3001..3050 {
            let ms = 900 + u64::from(port - 3000);
            assert_eq!(run_at(&dataplane, ms, &syn(port)), "FORWARDED", "{port}");
        }
        // Noted for two epochs at most: later, the one flow per second is admitted, and no other.
        assert_eq!(run_at(&dataplane, 9000, &syn(3051)), "FORWARDED");
        for port in 3052..3100 {
            assert_eq!(run_at(&dataplane, 9000, &syn(port)), "FIRST_SYN", "{port}");
        }
        let counted = counters(&dataplane, service);
        assert_eq!(counted.second_syns, 49);
    }
}

/// The lists of each prefix: those of the test and those of the prefixes around it.
fn lists(entries: &[(&str, u8, u64)]) -> BTreeMap<Prefix, u64> {
    let entries = entries.iter().map(|(address, length, lists)| {
        (
            Prefix::containing(address.parse().unwrap(), *length),
            *lists,
        )
    });
    entries.collect()
}

#[test]
fn exempt_sources_have_no_limit_and_denied_ones_nothing() {
    let mut dataplane = dataplane(&options());
    for service in [&SERVICES[1], &SERVICES[5], &SERVICES[9]] {
        let listed = lists(&[
            ("198.51.100.0", 24, 1),
            ("198.51.100.2", 32, 1 | 2),
            ("198.51.100.3", 32, 1 | 4),
            ("2001:db8:c::", 64, 1),
            ("2001:db8:c::2", 128, 1 | 2),
            ("2001:db8:c::3", 128, 1 | 4),
        ]);
        dataplane.limits.set_lists(&listed, 2).unwrap();
        let limit = Limit {
            source_packets: Rate::new(1, 1, 1),
            vip_packets: Rate::new(1, 2, 1),
            exempt: 4,
            deny: 2,
            ..none()
        };
        set(
            &dataplane,
            service,
            limited::PACKETS | limited::DENY,
            &limit,
        );
        let start = later(service);
        let packet = |client| Client::new(client).to(service, 3000, SYN);
        assert_eq!(
            run_at(&dataplane, start, &packet(2)),
            "DENIED",
            "{service:?}"
        );
        assert_eq!(run_at(&dataplane, start, &packet(1)), "FORWARDED");
        assert_eq!(run_at(&dataplane, start, &packet(1)), "SOURCE_PACKET_LIMIT");
        for _ in 0..5 {
            assert_eq!(run_at(&dataplane, start, &packet(3)), "FORWARDED");
        }
        assert_eq!(run_at(&dataplane, start, &packet(4)), "VIP_PACKET_LIMIT");
        let counted = counters(&dataplane, service);
        // The first packet of the exempt source used up the VIP's limit; of the others, four were over that
        // of the source and all four over that of the VIP.
        assert_eq!((counted.denied, counted.exempted), (1, 8), "{service:?}");
        // Nobody is denied any more.
        dataplane.limits.set_lists(&lists(&[]), 2).unwrap();
        assert_eq!(run_at(&dataplane, start + 5000, &packet(2)), "FORWARDED");
    }
}

#[test]
fn tells_sources_apart_by_prefix_and_block_of_ports() {
    let dataplane = dataplane(&options());
    let service = &SERVICES[1];
    let limit = Limit {
        source_flows: Rate::new(1, 1, 1),
        mask_v4: [u32::from_ne_bytes([255, 255, 255, 0]).into(), 0],
        port_shift: 10,
        ..none()
    };
    set(&dataplane, service, limited::FLOWS, &limit);
    let syn = |client, port| Client::new(client).to(service, port, SYN);
    assert_eq!(run_at(&dataplane, 0, &syn(1, 1024)), "FORWARDED");
    // The same block, and another address of the prefix.
    assert_eq!(run_at(&dataplane, 0, &syn(1, 2047)), "SOURCE_FLOW_LIMIT");
    assert_eq!(run_at(&dataplane, 0, &syn(2, 1025)), "SOURCE_FLOW_LIMIT");
    assert_eq!(run_at(&dataplane, 0, &syn(1, 2048)), "FORWARDED");
    let recorded = dataplane.limits.limited().unwrap();
    assert_eq!(recorded.len(), 1, "{recorded:?}");
    assert_eq!((recorded[0].0.block, recorded[0].1), (1, 2));
}

/// CPUs draw packets of a VIP ahead; still no more than rate and burst are admitted.
#[test]
fn draws_packets_of_a_vip_in_chunks() {
    let dataplane = dataplane(&options());
    let service = &SERVICES[0];
    let limit = Limit {
        vip_packets: Rate::new(10_000, 1024, 16),
        chunk: 16,
        ..none()
    };
    set(&dataplane, service, limited::PACKETS, &limit);
    let frame = Client::new(1).to(service, 3000, ACK);
    let mut admitted = 0;
    for ms in 0..500 {
        for _ in 0..20 {
            admitted += u32::from(run_at(&dataplane, ms, &frame) == "FORWARDED");
        }
    }
    assert!((5900..=6024).contains(&admitted), "{admitted}");
}

/// CPUs draw from one limit: together they admit rate and burst, and hardly a packet more or less.
#[test]
fn cpus_share_a_limit() {
    const RUN: Duration = Duration::from_millis(600);
    const CPUS: u64 = 2;
    // A tenth of a second, for which a busy machine may stop both threads.
    let (rate, burst) = (20_000_u32, 2000_u32);
    for of_vip in [false, true] {
        let dataplane = dataplane(&options());
        let service = &SERVICES[0];
        let limit = Limit {
            source_flows: if of_vip {
                Rate::NONE
            } else {
                Rate::new(rate, burst, 1)
            },
            vip_flows: if of_vip {
                Rate::new(rate, burst, 1)
            } else {
                Rate::NONE
            },
            ..none()
        };
        set(&dataplane, service, limited::FLOWS, &limit);
        let frame = Client::new(1).to(service, 3000, SYN).bytes();
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..CPUS {
                scope.spawn(|| {
                    while start.elapsed() < RUN {
                        dataplane.run(&frame).unwrap();
                    }
                });
            }
        });
        let seconds = start.elapsed().as_secs_f64();
        let reasons = dataplane.counters.node().unwrap().reasons;
        let admitted = reasons[Reason::Forwarded as usize] as f64;
        let counted = counters(&dataplane, service);
        let over = counted.source_flows + counted.vip_flows;
        println!("{admitted} admitted in {seconds:.3} s, {over} over the limit");
        assert!(over > 1000, "{over}: too few packets to show anything");
        let most = f64::from(rate).mul_add(seconds, f64::from(burst));
        // Each CPU may admit one with another that uses up the burst.
        assert!(admitted <= most + CPUS as f64, "{admitted}, at most {most}");
        assert!(admitted > 0.8 * most, "{admitted}, at most {most}");
    }
}
