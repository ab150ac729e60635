//! VIPs of all kinds, members and rings, with random changes and random packets.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::Command,
};

use lab::{
    bytecode::tables::{self, ANY4, NAT4, NAT6, OUTER4, OUTER6, RING_SIZE, VIP4, VIP6},
    packet::{ACK, FIN, PSH, RST, SYN},
    random::Random,
};
use lb_common::{
    address_of,
    checksum::fold,
    family,
    hash::HashKey,
    limit::{Limit, Rate, excess},
    member::{Member, NextHop, control},
    nat::NatSource,
    ring::{MemberIndex, NO_MEMBER},
    vip::{Vip, VipKey, affinity, forward, limited, target, track},
};
use lb_dataplane::{Dataplane, explain::Flow};
use lb_model::{
    config::{Prefix, Protocol},
    transition::RingState,
};
use rand::RngExt as _;

use crate::stage::{dataplane, options};

/// The first VIP of this test; those before are of `tables::fill`.
const FIRST_VIP: u16 = 40;
/// Members per VIP, and the index of the first.
const MEMBERS: u16 = 5;
const FIRST_MEMBER: u16 = 100;
/// Ports of the NAT sources with few ports.
const FEW_PORTS: u16 = 6;
/// Lists of prefixes.
const EXEMPT: u64 = 1 << 5;
const DENIED: u64 = 1 << 63;
/// Source and destination of a reply of `nat`.
pub(super) type Reply = (Protocol, SocketAddr, SocketAddr);

/// A VIP under test.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    index: u16,
    address: IpAddr,
    port: u16,
    protocol: Protocol,
    forward: u8,
    affinity: u8,
    track: u8,
    backend_v6: bool,
}

/// Returns a VIP for each combination of settings.
fn kinds() -> Vec<Kind> {
    let mut kinds: Vec<Kind> = Vec::new();
    let ways = [
        (forward::L2, false),
        (forward::IPIP, false),
        (forward::IPIP, true),
        (forward::NAT, false),
    ];
    for (forward, crossed) in ways {
        for vip in [IpAddr::V4(VIP4), IpAddr::V6(VIP6)] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for affinity in [affinity::FLOW, affinity::SOURCE] {
                    for track in [track::NEVER, track::ON_CHANGE, track::ALWAYS] {
                        if forward == forward::NAT && track != track::ALWAYS {
                            continue;
                        }
                        let number = kinds.len() as u16;
                        kinds.push(Kind {
                            index: FIRST_VIP + number,
                            address: vip,
                            port: 7000 + number,
                            protocol,
                            forward,
                            affinity,
                            track,
                            backend_v6: vip.is_ipv6() != crossed,
                        });
                    }
                }
            }
        }
    }
    let any = Kind {
        index: FIRST_VIP + kinds.len() as u16,
        address: IpAddr::V4(ANY4),
        port: 0,
        protocol: Protocol::Udp,
        ..kinds[1]
    };
    kinds.push(any);
    kinds
}

impl Kind {
    fn members(&self) -> impl Iterator<Item = MemberIndex> + use<> {
        let first = FIRST_MEMBER + (self.index - FIRST_VIP) * MEMBERS;
        first..first + MEMBERS
    }

    fn backend(&self, member: MemberIndex) -> IpAddr {
        let [high, low] = member.to_be_bytes();
        if self.backend_v6 {
            Ipv6Addr::new(0xfd00, 0, 0, 2, 0, 0, 0, member).into()
        } else {
            Ipv4Addr::new(10, 2, high, low).into()
        }
    }

    fn entry(&self, member: MemberIndex, egress: u16) -> Member {
        let (backend, family) = address_of(self.backend(member));
        let v6 = family == family::V6;
        let few = member.is_multiple_of(3);
        let (source, nat_source) = match (self.forward, v6) {
            (forward::NAT, _) => (self.address, u16::from(v6) + if few { 2 } else { 0 }),
            (_, false) => (OUTER4.into(), 0),
            (_, true) => (OUTER6.into(), 0),
        };
        let source = address_of(source).0;
        let words = u64::from(source[0] as u32) + u64::from(backend[0] as u32) + 0x40;
        let [high, low] = member.to_be_bytes();
        Member {
            control: control::pack(control::SERVING, family, 1),
            next_hop: NextHop {
                mac: [2, 0, 0, 2, high, low],
                egress,
            }
            .pack(),
            source,
            address: backend,
            vary_mask: if v6 { u32::MAX } else { 0xffff_0000 },
            outer_sum: if v6 { 0 } else { fold(words).into() },
            // Some use the port of the VIP.
            port_be: if self.forward == forward::NAT && member.is_multiple_of(2) {
                8080_u16.to_be()
            } else {
                0
            },
            vip: self.index,
            nat_source,
            _pad: 0,
        }
    }

