//! Swaps under load: packets run on all CPUs while rings and members change thousands of times. Each packet
//! must see one published state, never a mix.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use lab::{
    bpffs::Bpffs,
    bytecode::tables::{self, RING_SIZE, SERVICES, Service, VIP4, set_state},
    packet::{ACK, Frame, Mac, OWN, SYN, check::findings},
};
use lb_common::{
    family,
    hash::slot_of,
    member::{NextHop, control},
    reason::Reason,
    ring::{MAX_RING_SIZE, NO_MEMBER},
    vip::{forward, track},
};
use lb_dataplane::{Dataplane, Pins, RingName};
use lb_model::transition::RingState;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::stage::{Client, PORT_MAC, enter_namespace, flow_hash, options};

const SWAPS: u32 = 3_000;

/// Two data paths over the same maps: one to change them, one to run packets.
fn pair(pins: &Pins) -> (Dataplane, Dataplane) {
    let elsewhere = enter_namespace();
    let (mut first, _) = Dataplane::open(&options(), pins).unwrap();
    tables::fill(&mut first, Some((elsewhere, PORT_MAC))).unwrap();
    let (second, _) = Dataplane::open(&options(), pins).unwrap();
    (first, second)
}

/// Runs packets on every CPU until `change` is done. `judge` returns what is wrong with a result.
fn under_load(
    runner: &Dataplane,
    packet: impl Fn(u64) -> Vec<u8> + Sync,
    judge: impl Fn(u32, &[u8]) -> Result<usize, String> + Sync,
    change: impl FnOnce(),
) {
    let (done, runs) = (AtomicBool::new(false), AtomicU64::new(0));
    let seen: [AtomicU64; 4] = Default::default();
    let cpus = thread::available_parallelism().unwrap().get();
    thread::scope(|scope| {
        for cpu in 0..cpus {
            let (packet, judge, done, runs, seen) = (&packet, &judge, &done, &runs, &seen);
            scope.spawn(move || {
                pin_to(cpu);
                while !done.load(Relaxed) {
                    let run = runner.run(&packet(runs.fetch_add(1, Relaxed))).unwrap();
                    match judge(run.verdict, &run.frame) {
                        Ok(kind) => drop(seen[kind].fetch_add(1, Relaxed)),
                        Err(why) => {
                            done.store(true, Relaxed);
                            panic!("{why}: verdict {}, {:02x?}", run.verdict, run.frame);
                        }
                    }
                }
            });
        }
        change();
        done.store(true, Relaxed);
    });
    println!("{runs:?} packets, outcomes {seen:?}");
    assert!(runs.load(Relaxed) > 1_000, "packets were run meanwhile");
    let kinds = seen.iter().filter(|count| count.load(Relaxed) > 0).count();
    assert!(kinds > 1, "packets saw the changes");
}

/// Pins this thread to a CPU, if this process may use it.
fn pin_to(cpu: usize) {
    let mut only = CpuSet::new();
    only.set(cpu).unwrap();
    let _ = sched_setaffinity(Pid::from_raw(0), &only);
}

fn service(index: u16) -> Service {
    Service {
        index,
        address: VIP4.into(),
        port: 7000 + index,
        protocol: 6,
        forward: forward::IPIP,
        backend_v6: index % 2 == 1,
        track: track::ON_CHANGE,
    }
}

/// Members of the VIP under test. The families of their outer headers differ.
const MARKED: [u16; 3] = [30, 31, 32];

fn marked(dataplane: &mut Dataplane) {
    let here = dataplane.egress.find(1).unwrap().unwrap();
    for index in MARKED {
        tables::add(dataplane, &service(index), control::SERVING, here).unwrap();
    }
}

fn packet(number: u64, flags: u8) -> Frame {
    let client = Client::new((number >> 16) as u8);
    client.to(&service(30), number as u16, flags)
}

