//! Bounded load: where new flows go, and that a spilled flow stays where it went, whatever is forged.

use std::collections::HashMap;

use lab::{
    bytecode::tables::RING_SIZE,
    packet::{ACK, FIN, PSH, SYN},
    random::{Random, seeded},
};
use lb_common::{
    bound::MemberBound,
    limit::Rate,
    ring::MemberIndex,
    track::{Cell, WAYS},
    vip::{affinity, forward, track},
};
use lb_model::transition::RingState;
use rand::RngExt as _;

use crate::stage::Client;
use node::{Connection, Node, SECOND_NS, START_NS, VIP, even, open, service, stay_on, tcp};

mod node;

/// A number that continues no sequence of `isn`, and is not in the window before it either: of those, one
/// in 262,144 would be taken for the start of the connection.
fn foreign(random: &mut Random, isn: u32) -> u32 {
    isn.wrapping_sub(random.random_range(1 << 14..1 << 30))
}

/// A connection whose first SYN was forged before: all packets go to one member.
fn opened_after_a_forged_syn(node: &mut Node, random: &mut Random, source: u8, port: u16) {
    let mut connection = Connection {
        source,
        port,
        isn: random.random(),
        sent: 0,
        member: 0,
    };
    let forged = foreign(random, connection.isn);
    node.send(&connection.segment(node, SYN, forged));
    connection.member = node.send(&connection.syn(node));
    for packet in [connection.syn(node), connection.next(node, ACK)] {
        assert_eq!(node.send(&packet), connection.member, "{connection:?}");
    }
    node.pass(4 * SECOND_NS);
    let packet = connection.next(node, ACK | PSH);
    assert_eq!(node.send(&packet), connection.member, "{connection:?}");
}

/// Every packet of a connection goes to one member, and new connections go where the rules say: while rings
/// change, and while an attacker forges segments without knowing sequence numbers.
#[test]
fn connections_stay_whatever_changes_and_is_forged() {
    let mut random = seeded("connections_stay_whatever_changes_and_is_forged");
    for affinity in [affinity::FLOW, affinity::SOURCE] {
        for (mode, tracked) in [
            (forward::L2, track::ON_SPILL),
            (forward::IPIP, track::ON_SPILL),
            (forward::L2, track::ALWAYS),
        ] {
            // Without one source that fills a slot, only less than its share is too little for a member.
            let factor = if affinity == affinity::SOURCE {
                1.25
            } else {
                0.5
            };
            let mut node = Node::new(service(6, mode, tracked), affinity, 6, factor);
            let mut open_ones: Vec<Connection> = Vec::new();
            let mut next_port = 1000;
            for step in 0..12_000_u32 {
                node.pass(random.random_range(0..SECOND_NS / 100));
                match random.random_range(0..100) {
                    0 => {
                        // A member more or less, and another order.
                        let members = random.random_range(4..=6);
                        let by = random.random_range(1..RING_SIZE);
                        let ring: Vec<_> = (0..RING_SIZE)
                            .map(|slot| even(members)[((slot + by / 64) % RING_SIZE) as usize])
                            .collect();
                        node.ring.change(&ring, step).unwrap();
                        node.load_ring();
                        node.bound(factor);
                    }
                    1 => {
                        // All connections had packets since the change, as the time of a transition assures.
                        node.pass(4 * SECOND_NS);
                        for connection in &open_ones {
                            assert_eq!(node.send(&connection.next(&node, ACK)), connection.member);
                        }
                        node.ring.settle(step, 0);
                        node.load_ring();
                    }
                    2..30 if next_port < 60_000 => {
                        next_port += 1;
                        let source = if random.random() {
                            1
                        } else {
                            random.random_range(2..200)
                        };
                        if random.random_range(0..8) == 0 {
                            // The attacker was faster.
                            opened_after_a_forged_syn(&mut node, &mut random, source, next_port);
                            continue;
                        }
                        let mut connection = open(&node, source, next_port, random.random());
                        // On the way to the handshake's end.
                        for _ in 0..random.random_range(0..3) {
                            let told = format!("step {step}, {connection:?}");
                            match random.random_range(0..3) {
                                0 => {
                                    let member = node.send(&connection.syn(&node));
                                    assert_eq!(member, connection.member, "SYN repeated: {told}");
                                }
                                1 => {
                                    let seq = foreign(&mut random, connection.isn);
                                    node.send(&connection.segment(&node, SYN, seq));
                                }
                                _ => {
                                    let seq = foreign(&mut random, connection.isn);
                                    node.send(&connection.segment(&node, ACK, seq));
                                }
                            }
                        }
                        let told = format!("step {step}, {connection:?}");
                        assert_eq!(
                            node.send(&connection.next(&node, ACK)),
                            connection.member,
                            "{told}"
                        );
                        connection.sent += random.random_range(0..3000);
                        open_ones.push(connection);
                    }
                    30..40 if !open_ones.is_empty() => {
                        let victim = open_ones[random.random_range(0..open_ones.len())];
                        let seq = foreign(&mut random, victim.isn);
                        node.send(&victim.segment(&node, SYN, seq));
                    }
                    40..45 if !open_ones.is_empty() => {
                        let at = random.random_range(0..open_ones.len());
                        let mut ended = open_ones.swap_remove(at);
                        let told = format!("step {step}, {ended:?}");
                        assert_eq!(
                            node.send(&ended.next(&node, ACK | FIN)),
                            ended.member,
                            "{told}"
                        );
                        if random.random() && !node.ring.slots().any(|slot| slot.previous.is_some())
                        {
                            // The client reuses the port.
                            ended.isn = ended.isn.wrapping_add(1 << 31);
                            ended.sent = 0;
                            ended.member = node.send(&ended.syn(&node));
                            let told = format!("step {step}, again {ended:?}");
                            assert_eq!(node.send(&ended.syn(&node)), ended.member, "{told}");
                            assert_eq!(node.send(&ended.next(&node, ACK)), ended.member, "{told}");
                            open_ones.push(ended);
                        }
                    }
                    _ if !open_ones.is_empty() => {
                        let at = random.random_range(0..open_ones.len());
                        let connection = &mut open_ones[at];
                        let packet = connection.next(&node, ACK | PSH);
                        assert_eq!(
                            node.send(&packet),
                            connection.member,
                            "step {step}, {connection:?}"
                        );
                        connection.sent =
                            connection.sent.wrapping_add(random.random_range(0..3000));
                    }
                    _ => {}
                }
            }
            let spilled = node.spilled();
            assert!(
                spilled > 80,
                "{spilled} of {} flows were spilled",
                next_port - 1000
            );
        }
    }
}

