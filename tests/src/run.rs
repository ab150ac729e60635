//! The identity of this run of the harness, which is part of every name on the machine.
//!
//! A process id alone is not enough: ids are reused, and the lab of a dead process could seem alive
//! for ever. With the start time of the process it is unique until the next boot, and nothing that
//! the lab creates survives a boot.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Prefix of all names that a lab creates.
pub const PREFIX: &str = "ek";

/// A run of the harness, by its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    pub pid: u32,
    /// Start time in clock ticks since boot.
    pub start_ticks: u64,
}

impl Run {
    /// Returns the run of this process.
    pub fn current() -> Self {
        static CURRENT: OnceLock<Run> = OnceLock::new();
        *CURRENT.get_or_init(|| {
            let pid = std::process::id();
            let start_ticks =
                start_ticks(pid).expect("/proc is mounted and has an entry for this process");
            Self { pid, start_ticks }
        })
    }

    /// Returns the run that created a name, if it is a lab's name.
    pub fn of_name(name: &str) -> Option<Self> {
        let mut parts = name.splitn(4, '-');
        if parts.next()? != PREFIX {
            return None;
        }
        let pid = parts.next()?.parse().ok()?;
        let start_ticks = parts.next()?.parse().ok()?;
        Some(Self { pid, start_ticks })
    }

    /// Returns a name that is unique, also within this run.
    pub fn name(self, role: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        format!("{self}-{serial}-{role}")
    }

    /// Returns whether the process still runs.
    pub fn is_alive(self) -> bool {
        start_ticks(self.pid) == Some(self.start_ticks)
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}-{}-{}", self.pid, self.start_ticks)
    }
}

/// Returns field 22 of `/proc/PID/stat`, or `None` if there is no such process or it is a zombie.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name may contain spaces and parentheses: count from the last one.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_run_from_a_name() {
        let run = Run::current();
        assert_eq!(Run::of_name(&run.name("client-1")), Some(run));
        assert_eq!(Run::of_name(&run.to_string()), Some(run));
        assert!(run.is_alive());
    }

    #[test]
    fn distinguishes_a_reused_process_id() {
        let mut other = Run::current();
        other.start_ticks -= 1;
        assert!(!other.is_alive());
    }

    #[test]
    fn ignores_foreign_names() {
        for name in ["ek", "ek-1", "ek-a-2-x", "eke-1-2-x", "blue", ""] {
            assert_eq!(Run::of_name(name), None, "{name}");
        }
    }
}