/// Returns the member of a frame if link address, outer header and lengths agree.
fn member_of(frame: &[u8]) -> Result<usize, String> {
    let faults = findings(frame).faults;
    if !faults.is_empty() {
        return Err(faults.join(", "));
    }
    let which = MARKED.iter().position(|&index| {
        let service = service(index);
        let (backend, _) = lb_common::address_of(service.backend());
        let ether_type = if service.backend_v6 {
            [0x86, 0xdd]
        } else {
            [8, 0]
        };
        let dest: &[u8] = if service.backend_v6 {
            &frame[38..54]
        } else {
            &frame[30..34]
        };
        frame[..6] == service.mac()
            && frame[12..14] == ether_type
            && bytemuck::bytes_of(&backend).starts_with(dest)
    });
    which.ok_or_else(|| "a mix of members".to_owned())
}

/// Each ring has one member and another size: no packet may see the remainder of another ring.
#[test]
fn never_mixes_two_rings() {
    let folder = tempfile::tempdir().unwrap();
    let bpffs = Bpffs::mount(folder.path()).unwrap();
    let pins = Pins::at(bpffs.path());
    let (mut dataplane, runner) = pair(&pins);
    marked(&mut dataplane);
    dataplane.rings.reserve(16).unwrap();
    under_load(
        &runner,
        |number| packet(number, SYN).bytes(),
        |_, frame| member_of(frame),
        || {
            for swap in 0..SWAPS {
                let member = MARKED[swap as usize % 3];
                let size = [RING_SIZE, 65_537, 1][swap as usize / 3 % 3];
                let ring = RingState::new_clean(&vec![member; size as usize]);
                set_state(&mut dataplane, 30, &ring).unwrap();
            }
        },
    );
    Dataplane::unload(&pins).unwrap();
}

/// A small and a large ring, and one flow, whose member is down in both. In each image, the slot for the
/// other's size has no member. The VIP alternates between them while packets run: a program that read the
/// ring word twice would soon find a slot without a member. A dropped frame is unchanged and can be reused.
#[test]
fn never_mixes_image_and_size_of_two_rings() {
    let folder = tempfile::tempdir().unwrap();
    let bpffs = Bpffs::mount(folder.path()).unwrap();
    let pins = Pins::at(bpffs.path());
    let (mut dataplane, runner) = pair(&pins);
    let here = dataplane.egress.find(1).unwrap().unwrap();
    tables::add(&mut dataplane, &service(30), control::DOWN, here).unwrap();
    let frame = packet(1, ACK);
    let sizes = [RING_SIZE, MAX_RING_SIZE];
    let slots = sizes.map(|size| slot_of(flow_hash(&frame), size));
    assert_ne!(slots[0], slots[1]);
    let rings = [0, 1].map(|which| {
        let mut ring = vec![NO_MEMBER; MAX_RING_SIZE as usize];
        ring[slots[which] as usize] = 30;
        let image = RingState::new_clean(&ring).to_image();
        RingName {
            image: dataplane.rings.stage(&image).unwrap(),
            size: sizes[which],
        }
    });
    dataplane.vips.swap_ring(30, Some(rings[0])).unwrap();
    let before = dataplane.counters.node().unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for cpu in 0..thread::available_parallelism().unwrap().get() {
            let (runner, done, frame) = (&runner, &done, frame.bytes());
            scope.spawn(move || {
                pin_to(cpu);
                while !done.load(Relaxed) {
                    runner.run_repeatedly(&frame, 10_000).unwrap();
                }
            });
        }
        // Two reads are a nanosecond apart: only one packet in millions would be affected.
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(8) {
            for swap in 0..1_000 {
                dataplane.vips.swap_ring(30, Some(rings[swap % 2])).unwrap();
            }
        }
        done.store(true, Relaxed);
    });
    let after = dataplane.counters.node().unwrap();
    let count = |reason: Reason| after.reasons[reason as usize] - before.reasons[reason as usize];
    println!("{} packets", count(Reason::MemberDown));
    assert!(count(Reason::MemberDown) > 100_000, "packets were run");
    assert_eq!(count(Reason::NoMember), 0, "packets that saw a mix");
    Dataplane::unload(&pins).unwrap();
}