/// One source with half of the flows, source affinity, ten members: over all CPUs, and over two nodes, the
/// member that is hit gets little more than its bound.
#[test]
fn holds_the_bound_against_one_source() {
    for (nodes, cpus) in [(1, 1), (1, 2), (2, 1)] {
        let mut random = seeded("holds_the_bound_against_one_source");
        let mut all: Vec<Node> = (0..nodes)
            .map(|_| Node::new(tcp(), affinity::SOURCE, 10, 1.25))
            .collect();
        let cpus = cpus.min(all[0].dataplane.bounds.member_loads(VIP).count());
        let mut went = Vec::new();
        let (flows, per_s) = (20_000, 2_000);
        let mut hit = None;
        let mut first_over = None;
        for flow in 0..flows {
            if flow % 20 == 0 {
                stay_on(flow / 20 % cpus);
            }
            let node = &mut all[random.random_range(0..nodes)];
            node.now_ns = START_NS + flow as u64 * 1_000_000_000 / per_s;
            node.pass(0);
            let source = if random.random() {
                1
            } else {
                random.random_range(2..255)
            };
            let connection = Connection {
                source,
                port: (flow % 50_000) as u16 + 1000,
                isn: random.random(),
                sent: 0,
                member: 0,
            };
            let syn = connection.syn(node);
            let own = node.ring.members()[node.slot_of(&syn) as usize];
            if source == 1 {
                hit = Some(own);
            }
            let member = node.send(&syn);
            went.push(member);
            if member != own {
                first_over.get_or_insert(flow);
            }
            assert_eq!(node.send(&connection.next(node, ACK)), member);
        }
        let hit = hit.unwrap();
        let counts = count(&went);
        let ratio = f64::from(counts[&hit]) / (f64::from(flows as u32) / 10.0);
        println!(
            "{nodes} nodes, {cpus} CPUs: {ratio:.3} of its share, first spill: flow {first_over:?}"
        );
        assert!(ratio <= 1.3, "{ratio}: {counts:?}");
        let least = counts.values().min().unwrap();
        assert!(*least > 1_000, "the others take what is left: {counts:?}");
        // In every window of seconds, all CPUs and nodes together.
        for begin in 0..10 {
            for end in begin + 1..=10 {
                let window = &went[begin * per_s as usize..end * per_s as usize];
                let most = 1.25 * window.len() as f64 / 10.0;
                let there = f64::from(count(window)[&hit]);
                // A CPU may owe a flow from before, and tolerates a few in the first second.
                let owed = if begin == 0 { 40.0 } else { 10.0 };
                assert!(
                    there <= most + owed,
                    "seconds {begin} to {end}: {there} of {most}"
                );
            }
        }
    }
}

