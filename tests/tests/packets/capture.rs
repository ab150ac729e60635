//! Packet capture: the program for a capture treats packets as the balancer's does, and records what the
//! filter selects.

use std::time::{Duration, Instant};

use lab::{
    bpffs::Bpffs,
    bytecode::{
        Bench,
        tables::{self, ELSEWHERE, NO_RING, SERVICES},
    },
    packet::{ACK, Frame, Ip, SYN, tcp},
};
use lb_common::{
    capture::{CaptureCounts, Filter, MAX_SNAP, Record},
    reason::Reason,
    trace::{NONE, decision},
};
use lb_dataplane::{Dataplane, LoadOptions, Pins, Records, XdpMode};

use crate::{
    forwarding::output,
    replaced::everything,
    stage::{Client, PORT, PORT_MAC, enter_namespace, options},
};

const RING_BYTES: u32 = 1 << 20;

/// A record with its frames.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) head: Record,
    pub(crate) received: Vec<u8>,
    pub(crate) transmitted: Vec<u8>,
}

/// A pinned data path with a capture.
pub(crate) struct Stage {
    pub(crate) bench: Bench,
    records: Records,
    pub(crate) filter: Filter,
    bpffs: Bpffs,
    _folder: tempfile::TempDir,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::with(&options(), RING_BYTES)
    }

    fn with(options: &LoadOptions, ring_bytes: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bpffs = Bpffs::mount(folder.path()).unwrap();
        let elsewhere = enter_namespace();
        let (mut dataplane, _) = Dataplane::open(options, &Pins::at(bpffs.path())).unwrap();
        tables::fill(&mut dataplane, Some((elsewhere, PORT_MAC))).unwrap();
        dataplane.attach(PORT, XdpMode::Native).unwrap();
        let loader = dataplane.capture_loader().unwrap();
        let (program, records) = loader.load(ring_bytes).unwrap();
        dataplane.begin_capture(program).unwrap();
        let stage = Self {
            bench: Bench::new(dataplane),
            records,
            filter: Filter::ALL,
            bpffs,
            _folder: folder,
        };
        stage.record(&Filter::ALL);
        stage
    }

    pub(crate) fn record(&self, filter: &Filter) {
        let dataplane = &self.bench.dataplane;
        let now_s = dataplane.now_s().unwrap();
        dataplane.capture().unwrap().record(filter, now_s).unwrap();
    }

    pub(crate) fn take(&mut self) -> Vec<Recorded> {
        let mut all = Vec::new();
        self.records.read(|head, received, transmitted| {
            all.push(Recorded {
                head: *head,
                received: received.to_vec(),
                transmitted: transmitted.to_vec(),
            });
            true
        });
        all
    }

    /// Runs a frame and returns its record, if it has one.
    pub(crate) fn run(&mut self, frame: &Frame) -> Option<Recorded> {
        self.bench.dataplane.run(&frame.bytes()).unwrap();
        let mut all = self.take();
        assert!(all.len() <= 1, "{all:?}");
        all.pop()
    }

    /// Whether a frame is recorded with a filter.
    pub(crate) fn is_recorded(&mut self, change: impl FnOnce(&mut Filter), frame: &Frame) -> bool {
        let mut filter = self.filter;
        change(&mut filter);
        self.record(&filter);
        self.run(frame).is_some()
    }

    fn counts(&self) -> CaptureCounts {
        self.records.counts().unwrap()
    }

    pub(crate) fn end(self) {
        let mut dataplane = self.bench.into_dataplane();
        let capturing = dataplane.program_id().unwrap();
        dataplane.end_capture().unwrap();
        assert_ne!(dataplane.program_id().unwrap(), capturing);
        drop(dataplane);
        Dataplane::unload(&Pins::at(self.bpffs.path())).unwrap();
    }
}

#[test]
fn a_capture_does_not_change_what_happens_to_packets() {
    let mut stage = Stage::new();
    let mut seen = 0;
    everything(&mut stage.bench, Client::new(1));
    seen += stage.take().len() as u64;
    let counts = stage.counts();
    assert_eq!(counts.matched, counts.recorded + counts.no_space);
    assert_eq!(seen, counts.recorded);
    assert!(counts.matched > 1000, "{counts:?}");
    stage.end();
}

