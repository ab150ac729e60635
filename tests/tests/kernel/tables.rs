//! Tables: mapped memory and the kernel agree; rings, sessions, counters; memory use.

use std::{
    mem::offset_of,
    thread,
    time::{Duration, Instant},
};

use aya::maps::{Array, HashMap, Map, MapData};
use lb_common::{
    family,
    member::{Member, NextHop, control},
    nat::{NatFlow, NatKey, REPLY},
    proto,
    reason::Reason,
    ring::{Image, MAX_MEMBERS, MAX_RING_SIZE},
    tables::Tables,
    vip::Vip,
};
use lb_dataplane::{
    Dataplane, ImageIndex, LoadOptions, Pins, PortCounts, PortPool, RingName, SessionLimits,
};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use crate::host::{Bpffs, pattern, small};

/// Reads the members with a system call.
fn members_of_kernel(pins: &Pins) -> Vec<Member> {
    type Words = [u64; size_of::<Tables>() / 8];
    let map = MapData::from_pin(pins.maps().join("TABLES")).unwrap();
    let map = Array::<_, Words>::try_from(Map::from_map_data(map).unwrap()).unwrap();
    // All tables are one value, which is too large for the stack of a test.
    let read = move || {
        let words = Box::new(map.get(&0, 0).unwrap());
        let members = &words[offset_of!(Tables, members) / 8..][..MAX_MEMBERS as usize * 8];
        bytemuck::cast_slice(members).to_vec()
    };
    let thread = thread::Builder::new().stack_size(16 << 20).spawn(read);
    thread.unwrap().join().unwrap()
}

#[test]
fn the_kernel_reads_what_mapped_memory_stores() {
    let bpffs = Bpffs::new();
    let pins = bpffs.pins();
    let (dataplane, _) = Dataplane::open(&small(), &pins).unwrap();
    let member = Member {
        control: control::pack(control::SERVING, family::V4, 7),
        address: [1 << 32 | 2, 3 << 32 | 4],
        port_be: 99,
        ..bytemuck::Zeroable::zeroed()
    };
    dataplane.members.write(4095, &member).unwrap();
    dataplane
        .members
        .set_next_hop(
            4095,
            Some(NextHop {
                mac: [1; 6],
                egress: 3,
            }),
        )
        .unwrap();

    let of_kernel = members_of_kernel(&pins);
    let expected = Member {
        next_hop: NextHop {
            mac: [1; 6],
            egress: 3,
        }
        .pack(),
        ..member
    };
    assert_eq!(of_kernel[4095], expected);
    assert_eq!(of_kernel[4094], bytemuck::Zeroable::zeroed());
    assert!(dataplane.members.read(4096).is_err());

    dataplane.members.clear(4095).unwrap();
    let cleared = dataplane.members.read(4095).unwrap();
    assert_eq!(control::state(cleared.control), control::ABSENT);
    assert_eq!(
        control::generation(cleared.control),
        7,
        "an index remembers its generation"
    );
}

#[test]
fn stages_swaps_and_reuses_ring_images() {
    let mut dataplane = Dataplane::load(&small()).unwrap();
    let first = dataplane.rings.stage(&pattern(1)).unwrap();
    let second = dataplane.rings.stage(&pattern(2)).unwrap();
    assert_ne!(first, second);
    let size = MAX_RING_SIZE;
    dataplane
        .vips
        .write(
            5,
            &Vip {
                forward: 2,
                ..bytemuck::Zeroable::zeroed()
            },
        )
        .unwrap();
    dataplane
        .vips
        .swap_ring(5, Some(RingName { image: first, size }))
        .unwrap();
    dataplane
        .vips
        .swap_ring(
            5,
            Some(RingName {
                image: second,
                size,
            }),
        )
        .unwrap();
    assert_eq!(
        dataplane.vips.rings().collect::<Vec<_>>(),
        [(
            5,
            RingName {
                image: second,
                size
            }
        )]
    );
    dataplane.rings.retire(first);
    dataplane.rings.retire(first);
    let images = dataplane.rings.len();
    // Until all spare images are used: the retired one is reused once, one in use never.
    let mut staged: Vec<ImageIndex> = (0..images - 1)
        .map(|seed| dataplane.rings.stage(&pattern(seed as u64)).unwrap())
        .collect();
    assert_eq!(dataplane.rings.len(), images);
    assert!(staged.contains(&first) && !staged.contains(&second));
    staged.sort();
    staged.dedup();
    assert_eq!(staged.len(), images - 1);
    assert_eq!(dataplane.rings.words(second).unwrap(), pattern(2));

    // A short ring overwrites the whole image.
    let short = dataplane.rings.stage(&[9]).unwrap();
    assert!(!staged.contains(&short), "retired twice, used once");
    let words = dataplane.rings.words(short).unwrap();
    assert_eq!((words[0], words[1..].iter().sum::<u64>()), (9, 0));
    dataplane.rings.grace_period().unwrap();
}