    fn vip(&self, hash_key: HashKey) -> Vip {
        Vip {
            ring: 0,
            hash_key,
            forward: self.forward,
            affinity: self.affinity,
            track: self.track,
            family: address_of(self.address).1,
            port_be: self.port.to_be(),
            protocol: self.protocol.number(),
            _pad: [0; 9],
            sample_mask: 0,
        }
    }
}

/// Returns a random ring over some of the members.
fn ring(rng: &mut Random, kind: &Kind) -> Vec<MemberIndex> {
    if rng.random_range(0..15) == 0 {
        return vec![NO_MEMBER; RING_SIZE as usize];
    }
    let some: Vec<MemberIndex> = kind
        .members()
        .filter(|_| rng.random_range(0..3) > 0)
        .collect();
    let some = if some.is_empty() {
        kind.members().collect()
    } else {
        some
    };
    (0..RING_SIZE)
        .map(|_| some[rng.random_range(0..some.len())])
        .collect()
}

/// The tables, and what is needed to change them.
pub(super) struct World {
    pub(super) dataplane: Dataplane,
    kinds: Vec<Kind>,
    rings: Vec<RingState>,
    /// Time for rate limits.
    now_ns: u64,
    /// Egress entries of the ingress interface, of another one, and of a deleted one.
    egress: [u16; 3],
}

impl World {
    pub(super) fn new(rng: &mut Random, hash_key: HashKey) -> Self {
        let mut dataplane = dataplane(&options());
        let here = dataplane.egress.find(1).unwrap().unwrap();
        let elsewhere = nix::net::if_::if_nametoindex(crate::stage::PORT).unwrap();
        let elsewhere = dataplane.egress.find(elsewhere).unwrap().unwrap();
        ip("link add ek2 type veth peer name ek3");
        let gone = nix::net::if_::if_nametoindex("ek2").unwrap();
        let gone = dataplane.egress.assign(gone, 1500, [2; 6]).unwrap();
        ip("link del ek2");
        for (index, source) in [(2, IpAddr::V4(NAT4)), (3, IpAddr::V6(NAT6))] {
            let source = NatSource {
                address: address_of(source).0,
                first_port: 61_000,
                ports: FEW_PORTS,
                draws: FEW_PORTS.into(),
            };
            dataplane.nat_sources.write(index, &source).unwrap();
        }
        let prefix = |text: &str, bits| Prefix::containing(text.parse().unwrap(), bits);
        let lists = [
            (prefix("198.51.100.0", 24), 0),
            (prefix("198.51.100.1", 32), EXEMPT),
            (prefix("198.51.100.2", 31), DENIED),
            (prefix("198.51.100.3", 32), DENIED | EXEMPT),
            (prefix("2001:db8:c::1", 128), EXEMPT),
            (prefix("2001:db8:c::2", 128), DENIED),
        ];
        let lists = lists.into_iter().collect();
        dataplane.limits.set_lists(&lists, DENIED).unwrap();
        let kinds = kinds();
        let mut world = Self {
            rings: Vec::new(),
            now_ns: 1 << 50,
            egress: [here, elsewhere, gone],
            dataplane,
            kinds,
        };
        for kind in world.kinds.clone() {
            world.add(rng, &kind, hash_key);
        }
        world
    }

    fn add(&mut self, rng: &mut Random, kind: &Kind, hash_key: HashKey) {
        for member in kind.members() {
            // Most are on the ingress interface.
            let egress = self.egress[[0, 0, 0, 0, 0, 1, 1, 2][rng.random_range(0..8)]];
            let entry = kind.entry(member, egress);
            self.dataplane.members.write(member, &entry).unwrap();
        }
        let vip = kind.vip(hash_key);
        self.dataplane.vips.write(kind.index, &vip).unwrap();
        let (address, family) = address_of(kind.address);
        let key = VipKey::new(&address, family, kind.protocol.number(), kind.port.to_be());
        let meaning = target::pack(target::VIP, kind.index);
        self.dataplane.add_service(&key, meaning).unwrap();
        let (key, protocol) = (VipKey::new(&address, family, 0, 0), kind.protocol.number());
        tables::add_address(&mut self.dataplane, &key, protocol).unwrap();
        self.rings.push(RingState::new_clean(&ring(rng, kind)));
        self.swap(self.rings.len() - 1);
    }

    fn swap(&mut self, number: usize) {
        let vip = self.kinds[number].index;
        tables::set_state(&mut self.dataplane, vip, &self.rings[number]).unwrap();
    }

