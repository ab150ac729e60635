//! The data path in the kernel: loaded, pinned, adopted, attached. Needs root.
#![expect(clippy::unwrap_used, reason = "tests panic: the backtrace says where")]

use std::{
    mem::offset_of,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use aya::{
    maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues},
    programs::links::{FdLink, PinnedLink},
};
use evenkeel::dataplane::{
    AttachedMode, Dataplane, DataplaneError, ImageIndex, LoadOptions, Opened, Pins, RingName,
    SessionLimits, XdpMode, catalog,
};
use lb_common::{
    family,
    member::{Member, NextHop, control},
    nat::{NatFlow, NatKey, REPLY},
    proto,
    ring::{IMAGE_WORDS, Image, MAX_MEMBERS, MAX_RING_SIZE},
    tables::Tables,
    vip::{Vip, VipKey, target},
};
use nix::{
    mount::{MntFlags, umount2},
    sched::{CloneFlags, unshare},
};

/// A BPF file system of its own, unmounted at the end.
struct Bpffs {
    folder: tempfile::TempDir,
}

impl Bpffs {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn pins(&self) -> Pins {
        Pins::at(self.folder.path())
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let _ = umount2(self.folder.path(), MntFlags::MNT_DETACH);
    }
}

/// Runs a test in a network namespace of its own, on a thread of its own.
fn in_network_namespace(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let test = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("tests of the data path need root");
            test();
        });
        if let Err(panic) = test.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

/// Options that make small maps, so that many tests fit in memory at a time.
fn small() -> LoadOptions {
    LoadOptions {
        track_buckets: 64,
        nat_sessions: 64,
        nat_embryonic: 64,
        jiffies_shift: Some(8),
        ..LoadOptions::default()
    }
}

fn pattern(seed: u64) -> Vec<u64> {
    (0..u64::from(IMAGE_WORDS))
        .map(|word| word.wrapping_mul(0x9e37_79b9) ^ seed)
        .collect()
}

#[test]
fn the_object_loads_and_runs_with_default_options() {
    let dataplane = Dataplane::load(&LoadOptions::default()).unwrap();
    let frame = [0; 60];
    let run = dataplane.run(&frame).unwrap();
    assert!(run.frame.len() >= frame.len(), "{run:?}");
    dataplane.run_traced(&frame).unwrap();
    assert!(
        dataplane
            .run(&[0; 3])
            .unwrap_err()
            .to_string()
            .contains("evenkeel_lb")
    );
    assert_eq!(dataplane.tracking.count(), 0);
    assert_eq!(dataplane.sessions.count().unwrap().flows, 0);
    assert_eq!(dataplane.samples.read().unwrap().len(), 0);
    assert_eq!(dataplane.counters.member(0).unwrap().packets, 0);
    dataplane.counters.vip(0).unwrap();
    dataplane.counters.node().unwrap();
}

#[test]
fn the_clock_ticks_in_about_seconds() {
    let dataplane = Dataplane::load(&LoadOptions {
        jiffies_shift: None,
        ..small()
    })
    .unwrap();
    let start = dataplane.now_s().unwrap();
    let began = Instant::now();
    std::thread::sleep(Duration::from_millis(3000));
    let ticks = dataplane.now_s().unwrap() - start;
    println!(
        "{ticks} of the data path's seconds in {:?}",
        began.elapsed()
    );
    assert!((2..=5).contains(&ticks), "{ticks}");
}

/// The members, as a system call reads them.
fn members_of_kernel(pins: &Pins) -> Vec<Member> {
    type Words = [u64; size_of::<Tables>() / 8];
    let map = MapData::from_pin(pins.maps().join("TABLES")).unwrap();
    let map = Array::<_, Words>::try_from(Map::from_map_data(map).unwrap()).unwrap();
    // All tables are one value, which is more than the stack of a test has room for.
    let read = move || {
        let words = Box::new(map.get(&0, 0).unwrap());
        let members = &words[offset_of!(Tables, members) / 8..][..MAX_MEMBERS as usize * 8];
        bytemuck::cast_slice(members).to_vec()
    };
    let thread = thread::Builder::new().stack_size(16 << 20).spawn(read);
    thread.unwrap().join().unwrap()
}