/// Returns the kernel memory of the pinned maps in bytes.
fn memory_of_maps(pins: &Pins) -> u64 {
    let paths = std::fs::read_dir(pins.maps()).unwrap();
    paths
        .map(|path| memory_of(&MapData::from_pin(path.unwrap().path()).unwrap()))
        .sum()
}

fn memory_of(map: &MapData) -> u64 {
    use std::os::fd::{AsFd as _, AsRawFd as _};
    let page = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
    let page = std::fs::read_to_string(page).unwrap();
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix("memlock:"))
        .unwrap();
    line.trim().parse().unwrap()
}

#[test]
fn swaps_quickly_and_uses_little_memory() {
    let bpffs = Bpffs::new();
    let pins = bpffs.pins();
    let options = LoadOptions {
        jiffies_shift: Some(8),
        ..LoadOptions::default()
    };
    let (mut dataplane, _) = Dataplane::open(&options, &pins).unwrap();
    let began = Instant::now();
    for vip in 0..64 {
        let image = dataplane.rings.stage(&pattern(vip)).unwrap();
        let ring = RingName {
            image,
            size: MAX_RING_SIZE,
        };
        dataplane.vips.swap_ring(vip as u16, Some(ring)).unwrap();
    }
    println!("64 rings staged the first time in {:?}", began.elapsed());
    dataplane.rings.reserve(lb_dataplane::SPARE_IMAGES).unwrap();

    let mut times: Vec<Duration> = (0..101)
        .map(|round| {
            let words = pattern(round);
            let before = dataplane.vips.ring(3).unwrap().unwrap();
            let began = Instant::now();
            let image = dataplane.rings.stage(&words).unwrap();
            let ring = RingName {
                image,
                size: MAX_RING_SIZE,
            };
            dataplane.vips.swap_ring(3, Some(ring)).unwrap();
            dataplane.rings.retire(before.image);
            let elapsed = began.elapsed();
            dataplane.rings.reserve(lb_dataplane::SPARE_IMAGES).unwrap();
            elapsed
        })
        .collect();
    times.sort();
    println!(
        "stage and swap: median {:?}, worst {:?}",
        times[50], times[100]
    );
    assert!(times[95] < Duration::from_millis(5), "{:?}", times[95]);

    let began = Instant::now();
    dataplane.rings.grace_period().unwrap();
    println!("grace period: {:?}", began.elapsed());

    let image = Array::<MapData, Image>::create(1, 1 << 10).unwrap();
    let image = memory_of(aya::maps::IterableMap::<u32, Image>::map(&image));
    let images = dataplane.rings.len() as u64 * image;
    let total = memory_of_maps(&pins) + images;
    println!(
        "maps: {} KiB, of these {} images {} KiB",
        total >> 10,
        dataplane.rings.len(),
        images >> 10
    );
    assert!(total < 64 << 20, "{total}");
    // Every sweep reads the whole tracking table.
    let began = Instant::now();
    assert_eq!(dataplane.tracking.count(), 0);
    println!(
        "tracking table of {} cells scanned in {:?}",
        dataplane.tracking.capacity(),
        began.elapsed()
    );
}

