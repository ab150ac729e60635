//! The identity of this run of the harness, which every name on the machine carries.
//!
//! A process id alone is not enough: ids are reused, and a lab of a dead process would look alive for
//! ever. The start time of the process makes it unique until the next boot, and nothing that the lab
//! makes outlives a boot.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Everything of a lab on the machine starts with this.
pub const PREFIX: &str = "ek";

/// A run: a process that is or was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// Its process id.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub start_ticks: u64,
}

impl Run {
    /// This process.
    pub fn current() -> Self {
        static CURRENT: OnceLock<Run> = OnceLock::new();
        *CURRENT.get_or_init(|| {
            let pid = std::process::id();
            let start_ticks =
                start_ticks(pid).expect("/proc is mounted and has an entry for this process");
            Self { pid, start_ticks }
        })
    }

    /// The run that a name was made by, if it is a lab's name.
    pub fn of_name(name: &str) -> Option<Self> {
        let mut parts = name.splitn(4, '-');
        if parts.next()? != PREFIX {
            return None;
        }
        let pid = parts.next()?.parse().ok()?;
        let start_ticks = parts.next()?.parse().ok()?;
        Some(Self { pid, start_ticks })
    }

    /// A name that nobody else has, nor had in this run.
    pub fn name(self, role: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        format!("{self}-{serial}-{role}")
    }

    /// Whether the process that made the run is still there.
    pub fn is_alive(self) -> bool {
        start_ticks(self.pid) == Some(self.start_ticks)
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}-{}-{}", self.pid, self.start_ticks)
    }
}

/// Field 22 of `/proc/PID/stat`; none if there is no such process, or only its zombie.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name may hold spaces and parentheses: count from the last one.
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
    fn a_name_leads_back_to_its_run() {
        let run = Run::current();
        assert_eq!(Run::of_name(&run.name("client-1")), Some(run));
        assert_eq!(Run::of_name(&run.to_string()), Some(run));
        assert!(run.is_alive());
    }

    #[test]
    fn a_reused_process_id_is_not_the_run() {
        let mut other = Run::current();
        other.start_ticks -= 1;
        assert!(!other.is_alive());
    }

    #[test]
    fn foreign_names_are_nobodys() {
        for name in ["ek", "ek-1", "ek-a-2-x", "eke-1-2-x", "blue", ""] {
            assert_eq!(Run::of_name(name), None, "{name}");
        }
    }
}