/// Slots in transition whose two members belong together: with one of each ring, none would serve.
#[test]
fn never_mixes_members_of_two_rings() {
    let folder = tempfile::tempdir().unwrap();
    let bpffs = Bpffs::mount(folder.path()).unwrap();
    let pins = Pins::at(bpffs.path());
    let (mut dataplane, runner) = pair(&pins);
    marked(&mut dataplane);
    dataplane.rings.reserve(16).unwrap();
    let images = [(30, NO_MEMBER), (NO_MEMBER, 31)].map(|(current, previous)| {
        let mut state = RingState::new_clean(&[30; RING_SIZE as usize]).to_image();
        for slot in 0..RING_SIZE {
            let slot_state = lb_common::ring::Slot {
                current,
                previous: Some(previous),
            };
            let (first, second) = slot_state.encode();
            let at = (slot / lb_common::ring::ENTRIES_PER_WORD) as usize;
            let there = at + lb_common::ring::SECTION_WORDS as usize;
            state[at] = lb_common::ring::with_entry(state[at], slot, first);
            state[there] = lb_common::ring::with_entry(state[there], slot, second);
        }
        state
    });
    let states = images.map(|image| RingState::from_image(&image, RING_SIZE, 0).unwrap());
    set_state(&mut dataplane, 30, &states[0]).unwrap();
    under_load(
        &runner,
        |number| packet(number, ACK).bytes(),
        |_, frame| member_of(frame),
        || {
            for swap in 0..SWAPS {
                set_state(&mut dataplane, 30, &states[swap as usize % 2]).unwrap();
            }
        },
    );
    Dataplane::unload(&pins).unwrap();
}

/// A next hop has a MAC address, an interface and the interface's MAC address: all of one, or of the other.
#[test]
fn never_mixes_two_next_hops() {
    let folder = tempfile::tempdir().unwrap();
    let bpffs = Bpffs::mount(folder.path()).unwrap();
    let pins = Pins::at(bpffs.path());
    let (dataplane, runner) = pair(&pins);
    let here = dataplane.egress.find(1).unwrap().unwrap();
    let there = dataplane
        .egress
        .iter()
        .map(|(entry, _)| entry)
        .find(|&entry| entry != here);
    let there = there.unwrap();
    let (mac_here, mac_there): (Mac, Mac) = ([2, 1, 1, 1, 1, 1], [2, 9, 9, 9, 9, 9]);
    let service = SERVICES[0];
    let hop = |mac, egress| Some(NextHop { mac, egress });
    let set = |hop| dataplane.members.set_next_hop(0, hop).unwrap();
    set(hop(mac_here, here));
    under_load(
        &runner,
        |number| Client::new(7).to(&service, number as u16, ACK).bytes(),
        |verdict, frame| match (verdict, &frame[..6], &frame[6..12]) {
            (1, _, _) => Ok(0),
            (3, to, from) if to == mac_here && from == OWN => Ok(1),
            (4, to, from) if to == mac_there && from == PORT_MAC => Ok(2),
            _ => Err("a mix of next hops".to_owned()),
        },
        || {
            let began = Instant::now();
            let mut swap = 0;
            while began.elapsed() < Duration::from_secs(2) {
                swap += 1;
                set(match swap % 3 {
                    0 => hop(mac_here, here),
                    1 => hop(mac_there, there),
                    _ => None,
                });
                let state = if swap % 5 == 0 {
                    control::DOWN
                } else {
                    control::SERVING
                };
                let word = control::pack(state, family::V4, 1);
                dataplane.members.set_control(0, word).unwrap();
            }
        },
    );
    Dataplane::unload(&pins).unwrap();
}