    /// Makes a random change.
    pub(super) fn change(&mut self, rng: &mut Random, step: usize) {
        let number = rng.random_range(0..self.kinds.len());
        let kind = self.kinds[number];
        let member = kind
            .members()
            .nth(rng.random_range(0..usize::from(MEMBERS)))
            .unwrap();
        match rng.random_range(0..12) {
            10 | 11 => self.limit(rng, &kind),
            0..4 => {
                let next = ring(rng, &kind);
                self.rings[number].change(&next, step as u32).unwrap();
                self.swap(number);
            }
            4 => {
                self.rings[number].settle(step as u32, 100);
                self.swap(number);
            }
            5 => {
                self.rings[number].clean();
                self.swap(number);
            }
            6 | 7 => {
                let entry = self.dataplane.members.read(member).unwrap();
                let state = match control::state(entry.control) {
                    control::SERVING => control::DOWN,
                    _ => control::SERVING,
                };
                let generation = control::generation(entry.control);
                let word = control::pack(state, control::family(entry.control), generation);
                self.dataplane.members.set_control(member, word).unwrap();
            }
            8 => {
                // The index is reused by another member.
                let entry = self.dataplane.members.read(member).unwrap();
                let generation = control::generation(entry.control) + 1;
                let family = control::family(entry.control);
                let word = control::pack(control::SERVING, family, generation);
                self.dataplane.members.set_control(member, word).unwrap();
            }
            _ => {
                let (mac, egress) = ([2; 6], self.egress[rng.random_range(0..2)]);
                let hop = (rng.random_range(0..3) > 0).then_some(NextHop { mac, egress });
                self.dataplane.members.set_next_hop(member, hop).unwrap();
            }
        }
    }

    /// Gives a VIP random limits, or none.
    fn limit(&self, rng: &mut Random, kind: &Kind) {
        let mut rate = || match rng.random_range(0..2) {
            0 => Rate::NONE,
            _ => Rate::new(rng.random_range(1..20), rng.random_range(1..5), 1),
        };
        let limit = Limit {
            source_flows: rate(),
            source_packets: rate(),
            vip_flows: rate(),
            vip_packets: rate(),
            mask_v4: [u64::MAX; 2],
            mask_v6: [u64::MAX; 2],
            exempt: rng.random_range(0..2) * EXEMPT,
            deny: DENIED,
            port_shift: [16, 3][rng.random_range(0..2)],
            source_excess: [excess::DROP, excess::COUNT][rng.random_range(0..2)],
            vip_excess: [excess::DROP, excess::COUNT][rng.random_range(0..2)],
            chunk: 1,
            ..bytemuck::Zeroable::zeroed()
        };
        self.dataplane.limits.write(kind.index, &limit).unwrap();
        let mut vip = self.dataplane.vips.read(kind.index).unwrap();
        let some = [
            0,
            limited::FLOWS,
            limited::PACKETS,
            limited::DENY,
            limited::ALL & !limited::BOUND,
        ];
        vip.forward = vip.mode() | some[rng.random_range(0..some.len())];
        self.dataplane.vips.write(kind.index, &vip).unwrap();
    }

    /// Time goes by.
    pub(super) fn tick(&mut self, rng: &mut Random) {
        self.now_ns += rng.random_range(0..3_000_000);
        self.dataplane.set_clock(self.now_ns).unwrap();
    }

    /// Returns a packet of one of few flows, or a reply.
    pub(super) fn packet(&self, rng: &mut Random, replies: &[Reply]) -> (Flow, u8) {
        let flags = [SYN, SYN, ACK, ACK, ACK | PSH, FIN | ACK, RST][rng.random_range(0..7)];
        if !replies.is_empty() && rng.random_range(0..6) == 0 {
            let (protocol, source, dest) = replies[rng.random_range(0..replies.len())];
            let flow = Flow {
                protocol,
                source,
                dest,
            };
            return (flow, [ACK, ACK, ACK, RST][rng.random_range(0..4)]);
        }
        let kind = self.kinds[rng.random_range(0..self.kinds.len())];
        let port = match (kind.port, rng.random_range(0..40)) {
            (_, 0) => 9,
            (0, _) => 1 + rng.random_range(0..3),
            (port, _) => port,
        };
        let address = match rng.random_range(0..60) {
            0 if kind.address.is_ipv4() => Ipv4Addr::new(192, 0, 2, 1).into(),
            1 if kind.address.is_ipv4() => NAT4.into(),
            _ => kind.address,
        };
        let protocol = match (kind.protocol, rng.random_range(0..40)) {
            (Protocol::Tcp, 0) => Protocol::Udp,
            (Protocol::Udp, 0) => Protocol::Tcp,
            (protocol, _) => protocol,
        };
        let client = 1 + rng.random_range(0..3);
        let client: IpAddr = match address {
            IpAddr::V4(_) => Ipv4Addr::new(198, 51, 100, client as u8).into(),
            IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, client).into(),
        };
        // A few have an invalid source, or the VIP itself.
        let client = match (rng.random_range(0..100), address) {
            (0, _) => address,
            (1, IpAddr::V4(_)) => Ipv4Addr::BROADCAST.into(),
            (1, IpAddr::V6(_)) => Ipv6Addr::LOCALHOST.into(),
            _ => client,
        };
        let source = SocketAddr::new(client, 40_000 + rng.random_range(0..12));
        let dest = SocketAddr::new(address, port);
        let flow = Flow {
            protocol,
            source,
            dest,
        };
        (flow, flags)
    }
}

fn ip(command: &str) {
    let done = Command::new("ip").args(command.split(' ')).status();
    assert!(done.unwrap().success(), "ip {command}");
}