fn count(went: &[MemberIndex]) -> HashMap<MemberIndex, u32> {
    let mut counts = HashMap::new();
    for member in went {
        *counts.entry(*member).or_default() += 1;
    }
    counts
}

/// Even traffic hardly spills.
#[test]
fn even_traffic_hardly_spills() {
    for (members, per_s) in [(3, 20), (10, 200), (10, 2_000), (100, 2_000)] {
        let mut random = seeded("even_traffic_hardly_spills");
        let mut node = Node::new(tcp(), affinity::FLOW, members, 1.25);
        let flows = 20_000;
        for flow in 0..flows {
            node.pass(random.random_range(0..2 * 1_000_000_000 / per_s));
            let connection = Connection {
                source: random.random_range(1..255),
                port: random.random_range(1000..60_000),
                isn: flow,
                sent: 0,
                member: 0,
            };
            node.send(&connection.syn(&node));
        }
        let share = node.spilled() as f64 / f64::from(flows);
        println!(
            "{members} members, {per_s}/s: {:.4} % spilled",
            100.0 * share
        );
        assert!(share <= 0.002, "{members} members, {per_s}/s: {share}");
    }
}

/// No member gets more new flows than its capacity, and when all are at theirs, nothing is dropped.
#[test]
fn keeps_to_the_capacity() {
    for service in [
        tcp(),
        service(6, forward::NAT, track::ALWAYS),
        service(17, forward::IPIP, track::ALWAYS),
    ] {
        let mut node = Node::new(service, affinity::SOURCE, 4, 10.0);
        let (per_s, burst) = (1_000_u32, 10_u32);
        for member in VIP..VIP + 4 {
            let bound = MemberBound {
                capacity: Rate::new(per_s, burst, 1),
                ..MemberBound::NONE
            };
            node.dataplane.bounds.write(member, &bound).unwrap();
        }
        let begun = node.now_ns;
        let mut counts = HashMap::<MemberIndex, u32>::new();
        let mut send = |node: &Node, number: u16| {
            let frame = Client::new(1).to(
                &service,
                number,
                if service.protocol == 6 { SYN } else { 0 },
            );
            *counts.entry(node.send(&frame)).or_default() += 1;
        };
        // One source with twice the capacity of its member.
        for number in 0..400 {
            node.pass(500_000);
            send(&node, 1000 + number);
        }
        let elapsed_s = (node.now_ns - begun) as f64 / 1e9;
        let most = f64::from(per_s) * elapsed_s + f64::from(burst);
        assert!(
            counts.values().all(|&count| f64::from(count) <= most + 1.0),
            "{service:?}: {counts:?}"
        );
        assert!(counts.len() > 1, "{service:?}: {counts:?}");
        assert_eq!(node.dataplane.bounds.overfull(VIP).all_full, 0);
        // More than all can take.
        for number in 400..600 {
            let frame = Client::new(1).to(
                &service,
                1000 + number,
                if service.protocol == 6 { SYN } else { 0 },
            );
            node.send(&frame);
        }
        assert!(
            node.dataplane.bounds.overfull(VIP).all_full > 0,
            "{service:?}"
        );
    }
}

/// A wrong change gives one member nearly all slots: what is over its capacity goes to the others, although
/// that is many times their shares, and no further than their capacity.
#[test]
fn a_capacity_counts_more_than_wrong_shares() {
    for members in [4_u16, 10, 30] {
        let mut node = Node::with_table(tcp(), affinity::FLOW, members, 1.25, 1 << 14);
        let mut ring = vec![VIP; RING_SIZE as usize];
        for member in 1..members {
            ring[usize::from(member * 8)] = VIP + member;
        }
        node.ring = RingState::new_clean(&ring);
        node.load_ring();
        node.bound(1.25);
        let (per_s, burst) = (1_000_u32, 10_u32);
        for member in VIP..VIP + members {
            let bound = node.dataplane.bounds.read(member).unwrap();
            let capacity = Rate::new(per_s, burst, 1);
            let bound = MemberBound { capacity, ..bound };
            node.dataplane.bounds.write(member, &bound).unwrap();
        }
        // 85 % of what all together can take.
        let gap_ns = 1_000_000_000 / (u64::from(members) * u64::from(per_s) * 85 / 100);
        let begun = node.now_ns;
        let mut went = Vec::new();
        for number in 0..u32::from(members) * 400 {
            node.pass(gap_ns);
            let source = (number % 200) as u8;
            let connection = open(&node, source, (1000 + number / 200) as u16, number);
            node.send(&connection.next(&node, ACK));
            went.push(connection.member);
        }
        let elapsed_s = (node.now_ns - begun) as f64 / 1e9;
        let most = f64::from(per_s) * elapsed_s + f64::from(burst) + 1.0;
        let counts = count(&went);
        println!("{members} members: {counts:?}, at most {most:.0}");
        assert_eq!(counts.len(), usize::from(members));
        let is_kept = |count: &u32| f64::from(*count) <= most;
        assert!(
            counts.values().all(is_kept),
            "{members} members: {counts:?}, at most {most:.0}"
        );
    }
}