#[test]
fn what_is_stored_through_memory_is_what_the_kernel_looks_up() {
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
fn rings_are_staged_swapped_and_reused() {
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
    // As many again as there are: the retired one is used again, once, and never one in use.
    let mut staged: Vec<ImageIndex> = (0..images - 1)
        .map(|seed| dataplane.rings.stage(&pattern(seed as u64)).unwrap())
        .collect();
    assert_eq!(dataplane.rings.len(), images);
    assert!(staged.contains(&first) && !staged.contains(&second));
    staged.sort();
    staged.dedup();
    assert_eq!(staged.len(), images - 1);
    assert_eq!(dataplane.rings.words(second).unwrap(), pattern(2));

    // A short ring leaves nothing of the image's last use.
    let short = dataplane.rings.stage(&[9]).unwrap();
    assert!(!staged.contains(&short), "retired twice, used once");
    let words = dataplane.rings.words(short).unwrap();
    assert_eq!((words[0], words[1..].iter().sum::<u64>()), (9, 0));
    dataplane.rings.grace_period().unwrap();
}

#[test]
fn a_data_path_is_adopted_with_all_it_holds() {
    let bpffs = Bpffs::new();
    let pins = bpffs.pins();
    Dataplane::unload(&pins).unwrap();
    let key = VipKey::new(&lb_common::address_v4(1), family::V4, proto::TCP, 80);
    let (program, image) = {
        let (mut dataplane, opened) = Dataplane::open(&small(), &pins).unwrap();
        assert_eq!(opened, Opened::Fresh);
        let image = dataplane.rings.stage(&pattern(3)).unwrap();
        dataplane
            .vips
            .swap_ring(9, Some(RingName { image, size: 101 }))
            .unwrap();
        dataplane
            .add_service(&key, target::pack(target::VIP, 9))
            .unwrap();
        dataplane
            .members
            .set_control(17, control::pack(control::DOWN, 4, 2))
            .unwrap();
        (dataplane.program_id().unwrap(), image)
    };
    for _ in 0..2 {
        let (mut dataplane, opened) = Dataplane::open(&small(), &pins).unwrap();
        assert_eq!(opened, Opened::Adopted);
        assert_ne!(
            dataplane.program_id().unwrap(),
            program,
            "this binary's own program"
        );
        let ring = dataplane.vips.ring(9).unwrap().unwrap();
        assert_eq!(ring, RingName { image, size: 101 });
        assert_eq!(dataplane.rings.words(image).unwrap(), pattern(3));
        assert_eq!(
            dataplane.services.get(&key).unwrap(),
            Some(target::pack(target::VIP, 9))
        );
        assert_eq!(dataplane.services.iter().count(), 1);
        let present: Vec<_> = dataplane
            .members
            .present()
            .map(|(index, _)| index)
            .collect();
        assert_eq!(present, [17]);
        for seed in 0..6 {
            assert_ne!(
                dataplane.rings.stage(&pattern(seed)).unwrap(),
                image,
                "in use"
            );
        }
    }
    Dataplane::unload(&pins).unwrap();
    assert!(!pins.folder().exists());
    Dataplane::unload(&pins).unwrap();
    assert_eq!(Dataplane::open(&small(), &pins).unwrap().1, Opened::Fresh);
}

#[test]
fn maps_that_do_not_fit_are_refused_and_left_alone() {
    let bpffs = Bpffs::new();
    let pins = bpffs.pins();
    drop(Dataplane::open(&small(), &pins).unwrap());
    let refused = |options: &LoadOptions, what: &str, map: &str| {
        let error = Dataplane::open(options, &pins).unwrap_err();
        assert!(
            matches!(error, DataplaneError::Incompatible { .. }),
            "{error}"
        );
        let text = error.to_string();
        assert!(
            text.contains(what) && text.contains(map) && text.contains("unload"),
            "{text}"
        );
        assert_eq!(
            std::fs::read_dir(pins.maps()).unwrap().count(),
            catalog(&small()).len()
        );
    };
    // Other settings.
    refused(
        &LoadOptions {
            track_buckets: 128,
            ..small()
        },
        "size 64",
        "TRACK",
    );
    // A map of another kind under one of our names.
    let place = pins.maps().join("SAMPLES");
    std::fs::remove_file(&place).unwrap();
    Array::<MapData, u64>::create(4096, 0)
        .unwrap()
        .pin(&place)
        .unwrap();
    refused(&small(), "type Array", "SAMPLES");
    // Another version.
    let abi = pins.folder().join("abi");
    std::fs::remove_file(&abi).unwrap();
    let mut version = Array::<MapData, u32>::create(1, 0).unwrap();
    version.set(0, 77, 0).unwrap();
    version.pin(&abi).unwrap();
    refused(&small(), "version 77", "abi");
}

#[test]
fn an_interrupted_start_is_cleared_away() {
    let bpffs = Bpffs::new();
    let pins = bpffs.pins();
    drop(Dataplane::open(&small(), &pins).unwrap());
    std::fs::remove_file(pins.folder().join("abi")).unwrap();
    assert_eq!(Dataplane::open(&small(), &pins).unwrap().1, Opened::Fresh);
    assert_eq!(Dataplane::open(&small(), &pins).unwrap().1, Opened::Adopted);
}

#[test]
fn a_folder_that_is_not_there_is_an_error_that_says_so() {
    let error = Dataplane::open(&small(), &Pins::at("/nonexistent/bpf")).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("/nonexistent/bpf") && text.contains("mount"),
        "{text}"
    );
}

