//! State that the data path keeps for a limited time: fragments and sampled flows.

use std::time::{Duration, Instant};

use lab::{
    bytecode::tables::{SERVICES, Service},
    packet::ACK,
};
use lb_common::{fragment::LIFETIME_S, reason::Reason, sample::MAX_SAMPLES};
use lb_dataplane::{Dataplane, LoadOptions};
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use crate::{
    fragments::part,
    stage::{Client, dataplane, options},
};

/// A second of the data path has 16 jiffies here: 16 to 160 ms.
const FAST: u32 = 4;

/// Runs a frame and returns its reason.
fn reason(dataplane: &Dataplane, frame: &[u8]) -> u32 {
    let (_, trace) = dataplane.run_traced(frame).unwrap();
    trace.reason
}

/// Waits until the data path's clock has reached this second.
fn wait_until(dataplane: &Dataplane, second: u64) {
    let start = Instant::now();
    while dataplane.now_s().unwrap() < second {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "the clock stands still"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn forgets_fragments_after_their_timeout() {
    let options = LoadOptions {
        jiffies_shift: Some(FAST),
        ..options()
    };
    let dataplane = dataplane(&options);
    // One of each forwarding mode and family.
    let services: [Service; 6] = [0, 1, 6, 9, 10, 14].map(|at| SERVICES[at]);
    let whole = |service: &Service| Client::new(1).to(service, 70, ACK).payload(vec![9; 300]);
    let last = |service: &Service| part(&whole(service), 70, 120, 100, false).bytes();
    let mut latest_s = 0;
    for service in &services {
        let first = part(&whole(service), 70, 0, 120, true).bytes();
        let before_s = dataplane.now_s().unwrap();
        let first = reason(&dataplane, &first);
        assert_eq!(first, Reason::Forwarded as u32, "{service:?}");
        let second = reason(&dataplane, &last(service));
        latest_s = dataplane.now_s().unwrap();
        // Otherwise the test ran too slowly to tell.
        if latest_s - before_s <= u64::from(LIFETIME_S) {
            assert_eq!(second, Reason::Forwarded as u32, "{service:?}");
        }
    }
    wait_until(&dataplane, latest_s + u64::from(LIFETIME_S) + 1);
    for service in &services {
        let late = reason(&dataplane, &last(service));
        assert_eq!(late, Reason::FragmentOrphan as u32, "{service:?}");
    }
}

/// Capacity of the table of samples.
#[test]
fn replaces_the_oldest_samples() {
    const ROOM: usize = MAX_SAMPLES as usize;
    const FLOWS: u16 = 6_000;
    // One batch per second, of the size that a CPU may add in a second.
    const AT_A_TIME: u16 = 1_000;
    let options = LoadOptions {
        jiffies_shift: Some(FAST),
        ..options()
    };
    let dataplane = dataplane(&options);
    // Each CPU has a list of the last entries it added, from which others take nothing.
    let mut one_cpu = CpuSet::new();
    one_cpu.set(sched_getcpu().unwrap()).unwrap();
    sched_setaffinity(Pid::from_raw(0), &one_cpu).unwrap();
    for port in 1..=FLOWS {
        let frame = Client::new(1).to(&SERVICES[0], port, ACK);
        dataplane.run(&frame.bytes()).unwrap();
        if port % AT_A_TIME == 0 {
            let next_s = dataplane.now_s().unwrap() + 1;
            wait_until(&dataplane, next_s);
        }
    }
    let samples = dataplane.samples.read().unwrap();
    let ports: Vec<u16> = (samples.iter())
        .map(|(key, _)| u16::from_be(key.source_be))
        .collect();
    println!("{} samples of {FLOWS} flows", ports.len());
    assert!(
        ports.len() <= ROOM && ports.len() > ROOM / 2,
        "{} samples, capacity {ROOM}",
        ports.len()
    );
    // The kernel's LRU is an approximation, but the newest hundreds of flows must be present.
    for newest in FLOWS - 200..=FLOWS {
        assert!(
            ports.contains(&newest),
            "the sample of the new flow {newest} is missing"
        );
    }
    let old: Vec<u16> = (1..1000).filter(|old| ports.contains(old)).collect();
    assert!(
        old.is_empty(),
        "samples of the oldest flows remain: {old:?}"
    );
    assert!(samples.iter().all(|(_, sample)| sample.packets == 1));
}