/// All packets of a spilled flow of UDP or `nat` go to one member.
#[test]
fn flows_of_udp_and_nat_stay_too() {
    for service in [
        service(17, forward::L2, track::ALWAYS),
        service(17, forward::IPIP, track::ALWAYS),
        service(17, forward::NAT, track::ALWAYS),
        service(6, forward::NAT, track::ALWAYS),
    ] {
        let mut node = Node::new(service, affinity::SOURCE, 5, 1.25);
        let flags = |flags| if service.protocol == 6 { flags } else { 0 };
        let mut flows = Vec::new();
        for port in 1000..1120 {
            node.pass(1_000_000);
            let frame = Client::new(1).to(&service, port, flags(SYN));
            let expected = node.expected(&frame);
            let member = node.send(&frame);
            assert_eq!(member, expected, "{service:?} {port}");
            flows.push((port, member));
        }
        for (port, member) in flows {
            let frame = Client::new(1).to(&service, port, flags(SYN));
            assert_eq!(node.send(&frame), member, "{service:?} {port}");
        }
        assert!(node.spilled() > 40, "{service:?}");
        let members = VIP..VIP + 5;
        let of = |member| node.dataplane.counters.member(member).unwrap().new_flows;
        let new_flows: u64 = members.map(of).sum();
        // A repeated SYN counts again.
        let sent = if service.protocol == 6 {
            120..=240
        } else {
            120..=120
        };
        assert!(sent.contains(&new_flows), "{service:?}: {new_flows}");
    }
}

/// Without room in the tracking table nothing is spilled, and no flow loses its cell.
#[test]
fn a_full_table_spills_nothing() {
    let mut node = Node::with_table(tcp(), affinity::SOURCE, 5, 1.25, 1);
    let mut connections = Vec::new();
    for port in 1000..1300 {
        node.pass(1_000_000);
        let connection = Connection {
            source: 1,
            port,
            isn: u32::from(port),
            sent: 0,
            member: 0,
        };
        let member = node.send(&connection.syn(&node));
        assert_eq!(node.send(&connection.next(&node, ACK)), member);
        connections.push(Connection {
            member,
            ..connection
        });
    }
    assert_eq!(node.spilled(), WAYS as u64);
    assert!(node.dataplane.bounds.overfull(VIP).no_room > 100);
    for connection in &connections {
        assert_eq!(
            node.send(&connection.next(&node, ACK)),
            connection.member,
            "{connection:?}"
        );
    }
    let cells: Vec<Cell> = node.dataplane.tracking.cells().collect();
    assert!(
        cells.iter().all(|cell| cell.confirmed && !cell.unproven),
        "{cells:?}"
    );
}

/// While nothing is spilled, no packet of a bounded VIP is looked up or recorded.
#[test]
fn costs_no_entries_without_spills() {
    let mut node = Node::new(tcp(), affinity::FLOW, 3, 2.0);
    for port in 1000..3000 {
        node.pass(SECOND_NS / 100);
        let connection = open(&node, 1, port, 7);
        node.send(&connection.next(&node, ACK));
    }
    assert_eq!(node.dataplane.tracking.count(), 0);
    let counters = node.dataplane.counters.vip(VIP).unwrap();
    assert_eq!((counters.track_hits, counters.track_misses), (0, 0));
}

/// Packets of a member's slots are looked up until its spilled flows have lost their cells.
#[test]
fn a_member_forgets_its_spilled_flows() {
    let mut node = Node::new(tcp(), affinity::SOURCE, 5, 1.25);
    for port in 1000..1100 {
        node.pass(1_000_000);
        open(&node, 1, port, 7);
    }
    let bounds = &node.dataplane.bounds;
    let spilled = |member: &u16| bounds.spills(*member).spilled > 0;
    let spillers: Vec<_> = (VIP..VIP + 5).filter(spilled).collect();
    assert!(!spillers.is_empty());
    let still = |member: &u16| bounds.has_spilled(*member).unwrap();
    let now_s = node.dataplane.now_s().unwrap();
    assert_eq!(bounds.forget_spilled(now_s + 60, 60), 0);
    assert!(spillers.iter().all(still));
    assert_eq!(bounds.forget_spilled(now_s + 63, 60), spillers.len());
    assert!(!spillers.iter().any(still));
}