#[test]
fn counts_sessions_and_removes_both_directions() {
    let bpffs = Bpffs::new();
    let pins = bpffs.pins();
    let (mut dataplane, _) = Dataplane::open(&small(), &pins).unwrap();
    // Three sessions with replies last seen at 100, 200 and 300, and requests at 50.
    for session in 1..=3_u16 {
        let flow = NatFlow {
            member: session,
            vip: 7,
            nat_source: 2,
            ..bytemuck::Zeroable::zeroed()
        };
        let protocol = proto::UDP.into();
        let forth = NatKey {
            address: [1; 2],
            source_be: session,
            dest_be: 80,
            scope: 7,
            protocol,
        };
        let there = NatFlow {
            dest: [4; 2],
            source_be: 900 + session,
            dest_be: 81,
            seen_s: 50,
            ..flow
        };
        let back = NatKey {
            address: [4; 2],
            source_be: 81,
            dest_be: 900 + session,
            scope: 2 | REPLY,
            protocol,
        };
        let here = NatFlow {
            dest: [1; 2],
            source_be: 80,
            dest_be: session,
            seen_s: 100 * u32::from(session),
            ..flow
        };
        for (key, flow) in [(forth, there), (back, here)] {
            dataplane.sessions.insert(&key, &flow).unwrap();
        }
    }
    let limits = SessionLimits {
        udp_s: 100,
        ..SessionLimits::default()
    };
    assert_eq!(dataplane.sessions.count().unwrap().flows, 6);
    let mut expire = |now_s| dataplane.sessions.expire(now_s, limits).unwrap();
    let expired = expire(199);
    assert_eq!(expired.entries, 0);
    assert_eq!(expired.established.members, [(1, 1), (2, 1), (3, 1)].into());
    let expired = expire(200);
    assert_eq!(expired.entries, 2);
    assert_eq!(expired.established.members, [(2, 1), (3, 1)].into());
    assert_eq!(expired.established.vips, [(7, 2)].into());
    let pool = PortPool {
        vip: 7,
        member: 3,
        source: 2,
        backend_port: u16::from_be(81),
    };
    let counts = PortCounts { in_use: 1, over: 0 };
    assert_eq!(expired.established.ports.get(&pool), Some(&counts));
    assert_eq!(expired.established, dataplane.sessions.established());
    let gone = [3].into();
    assert_eq!(dataplane.sessions.remove_members(&gone).unwrap(), 2);
    assert_eq!(dataplane.sessions.count().unwrap().flows, 2);
    assert_eq!(dataplane.sessions.remove_members(&gone).unwrap(), 0);
    assert_eq!(dataplane.sessions.expire(300, limits).unwrap().entries, 2);
}

#[test]
fn reads_counters_of_all_cpus_and_samples() {
    let bpffs = Bpffs::new();
    let pins = bpffs.pins();
    let (dataplane, _) = Dataplane::open(&small(), &pins).unwrap();
    let open =
        |name| Map::from_map_data(MapData::from_pin(pins.maps().join(name)).unwrap()).unwrap();
    // Neither IPv4 nor IPv6, so only counted, a different number of times on each CPU.
    let before = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let mut total = 0;
    for cpu in (0..CpuSet::count()).filter(|&cpu| before.is_set(cpu).unwrap()) {
        let mut only = CpuSet::new();
        only.set(cpu).unwrap();
        sched_setaffinity(Pid::from_raw(0), &only).unwrap();
        total += 10 + cpu as u64;
        dataplane.run_repeatedly(&[0; 64], 10 + cpu as u32).unwrap();
    }
    sched_setaffinity(Pid::from_raw(0), &before).unwrap();
    let counted = dataplane.counters.node().unwrap().reasons;
    assert_eq!(counted[Reason::NotIp as usize], total);
    assert_eq!(counted.iter().sum::<u64>(), total);
    assert!(dataplane.counters.member(4096).is_err());

    let mut samples = HashMap::<_, [u8; 40], [u8; 40]>::try_from(open("SAMPLES")).unwrap();
    samples.insert([1; 40], [2; 40], 0).unwrap();
    let all = dataplane.samples.read().unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].0.protocol, all[0].1.vip), (1, 0x0202));

    // Up to the capacity: the kernel returns them in one batch, each once.
    samples.remove(&[1; 40]).unwrap();
    for number in 0..4096_u32 {
        let mut key = [0; 40];
        key[..4].copy_from_slice(&number.to_ne_bytes());
        samples.insert(key, [3; 40], 0).unwrap();
    }
    let begun = std::time::Instant::now();
    let all = dataplane.samples.read().unwrap();
    println!("{} samples read in {:?}", all.len(), begun.elapsed());
    let sources: std::collections::BTreeSet<u64> =
        all.iter().map(|(key, _)| key.source[0]).collect();
    assert_eq!(sources.len(), all.len());
    // The table evicts a few before it is full.
    assert!((2048..=4096).contains(&all.len()), "{}", all.len());
}
