//! The program and a model in plain Rust select the same member for every packet while rings and members
//! change.

use std::collections::HashMap;

use lab::{
    bytecode::tables::{self, KEY, RING_SIZE, Service, set_state},
    packet::{ACK, FIN, Frame, PSH, RST, SYN},
    random::Random,
};
use lb_common::{
    family, hash,
    member::control,
    ring::{MemberIndex, NO_MEMBER},
    trace::decision,
    track::{Cell, FREE, Newcomer, Place, WAYS},
    vip::{affinity, forward, track},
};
use lb_dataplane::{Dataplane, LoadOptions};
use lb_model::transition::RingState;

use rand::RngExt as _;

use crate::stage::{Client, dataplane, flow_hash, options};

/// Members of the VIP under test.
const MEMBERS: std::ops::Range<MemberIndex> = 30..36;
const BUCKETS: u32 = 8;
const STEPS: usize = 6_000;

/// TCP flags, common ones more often.
const FLAGS: [u8; 12] = [
    SYN,
    SYN,
    SYN,
    SYN,
    ACK,
    ACK,
    ACK,
    ACK,
    ACK | PSH,
    ACK | FIN,
    ACK | FIN | PSH,
    ACK | RST,
];

/// The model: tables, and the member of a packet.
struct Model {
    service: Service,
    affinity: u8,
    ring: RingState,
    serving: HashMap<MemberIndex, bool>,
    cells: Vec<[u64; WAYS]>,
    now_s: u16,
}

#[derive(Debug, PartialEq, Eq)]
struct Choice {
    member: MemberIndex,
    how: u32,
}

impl Model {
    fn serves(&self, member: MemberIndex) -> bool {
        self.serving.get(&member).copied().unwrap_or(false)
    }

    /// Selects the member as docs/adr/0001-connection-consistency.md specifies.
    fn choose(&mut self, frame: &Frame, flags: u8) -> Choice {
        let opens = flags == SYN;
        let flow = flow_hash(frame);
        let by = if self.affinity == affinity::SOURCE {
            let (source, _) = lb_common::address_of(frame.ip.source());
            hash::flow_hash_v4(&KEY, source[0] as u32, 0)
        } else {
            flow
        };
        let slot = self
            .ring
            .slots()
            .nth(hash::slot_of(by, RING_SIZE) as usize)
            .unwrap();
        let (current, always) = (slot.current, self.service.track == track::ALWAYS);
        if self.service.track == track::NEVER || slot.previous.is_none() && !always {
            let how = decision::RING;
            return Choice {
                member: current,
                how,
            };
        }
        let previous = slot.previous.unwrap_or(current);
        let new = opens || always && self.service.protocol == 17;
        // Every packet of an untracked UDP flow counts as its first.
        let no_start = always && self.service.protocol == 17;
        let settled = no_start || previous == current;
        if let Some(choice) = self.tracked(flow, flags, current, previous, always) {
            return choice;
        }
        let later = if !no_start && self.serves(previous) {
            previous
        } else {
            current
        };
        let (member, how) = if new {
            (current, decision::OPENED)
        } else if self.serves(previous) {
            (previous, decision::PREVIOUS)
        } else {
            (current, decision::TAKEN_OVER)
        };
        let needless = !always && previous == current && how != decision::TAKEN_OVER;
        // There is never an entry without a member.
        if needless || member == NO_MEMBER {
            return Choice { member, how };
        }
        let cell = Cell {
            tag: 0,
            member,
            confirmed: false,
            closed: flags & (FIN | RST) != 0,
            redundant: member == later,
            unproven: false,
            seen_s: self.now_s,
        };
        if self.write(flow, cell, settled) || member == later {
            return Choice { member, how };
        }
        // Without an entry, the next packet would go to another member.
        Choice {
            member: later,
            how: decision::PREVIOUS,
        }
    }

    fn bucket(&mut self, flow: u64) -> (&mut [u64; WAYS], u32) {
        let place = Place::of(flow);
        (
            &mut self.cells[(place.bucket & (BUCKETS - 1)) as usize],
            place.tag,
        )
    }

    fn tracked(
        &mut self,
        flow: u64,
        flags: u8,
        current: MemberIndex,
        previous: MemberIndex,
        always: bool,
    ) -> Option<Choice> {
        let (bucket, tag) = self.bucket(flow);
        let way = bucket
            .iter()
            .position(|&word| word != FREE && Cell::unpack(word).tag == tag)?;
        let mut cell = Cell::unpack(bucket[way]);
        // A SYN after a closed connection starts a new one, which has no member yet.
        let serves = self.serves(cell.member) && !(flags == SYN && cell.closed);
        let no_start = always && self.service.protocol == 17;
        let (bucket, _) = self.bucket(flow);
        // The fast path updates nothing.
        let ways = [0, 1].map(|step| Place::of(flow).way(step));
        let is_unchanged = cell.confirmed && !cell.closed && flags & (SYN | FIN | RST) == 0;
        let is_kept = cell.member != current || always || current != previous;
        if serves && is_unchanged && is_kept && ways.contains(&way) {
            let how = decision::TRACKED;
            let member = cell.member;
            return Some(Choice { member, how });
        }
        if !serves || !always && current == previous && cell.member == current {
            bucket[way] = FREE;
        } else {
            cell.confirmed |= flags != SYN;
            cell.redundant = (no_start || current == previous) && cell.member == current;
            cell.closed = match flags {
                _ if flags & (FIN | RST) != 0 => true,
                _ if flags & PSH != 0 => false,
                _ => cell.closed,
            };
            bucket[way] = cell.pack();
        }
        let how = decision::TRACKED;
        serves.then_some(Choice {
            member: cell.member,
            how,
        })
    }