/// The frame in the record, to its last byte, for each length.
#[test]
fn records_have_the_frames_before_and_after() {
    let mut stage = Stage::new();
    stage.record(&Filter {
        snap: MAX_SNAP,
        ..Filter::ALL
    });
    let client = Client::new(1);
    for service in [
        SERVICES[0],
        SERVICES[1],
        SERVICES[4],
        SERVICES[10],
        ELSEWHERE,
    ] {
        for payload in (0..40).chain([100, 500, 1200]) {
            let frame = client.to(&service, 500, ACK).payload(vec![0xab; payload]);
            let mut expected = output(&service, &frame);
            if service.index == ELSEWHERE.index {
                expected.from = PORT_MAC;
            }
            let record = stage.run(&frame).unwrap();
            assert_eq!(record.received, frame.bytes(), "{service:?}, {payload}");
            assert_eq!(
                record.transmitted,
                expected.bytes(),
                "{service:?}, {payload}"
            );
            let head = record.head;
            assert_eq!(head.in_len as usize, record.received.len());
            assert_eq!(head.out_len as usize, record.transmitted.len());
            assert_eq!(head.ifindex, 1);
            let trace = head.trace;
            assert_eq!((trace.vip, trace.member), (service.index, service.index));
            assert_eq!(trace.decision, decision::RING);
            assert_eq!(trace.reason, Reason::Forwarded as u32);
        }
    }
    stage.end();
}

#[test]
fn the_snap_length_cuts_both_frames() {
    let mut stage = Stage::new();
    let service = SERVICES[1];
    let frame = Client::new(1)
        .to(&service, 500, ACK)
        .payload(vec![0xab; 900]);
    let whole = output(&service, &frame).bytes();
    for snap in [0, 1, 14, 60, 127, 128, 129, 500, 2048] {
        stage.record(&Filter {
            snap,
            ..Filter::ALL
        });
        let record = stage.run(&frame).unwrap();
        let cut = |bytes: &[u8]| bytes[..bytes.len().min(snap as usize)].to_vec();
        assert_eq!(record.received, cut(&frame.bytes()), "{snap}");
        assert_eq!(record.transmitted, cut(&whole), "{snap}");
        assert_eq!(record.head.in_len as usize, frame.bytes().len());
        assert_eq!(record.head.out_len as usize, whole.len());
    }
    stage.end();
}

/// A drop has its reason and no transmitted frame.
#[test]
fn drops_are_recorded_with_their_reason() {
    let mut stage = Stage::new();
    let frame = Client::new(1).to(&NO_RING, 500, SYN);
    let record = stage.run(&frame).unwrap();
    assert_eq!(record.head.trace.reason, Reason::NoMember as u32);
    assert_eq!(record.head.trace.vip, NO_RING.index);
    assert_eq!(record.head.trace.member, NONE);
    assert_eq!(record.head.trace.verdict, 1);
    assert_eq!(record.received, frame.bytes());
    assert_eq!((record.head.out_len, record.transmitted.len()), (0, 0));
    // The next packet's record has nothing of it.
    let foreign = Frame::new(
        Ip::new(Client::new(1).v4.into(), "192.0.2.1".parse().unwrap()),
        tcp(1, 2, SYN),
    );
    let record = stage.run(&foreign).unwrap();
    assert_eq!(record.head.trace.reason, Reason::NoVip as u32);
    assert_eq!(
        (record.head.trace.vip, record.head.trace.member),
        (NONE, NONE)
    );
    stage.end();
}

