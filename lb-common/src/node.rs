//! What a node's data path is told when it is loaded.

use crate::map_type;

map_type! {
    /// Settings that are fixed while a program is loaded; read-only data of the program, so that
    /// the verifier removes what they switch off.
    pub struct NodeSettings [32] {
        /// [`crate::ABI_VERSION`].
        pub abi: u32,
        /// Seconds are jiffies shifted right by this (see [`seconds`]).
        pub jiffies_shift: u32,
        /// Buckets of the tracking table minus one; they are a power of two.
        pub track_mask: u32,
        /// One flow in `sample_mask + 1` is sampled; a power of two minus one.
        pub sample_mask: u32,
        /// ICMP messages that the node may send, a second and CPU.
        pub icmp_rate: u32,
        /// 1: write a [`crate::trace::Trace`] for every packet.
        pub trace: u32,
        /// Unused.
        pub _pad: [u32; 2],
    }
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