fn link_id(path: &Path) -> u32 {
    FdLink::from(PinnedLink::from_pin(path).unwrap())
        .info()
        .unwrap()
        .id()
}

fn link_program(path: &Path) -> u32 {
    FdLink::from(PinnedLink::from_pin(path).unwrap())
        .info()
        .unwrap()
        .program_id()
}

fn link_of(pins: &Pins, name: &str) -> PathBuf {
    pins.folder().join("links").join(name)
}

fn attached_program(interface: &str) -> String {
    let output = Command::new("ip")
        .args(["-d", "link", "show", interface])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_program_is_replaced_in_the_link_that_is_there() {
    in_network_namespace(|| {
        ip("link add one type veth peer name two");
        ip("link add dot.ted type veth peer name three");
        let bpffs = Bpffs::new();
        let pins = bpffs.pins();
        let path = link_of(&pins, "one");
        let (id, program) = {
            let (mut dataplane, _) = Dataplane::open(&small(), &pins).unwrap();
            assert_eq!(
                dataplane.attach("one", XdpMode::Native).unwrap(),
                AttachedMode::Native
            );
            assert_eq!(
                dataplane.attach("dot.ted", XdpMode::Auto).unwrap(),
                AttachedMode::Native
            );
            let mut interfaces = dataplane.interfaces().unwrap();
            interfaces.sort();
            assert_eq!(interfaces, ["dot.ted", "one"]);
            assert_eq!(link_program(&path), dataplane.program_id().unwrap());
            (link_id(&path), dataplane.program_id().unwrap())
        };
        assert!(
            attached_program("one").contains("xdp"),
            "attached without us"
        );

        let (mut dataplane, _) = Dataplane::open(&small(), &pins).unwrap();
        assert_eq!(
            link_program(&path),
            program,
            "the old program runs on until attach"
        );
        assert_eq!(
            dataplane.attach("one", XdpMode::Native).unwrap(),
            AttachedMode::Native
        );
        assert_eq!(link_id(&path), id, "the same link");
        assert_eq!(link_program(&path), dataplane.program_id().unwrap());

        // The interface went away and came back under the same name.
        ip("link del one");
        ip("link add one type veth peer name two");
        dataplane.attach("one", XdpMode::Native).unwrap();
        assert_ne!(link_id(&path), id);
        assert!(attached_program("one").contains("xdp"));

        // To the other mode and back.
        assert_eq!(
            dataplane.attach("one", XdpMode::Generic).unwrap(),
            AttachedMode::Generic
        );
        assert!(attached_program("one").contains("xdpgeneric"));
        assert_eq!(
            dataplane.attach("one", XdpMode::Auto).unwrap(),
            AttachedMode::Generic
        );
        assert_eq!(
            dataplane.attach("one", XdpMode::Native).unwrap(),
            AttachedMode::Native
        );
        assert!(!attached_program("one").contains("xdpgeneric"));

        assert!(dataplane.detach("one").unwrap());
        assert!(!dataplane.detach("one").unwrap());
        assert!(!attached_program("one").contains("xdp"));
        // Unloaded while a controller runs.
        Dataplane::unload(&pins).unwrap();
        assert!(!attached_program("dot.ted").contains("xdp"));
        assert!(!pins.folder().exists());
    });
}

#[test]
fn interfaces_that_cannot_be_used_are_errors_that_say_what_to_do() {
    in_network_namespace(|| {
        ip("link add one type veth peer name two");
        let bpffs = Bpffs::new();
        let (mut dataplane, _) = Dataplane::open(&small(), &bpffs.pins()).unwrap();
        let text = |result: evenkeel::dataplane::Result<AttachedMode>| {
            let error = result.unwrap_err();
            assert!(matches!(error, DataplaneError::Interface { .. }), "{error}");
            error.to_string()
        };
        let unknown = text(dataplane.attach("nosuch", XdpMode::Auto));
        assert!(
            unknown.contains("nosuch") && unknown.contains("ip link"),
            "{unknown}"
        );

        // `lo` has no native XDP.
        let native = text(dataplane.attach("lo", XdpMode::Native));
        assert!(
            native.contains("lo") && native.contains("xdp_mode"),
            "{native}"
        );
        let fallback = dataplane.attach("lo", XdpMode::Auto).unwrap();
        assert!(matches!(fallback, AttachedMode::Fallback { why } if why.contains("lo")));

        // A failed change of mode leaves what was there.
        text(dataplane.attach("lo", XdpMode::Native));
        assert!(attached_program("lo").contains("xdpgeneric"));

        // Somebody else's program.
        let mut other = Dataplane::load(&small()).unwrap();
        other.attach("one", XdpMode::Native).unwrap();
        let busy = text(dataplane.attach("one", XdpMode::Native));
        assert!(busy.contains("another XDP program"), "{busy}");
        drop(other);
        dataplane.attach("one", XdpMode::Native).unwrap();

        // The kernel's limit for native XDP on veth is a page.
        ip("link add big mtu 9000 type veth peer name four mtu 9000");
        let big = text(dataplane.attach("big", XdpMode::Native));
        assert!(big.contains("MTU"), "{big}");
    });
}

#[test]
fn interfaces_are_in_the_egress_table_and_the_device_map() {
    in_network_namespace(|| {
        ip("link add one type veth peer name two");
        let (one, two) = ("one", "two").into_index();
        let mut dataplane = Dataplane::load(&small()).unwrap();
        let entry = dataplane.egress.assign(one, 1500, [1; 6]).unwrap();
        assert_eq!(
            dataplane.egress.assign(two, 1500, [2; 6]).unwrap(),
            entry + 1
        );
        assert_eq!(
            dataplane.egress.assign(one, 9000, [3; 6]).unwrap(),
            entry,
            "updated"
        );
        let all: Vec<_> = dataplane
            .egress
            .iter()
            .map(|(entry, egress)| (entry, egress.mtu))
            .collect();
        assert_eq!(all, [(1, 9000), (2, 1500)]);
        dataplane.egress.release(one).unwrap();
        dataplane.egress.release(one).unwrap();
        assert_eq!(dataplane.egress.find(one).unwrap(), None);
        let error = dataplane
            .egress
            .assign(4_000_000, 1500, [0; 6])
            .unwrap_err();
        assert!(error.to_string().contains("4000000"), "{error}");
        assert_eq!(
            dataplane.egress.find(4_000_000).unwrap(),
            None,
            "not in half of the tables"
        );
    });
}

trait IntoIndex {
    fn into_index(self) -> (u32, u32);
}

impl IntoIndex for (&str, &str) {
    fn into_index(self) -> (u32, u32) {
        let index = |name| nix::net::if_::if_nametoindex(name).unwrap();
        (index(self.0), index(self.1))
    }
}

/// Bytes of kernel memory that the maps of this process's descriptors take.
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
fn a_swap_is_quick_and_the_maps_are_small() {
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
    dataplane
        .rings
        .reserve(evenkeel::dataplane::SPARE_IMAGES)
        .unwrap();

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
            dataplane
                .rings
                .reserve(evenkeel::dataplane::SPARE_IMAGES)
                .unwrap();
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
    // Reading the whole tracking table is part of every sweep.
    let began = Instant::now();
    assert_eq!(dataplane.tracking.count(), 0);
    println!(
        "tracking table of {} cells scanned in {:?}",
        dataplane.tracking.capacity(),
        began.elapsed()
    );
}

#[test]
fn sessions_are_counted_and_end_in_both_directions() {
    let bpffs = Bpffs::new();
    let pins = bpffs.pins();
    let (mut dataplane, _) = Dataplane::open(&small(), &pins).unwrap();
    // Three sessions, last seen at 100, 200 and 300 by their replies, at 50 by the client.
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
    assert_eq!(dataplane.sessions.expire(199, limits).unwrap(), 0);
    assert_eq!(dataplane.sessions.expire(200, limits).unwrap(), 2);
    assert_eq!(dataplane.sessions.remove_member(3).unwrap(), 2);
    assert_eq!(dataplane.sessions.count().unwrap().flows, 2);
    assert_eq!(dataplane.sessions.remove_member(3).unwrap(), 0);
    assert_eq!(dataplane.sessions.expire(300, limits).unwrap(), 2);
}

#[test]
fn counters_of_all_cpus_and_samples_are_read() {
    let bpffs = Bpffs::new();
    let pins = bpffs.pins();
    let (dataplane, _) = Dataplane::open(&small(), &pins).unwrap();
    let open =
        |name| Map::from_map_data(MapData::from_pin(pins.maps().join(name)).unwrap()).unwrap();
    let mut counts = PerCpuArray::<_, [u64; 8]>::try_from(open("MEMBER_COUNTS")).unwrap();
    let cpus = aya::util::nr_cpus().unwrap();
    let values = (1..=cpus as u64)
        .map(|cpu| [cpu, 10 * cpu, 0, 0, 0, 0, 0, 0])
        .collect::<Vec<_>>();
    counts
        .set(4095, PerCpuValues::try_from(values).unwrap(), 0)
        .unwrap();
    let total = (1..=cpus as u64).sum::<u64>();
    let member = dataplane.counters.member(4095).unwrap();
    assert_eq!(
        (member.packets, member.bytes, member.new_flows),
        (total, 10 * total, 0)
    );
    assert!(dataplane.counters.member(4096).is_err());

    let mut samples = HashMap::<_, [u8; 40], [u8; 40]>::try_from(open("SAMPLES")).unwrap();
    samples.insert([1; 40], [2; 40], 0).unwrap();
    let all = dataplane.samples.read().unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].0.protocol, all[0].1.vip), (1, 0x0202));

    // As many as there is room for: the kernel gives them in one go, and each once.
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
    // The table forgets a few before it is full.
    assert!((2048..=4096).contains(&all.len()), "{}", all.len());
}