#[test]
fn losses_are_counted_exactly() {
    // The smallest buffer: a page.
    let mut stage = Stage::with(&options(), 4096);
    let dropped = Client::new(1).to(&NO_RING, 500, ACK).bytes();
    // The frame is not changed by a drop, so that each run is alike.
    let run = |stage: &Stage, times| {
        stage
            .bench
            .dataplane
            .run_repeatedly(&dropped, times)
            .unwrap()
    };
    run(&stage, 1000);
    let counts = stage.counts();
    let read = stage.take().len() as u64;
    assert_eq!((counts.matched, counts.over_limit), (1000, 0));
    assert_eq!(counts.recorded, read);
    assert_eq!(counts.no_space, 1000 - read);
    assert!((1..100).contains(&read), "{read} records in a page");

    // The clock stands still, so the limit is never renewed. The test may move to another CPU.
    stage.record(&Filter {
        per_s: 7,
        ..Filter::ALL
    });
    let mut read_again = 0;
    for _ in 0..50 {
        stage.bench.dataplane.run(&dropped).unwrap();
        read_again += stage.take().len() as u64;
    }
    let after = stage.counts();
    assert_eq!(after.matched, 1050);
    assert_eq!(
        (after.recorded, after.no_space),
        (read + read_again, counts.no_space)
    );
    assert_eq!(after.over_limit, 50 - read_again);
    assert!(
        read_again <= 7 * u64::from(after.over_limit < 50),
        "{after:?}"
    );
    stage.end();
}

#[test]
fn nothing_is_recorded_past_the_deadline() {
    let mut stage = Stage::with(
        &LoadOptions {
            jiffies_shift: Some(4),
            ..options()
        },
        RING_BYTES,
    );
    let frame = Client::new(1).to(&SERVICES[0], 500, ACK);
    let mut seen = 0;
    let mut begun = false;
    lab::deadline::until("the deadline", Duration::from_secs(60), || {
        let now_s = stage.bench.dataplane.now_s()?;
        if !begun {
            stage
                .bench
                .dataplane
                .capture()
                .unwrap()
                .record(&Filter::ALL, now_s)?;
            begun = true;
        }
        stage.bench.dataplane.run(&frame.bytes())?;
        let recorded = stage.take().len() as u64;
        seen += recorded;
        Ok(recorded == 0)
    })
    .unwrap();
    assert!(seen > 0);
    let counts = stage.counts();
    assert_eq!(counts.matched, counts.recorded);
    stage.record(&Filter::ALL);
    assert!(stage.run(&frame).is_some(), "renewed");
    stage.end();
}

/// Costs per packet, for ADR 12. A dropped frame is not changed, so each run is alike.
#[test]
fn costs_of_a_capture() {
    const RUNS: u32 = 200_000;
    let mut stage = Stage::with(&options(), 1 << 27);
    let frame = Client::new(1).to(&NO_RING, 500, ACK).payload(vec![0; 1400]);
    let per_packet = |stage: &mut Stage| {
        let run = |stage: &mut Stage| {
            let start = Instant::now();
            let dataplane = &stage.bench.dataplane;
            dataplane.run_repeatedly(&frame.bytes(), RUNS).unwrap();
            let took = start.elapsed();
            stage.take();
            took
        };
        let fastest = (0..5).map(|_| run(stage)).min().unwrap();
        fastest.as_secs_f64() * 1e9 / f64::from(RUNS)
    };
    for (what, filter) in [
        ("past the deadline", None),
        (
            "not selected",
            Some(Filter {
                reasons: 0,
                ..Filter::ALL
            }),
        ),
        ("128 bytes", Some(Filter::ALL)),
        (
            "1,454 bytes",
            Some(Filter {
                snap: MAX_SNAP,
                ..Filter::ALL
            }),
        ),
        (
            "over the limit",
            Some(Filter {
                per_s: 0,
                ..Filter::ALL
            }),
        ),
    ] {
        match filter {
            None => stage.bench.dataplane.capture().unwrap().stop().unwrap(),
            Some(filter) => stage.record(&filter),
        }
        println!("{what}: {:.0} ns", per_packet(&mut stage));
    }
    let counts = stage.counts();
    assert_eq!(
        counts.matched,
        counts.recorded + counts.no_space + counts.over_limit
    );
    stage.bench.dataplane.end_capture().unwrap();
    println!("ordinary program: {:.0} ns", per_packet(&mut stage));
    Dataplane::unload(&Pins::at(stage.bpffs.path())).unwrap();
}
