//! A VIP with bounded load, its connections, and where the rules say that they go.

use std::{collections::HashMap, net::SocketAddr};

use lab::{
    bytecode::tables::{self, KEY, RING_SIZE, Service, set_state},
    packet::{Frame, Ip, SYN, Transport},
};
use lb_common::{
    bound::{
        BY_MEMBER, BY_SLOT, Candidates, MemberBound, ONE_FLOW, WHOLE_SHARE, jump, places_of, second,
    },
    hash,
    limit::{Rate, units},
    member::control,
    ring::{MemberIndex, NO_MEMBER},
    track::Place,
    vip::{Vip, affinity, forward, limited, track},
};
use lb_dataplane::{Dataplane, LoadOptions, Spills, explain};
use lb_model::{config::Protocol, transition::RingState};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::explained::sources;
use crate::stage::{Client, dataplane, flow_hash, options};

/// The VIP, and its first member.
pub(super) const VIP: u16 = 30;
pub(super) const SECOND_NS: u64 = 1 << 30;
/// A second, so that no time is before the first one.
pub(super) const START_NS: u64 = 1 << 50;

/// A VIP with bounded load, of which each test runs packets on one CPU: the counts are each CPU's own.
pub(super) struct Node {
    pub(super) dataplane: Dataplane,
    pub(super) service: Service,
    pub(super) affinity: u8,
    pub(super) members: u16,
    pub(super) ring: RingState,
    pub(super) now_ns: u64,
}

pub(super) fn service(protocol: u8, mode: u8, track: u8) -> Service {
    Service {
        index: VIP,
        address: tables::VIP4.into(),
        port: 7000,
        protocol,
        forward: mode,
        backend_v6: false,
        track,
    }
}

/// TCP with `l2`.
pub(super) fn tcp() -> Service {
    service(6, forward::L2, track::ON_SPILL)
}

/// Runs this thread on one CPU.
pub(super) fn stay_on(cpu: usize) {
    let mut only = CpuSet::new();
    only.set(cpu).unwrap();
    // Elsewhere, this may not be permitted: then it is another one, but the same for all packets.
    let _ = sched_setaffinity(Pid::from_raw(0), &only);
}

pub(super) fn current_cpu() -> usize {
    nix::sched::sched_getcpu().unwrap()
}

/// A ring in which each of some members has as many slots, in no order that a jump would follow.
pub(super) fn even(members: u16) -> Vec<MemberIndex> {
    let mut slots: Vec<u32> = (0..RING_SIZE).collect();
    slots.sort_by_key(|slot| hash::hash_word(&KEY, (*slot).into()));
    let mut ring = vec![VIP; RING_SIZE as usize];
    for (turn, slot) in (0..).zip(slots) {
        ring[slot as usize] = VIP + turn % members;
    }
    ring
}

pub(super) fn shares(ring: &RingState) -> HashMap<MemberIndex, f64> {
    let slots = ring.slots_per_member().into_iter();
    slots
        .map(|(member, slots)| (member, f64::from(slots) / f64::from(RING_SIZE)))
        .collect()
}

impl Node {
    pub(super) fn new(service: Service, affinity: u8, members: u16, factor: f64) -> Self {
        Self::with_table(service, affinity, members, factor, options().track_buckets)
    }

    pub(super) fn with_table(
        service: Service,
        affinity: u8,
        members: u16,
        factor: f64,
        buckets: u32,
    ) -> Self {
        stay_on(current_cpu());
        let mut dataplane = dataplane(&LoadOptions {
            track_buckets: buckets,
            ..options()
        });
        let egress = dataplane.egress.find(1).unwrap().unwrap();
        for index in VIP..VIP + members {
            let member = Service {
                index,
                port: service.port + index - VIP,
                ..service
            };
            tables::add(&mut dataplane, &member, control::SERVING, egress).unwrap();
            let entry = dataplane.members.read(index).unwrap();
            let of_vip = lb_common::member::Member { vip: VIP, ..entry };
            dataplane.members.write(index, &of_vip).unwrap();
        }
        let vip = dataplane.vips.read(VIP).unwrap();
        let bounded = Vip {
            affinity,
            forward: vip.forward | limited::BOUND,
            ..vip
        };
        dataplane.vips.write(VIP, &bounded).unwrap();
        let mut node = Self {
            dataplane,
            service,
            affinity,
            members,
            ring: RingState::new_clean(&even(members)),
            now_ns: START_NS,
        };
        node.load_ring();
        node.bound(factor);
        node.pass(0);
        node
    }

    pub(super) fn load_ring(&mut self) {
        set_state(&mut self.dataplane, VIP, &self.ring).unwrap();
    }

    /// Bounds the members by their shares of the ring.
    pub(super) fn bound(&self, factor: f64) {
        let shares = shares(&self.ring);
        for member in VIP..VIP + self.members {
            let share = shares.get(&member).copied().unwrap_or(0.0);
            let bound = MemberBound {
                most: ((share * factor).min(1.0) * WHOLE_SHARE as f64) as u64,
                share: (share * WHOLE_SHARE as f64) as u64,
                capacity: Rate::NONE,
            };
            self.dataplane.bounds.write(member, &bound).unwrap();
        }
        let members: Vec<_> = (VIP..VIP + self.members)
            .filter(|member| shares.contains_key(member))
            .collect();
        let candidates = Candidates::of(&members);
        self.dataplane
            .bounds
            .set_candidates(VIP, &candidates)
            .unwrap();
    }

    pub(super) fn pass(&mut self, ns: u64) {
        self.now_ns += ns;
        self.dataplane.set_clock(self.now_ns).unwrap();
    }

