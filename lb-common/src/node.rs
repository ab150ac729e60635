//! Load-time settings of the data path, and its clock.

use crate::map_type;

/// Names of the program's read-only globals. The verifier treats them as constants and removes the
/// code that they disable.
pub mod setting {
    /// [`crate::ABI_VERSION`] of the object.
    pub const ABI: &str = "ABI";
    /// Possible CPUs of the machine: the number of counter blocks.
    pub const CPUS: &str = "CPUS";
    /// Seconds are jiffies shifted right by this (see [`super::seconds`]).
    pub const JIFFIES_SHIFT: &str = "JIFFIES_SHIFT";
    /// Buckets of the tracking table (a power of two) minus one.
    pub const TRACK_MASK: &str = "TRACK_MASK";
    /// Buckets of each table of NAT sessions.
    pub const NAT_BUCKETS: &str = "NAT_BUCKETS";
    /// See the global of that name.
    pub const NAT_NEW_MASK: &str = "NAT_NEW_MASK";
    /// ICMP messages that the node may send, per second and CPU.
    pub const ICMP_RATE: &str = "ICMP_RATE";
    /// 1: write a [`crate::trace::Trace`] for every packet.
    pub const TRACING: &str = "TRACING";
}

/// The data path's seconds: jiffies without their low bits. One unit is a power of two of jiffies,
/// between 0.85 s and 1.28 s for the usual tick rates (100, 250, 300, 1000 Hz).
///
/// Reading jiffies costs 0.3 ns, reading the clock 43 ns.
#[inline(always)]
#[must_use]
pub const fn seconds(jiffies: u64, shift: u32) -> u64 {
    jiffies >> shift
}

map_type! {
    /// A per-CPU rate limit: what was used of it in the current second.
    pub struct Budget [16] {
        /// The second that `used` refers to.
        pub second: u64,
        /// Uses in that second.
        pub used: u64,
    }
}

/// Default of [`setting::ICMP_RATE`].
pub const DEFAULT_ICMP_RATE: u32 = 1000;
