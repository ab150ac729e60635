//! The data path in the kernel: loaded, pinned, adopted, attached. Needs root.
#![expect(clippy::unwrap_used, reason = "tests panic: the backtrace says where")]

mod links;
mod pinned;
mod tables;

use std::{
    process::Command,
    time::{Duration, Instant},
};

use lb_common::ring::IMAGE_WORDS;
use lb_dataplane::{Dataplane, LoadOptions, Pins};
use nix::{
    mount::{MntFlags, umount2},
    sched::{CloneFlags, unshare},
};

/// A BPF file system of its own, unmounted at the end.
pub(crate) struct Bpffs {
    folder: tempfile::TempDir,
}

impl Bpffs {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn pins(&self) -> Pins {
        Pins::at(self.folder.path())
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let _ = umount2(self.folder.path(), MntFlags::MNT_DETACH);
    }
}

/// Runs a test in a network namespace of its own, on a thread of its own.
pub(crate) fn in_network_namespace(test: impl FnOnce() + Send) {
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

pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

/// Options that make small maps, so that many tests fit in memory at a time.
pub(crate) fn small() -> LoadOptions {
    LoadOptions {
        track_buckets: 64,
        nat_sessions: 64,
        nat_embryonic: 64,
        jiffies_shift: Some(8),
        ..LoadOptions::default()
    }
}

pub(crate) fn pattern(seed: u64) -> Vec<u64> {
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
