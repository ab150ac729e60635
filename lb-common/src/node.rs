//! What a node's data path is told when it is loaded, and its clock.

use crate::map_type;

/// Names of the read-only words of the program. They are constants to the verifier, which removes
/// what they switch off.
pub mod setting {
    /// [`crate::ABI_VERSION`] of the object.
    pub const ABI: &str = "ABI";
    /// CPUs that the machine may have: so many blocks of counters there are.
    pub const CPUS: &str = "CPUS";
    /// Seconds are jiffies shifted right by this (see [`super::seconds`]).
    pub const JIFFIES_SHIFT: &str = "JIFFIES_SHIFT";
    /// Buckets of the tracking table minus one; they are a power of two.
    pub const TRACK_MASK: &str = "TRACK_MASK";
    /// Buckets of the table of NAT sessions.
    pub const NAT_BUCKETS: &str = "NAT_BUCKETS";
    /// ICMP messages that the node may send, a second and CPU.
    pub const ICMP_RATE: &str = "ICMP_RATE";
    /// 1: write a [`crate::trace::Trace`] for every packet.
    pub const TRACING: &str = "TRACING";
}

/// The data path's seconds: jiffies without their low bits, a power of two of jiffies that is
/// between 0.85 and 1.28 s for all usual tick rates (100, 250, 300, 1000 Hz).
///
/// Reading jiffies costs 0.3 ns, reading the clock 43.
#[inline(always)]
#[must_use]
pub const fn seconds(jiffies: u64, shift: u32) -> u64 {
    jiffies >> shift
}

map_type! {
    /// How often a CPU has done something in a second, of what it may not do more often.
    pub struct Budget [16] {
        /// The second.
        pub second: u64,
        /// How often in it.
        pub used: u64,
    }
}

/// Default of [`setting::ICMP_RATE`].
pub const DEFAULT_ICMP_RATE: u32 = 1000;
