//! A host for one test: a network namespace, a BPF file system and small maps.

use std::process::Command;

use lb_common::ring::IMAGE_WORDS;
use lb_dataplane::{LoadOptions, Pins};
use nix::{
    mount::{MntFlags, umount2},
    sched::{CloneFlags, unshare},
};

/// A folder in which the data path mounts a BPF file system; unmounted when dropped.
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

/// Runs a test on a thread of its own in a network namespace of its own. The namespace ends with the
/// thread and the processes it started.
pub(crate) fn in_network_namespace<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace (needs root)");
            test()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs a command line and returns its output. Panics unless it succeeds.
pub(crate) fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `ip` with these arguments.
pub(crate) fn ip(arguments: &str) -> String {
    run(&format!("ip {arguments}"))
}

/// The `evenkeel` binary under test.
pub(crate) fn evenkeel() -> Command {
    Command::new(lab::balancer::binary().unwrap())
}

/// Options for small maps, so that many tests fit in memory at a time.
pub(crate) fn small() -> LoadOptions {
    LoadOptions {
        track_buckets: 64,
        nat_sessions: 64,
        nat_embryonic: 64,
        jiffies_shift: Some(8),
        ..LoadOptions::default()
    }
}

/// Words of a ring image that differ from seed to seed.
pub(crate) fn pattern(seed: u64) -> Vec<u64> {
    (0..u64::from(IMAGE_WORDS))
        .map(|word| word.wrapping_mul(0x9e37_79b9) ^ seed)
        .collect()
}