    /// Runs a packet; returns its member. All are sent.
    pub(super) fn send(&self, frame: &Frame) -> MemberIndex {
        let (run, trace) = self.dataplane.run_traced(&frame.bytes()).unwrap();
        let reason = lb_common::reason::REASONS[trace.reason as usize].name;
        assert_eq!(run.verdict, 3, "{reason}: {frame:?}");
        trace.member
    }

    pub(super) fn spills(&self, member: MemberIndex) -> Spills {
        self.dataplane.bounds.spills(member)
    }

    pub(super) fn spilled(&self) -> u64 {
        let members = VIP..VIP + self.members;
        members.map(|member| self.spills(member).spilled).sum()
    }

    /// Whether a member has more than its factor allows, by what this CPU has counted.
    fn is_over_factor(&self, member: MemberIndex) -> bool {
        let bounds = &self.dataplane.bounds;
        let bound = bounds.read(member).unwrap();
        let now = second(self.now_ns);
        let loads: Vec<_> = bounds.member_loads(member).collect();
        let count = loads.iter().map(|load| load.recent.now(now)).sum();
        let all: u64 = bounds.vip_loads(VIP).map(|load| load.recent.now(now)).sum();
        let spills = loads.iter().any(|load| load.recent.spills(now));
        bound.is_exceeded(count, all + ONE_FLOW, spills)
    }

    /// Whether a member has as many flows as its capacity allows.
    fn is_over_capacity(&self, member: MemberIndex) -> bool {
        let bounds = &self.dataplane.bounds;
        let bound = bounds.read(member).unwrap();
        let cell = bounds.capacity_cell(member).unwrap();
        bound.capacity.is_set()
            && bound.capacity.debt(cell, units(self.now_ns)) > bound.capacity.room
    }

    /// Where a packet of a connection goes, as the operator is told.
    pub(super) fn explained(&self, connection: &Connection, opens: bool) -> MemberIndex {
        let client = Client::new(connection.source).like(self.service.address);
        let flow = explain::Flow {
            protocol: Protocol::Tcp,
            source: SocketAddr::new(client, connection.port),
            dest: SocketAddr::new(self.service.address, self.service.port),
        };
        let walk = explain::walk(&flow, opens, &sources(&self.dataplane)).unwrap();
        walk.member.unwrap()
    }

    pub(super) fn slot_of(&self, frame: &Frame) -> u32 {
        let by = if self.affinity == affinity::SOURCE {
            let (source, _) = lb_common::address_of(frame.ip.source());
            hash::flow_hash_v4(&KEY, source[0] as u32, 0)
        } else {
            flow_hash(frame)
        };
        hash::slot_of(by, RING_SIZE)
    }

    /// Where a new flow goes, by the rules.
    pub(super) fn expected(&self, frame: &Frame) -> MemberIndex {
        let members = self.ring.members();
        let slot = self.slot_of(frame);
        let own = members[slot as usize];
        let place = Place::of(flow_hash(frame));
        let has_note = self.service.protocol == 6 && self.service.forward != forward::NAT;
        if has_note && !self.dataplane.bounds.can_note(place, self.now_ns) {
            // A flow that can't be recorded goes where its next packets will.
            let previous = self.ring.slots().nth(slot as usize).unwrap().previous;
            return previous.unwrap_or(own);
        }
        let over_capacity = self.is_over_capacity(own);
        if !over_capacity && !self.is_over_factor(own) {
            return own;
        }
        let jump = jump(flow_hash(frame), RING_SIZE);
        let by_slot = (1..=BY_SLOT).map(|k| members[((slot + k * jump) % RING_SIZE) as usize]);
        let table = self.dataplane.bounds.candidates(VIP).unwrap();
        let (first, step) = places_of(jump, table.places());
        let by_member = (1..=BY_MEMBER).map(|k| table.member((first + k * step) % table.places()));
        let serving = by_slot.chain(by_member);
        let others = serving.filter(|member| *member != own && *member != NO_MEMBER);
        let able: Vec<_> = others
            .filter(|member| !self.is_over_capacity(*member))
            .collect();
        let mut free = able.iter().filter(|member| !self.is_over_factor(**member));
        let any = free
            .next()
            .or_else(|| able.first().filter(|_| over_capacity));
        any.copied().unwrap_or(own)
    }
}

/// A connection of a client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection {
    pub(super) source: u8,
    pub(super) port: u16,
    pub(super) isn: u32,
    /// Bytes that the client has sent.
    pub(super) sent: u32,
    pub(super) member: MemberIndex,
}

impl Connection {
    pub(super) fn segment(&self, node: &Node, flags: u8, seq: u32) -> Frame {
        let dest = node.service.address;
        let ip = Ip::new(Client::new(self.source).like(dest), dest);
        let transport = Transport::Tcp {
            source: self.port,
            dest: node.service.port,
            flags,
            seq,
            ack: 77,
            options: Vec::new(),
        };
        Frame::new(ip, transport)
    }

    pub(super) fn syn(&self, node: &Node) -> Frame {
        self.segment(node, SYN, self.isn)
    }

    pub(super) fn next(&self, node: &Node, flags: u8) -> Frame {
        let seq = self.isn.wrapping_add(1).wrapping_add(self.sent);
        self.segment(node, flags, seq)
    }
}

/// Opens a connection as the rules say.
pub(super) fn open(node: &Node, source: u8, port: u16, isn: u32) -> Connection {
    let mut connection = Connection {
        source,
        port,
        isn,
        sent: 0,
        member: 0,
    };
    let syn = connection.syn(node);
    let expected = node.expected(&syn);
    assert_eq!(
        node.explained(&connection, true),
        expected,
        "{connection:?}"
    );
    connection.member = node.send(&syn);
    assert_eq!(connection.member, expected, "{connection:?}");
    assert_eq!(
        node.explained(&connection, false),
        expected,
        "{connection:?}"
    );
    connection
}