    /// Stores a cell if there is room.
    fn write(&mut self, flow: u64, cell: Cell, redundant: bool) -> bool {
        let newcomer = Newcomer {
            place: Place::of(flow),
            vip: self.service.index,
            redundant,
            now_s: self.now_s,
        };
        let (bucket, tag) = self.bucket(flow);
        // In these tables, each member belongs to a VIP with its own index.
        let Some(way) = newcomer.way(|way| bucket[way], |member| member) else {
            return false;
        };
        bucket[way] = Cell { tag, ..cell }.pack();
        true
    }

    /// Returns all used cells in order.
    fn table(&self) -> Vec<u64> {
        let mut cells: Vec<u64> = self.cells.concat();
        cells.retain(|&cell| cell != FREE);
        cells
    }
}

fn service(protocol: u8, track: u8) -> Service {
    Service {
        index: 30,
        address: tables::VIP4.into(),
        port: 7000,
        protocol,
        forward: forward::L2,
        backend_v6: false,
        track,
    }
}

/// Returns a random ring over some of the members.
fn ring(rng: &mut Random) -> Vec<MemberIndex> {
    if rng.random_range(0..20) == 0 {
        return vec![NO_MEMBER; RING_SIZE as usize];
    }
    let some: Vec<MemberIndex> = MEMBERS.filter(|_| rng.random_range(0..3) > 0).collect();
    let some = if some.is_empty() { vec![30] } else { some };
    (0..RING_SIZE)
        .map(|_| some[rng.random_range(0..some.len())])
        .collect()
}

fn compare(service: Service, affinity: u8, rng: &mut Random) {
    let options = LoadOptions {
        track_buckets: BUCKETS,
        ..options()
    };
    let mut dataplane = dataplane(&options);
    let egress = dataplane.egress.find(1).unwrap().unwrap();
    for index in MEMBERS {
        let member = Service { index, ..service };
        let port = 7000 + index - MEMBERS.start;
        let member = Service { port, ..member };
        tables::add(&mut dataplane, &member, control::SERVING, egress).unwrap();
    }
    let vip = dataplane.vips.read(30).unwrap();
    dataplane
        .vips
        .write(30, &lb_common::vip::Vip { affinity, ..vip })
        .unwrap();
    let mut model = Model {
        service,
        affinity,
        ring: RingState::new_clean(&ring(rng)),
        serving: MEMBERS.map(|member| (member, true)).collect(),
        cells: vec![[FREE; WAYS]; BUCKETS as usize],
        now_s: dataplane.now_s().unwrap() as u16,
    };
    set_state(&mut dataplane, 30, &model.ring).unwrap();
    for step in 0..STEPS {
        match rng.random_range(0..60) {
            0 => {
                model.ring.change(&ring(rng), step as u32).unwrap();
                set_state(&mut dataplane, 30, &model.ring).unwrap();
            }
            1 => {
                model.ring.settle(step as u32, 30);
                set_state(&mut dataplane, 30, &model.ring).unwrap();
            }
            2 if rng.random_range(0..4) == 0 => {
                model.ring.clean();
                set_state(&mut dataplane, 30, &model.ring).unwrap();
            }
            3 => toggle(rng, &mut model, &dataplane),
            _ => packet(rng, &mut model, &dataplane, step),
        }
        let cells: Vec<u64> = dataplane.tracking.cells().map(Cell::pack).collect();
        assert!(
            cells == model.table(),
            "after step {step} the tracking tables differ\nprogram {:x?}\nmodel {:x?}",
            cells,
            model.table()
        );
    }
}

/// Sets a random member down or up.
fn toggle(rng: &mut Random, model: &mut Model, dataplane: &Dataplane) {
    let member = MEMBERS.start + rng.random_range(0..MEMBERS.len()) as u16;
    let serves = !model.serves(member);
    model.serving.insert(member, serves);
    let state = if serves {
        control::SERVING
    } else {
        control::DOWN
    };
    let word = control::pack(state, family::V4, 1);
    dataplane.members.set_control(member, word).unwrap();
}

fn packet(rng: &mut Random, model: &mut Model, dataplane: &Dataplane, step: usize) {
    let client = Client::new(rng.random_range(0..4));
    let flags = match model.service.protocol {
        6 => FLAGS[rng.random_range(0..FLAGS.len())],
        _ => 0,
    };
    let frame = client.to(&model.service, 1 + rng.random_range(0..60), flags);
    let choice = model.choose(&frame, flags);
    let (run, trace) = dataplane.run_traced(&frame.bytes()).unwrap();
    let how = Choice {
        member: trace.member,
        how: trace.decision,
    };
    assert_eq!(how, choice, "step {step}: {:?}", frame.transport);
    let sent = model.serves(choice.member);
    assert_eq!(
        run.verdict == 3,
        sent,
        "step {step}: member {}",
        choice.member
    );
    if sent {
        assert_eq!(
            run.frame[..6],
            Service {
                index: choice.member,
                ..model.service
            }
            .mac()
        );
    }
}

#[test]
fn program_and_model_select_the_same_member() {
    let mut rng = lab::random::seeded("packets");
    for protocol in [6, 17] {
        for track in [track::NEVER, track::ON_CHANGE, track::ALWAYS] {
            for affinity in [affinity::FLOW, affinity::SOURCE] {
                println!("protocol {protocol}, track {track}, affinity {affinity}");
                compare(service(protocol, track), affinity, &mut rng);
            }
        }
    }
}
