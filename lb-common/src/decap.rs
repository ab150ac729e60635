//! `evenkeel_decap`: the program for a backend host.

use crate::map_type;

map_type! {
    /// What the program did. Per CPU.
    pub struct DecapCounters [64] {
        /// IPv4 in IPv4, outer header taken off.
        pub v4_in_v4: u64,
        /// IPv6 in IPv4.
        pub v6_in_v4: u64,
        /// IPv4 in IPv6.
        pub v4_in_v6: u64,
        /// IPv6 in IPv6.
        pub v6_in_v6: u64,
        /// Bytes of frames before the header was taken off.
        pub bytes: u64,
        /// Not for this host or not encapsulated, passed untouched.
        pub passed: u64,
        /// Encapsulated for this host, but malformed; dropped. Normal: 0.
        pub malformed: u64,
        /// The header could not be taken off; dropped. Normal: 0.
        pub failed: u64,
    }
}

/// Local addresses that a decapsulating host can have.
pub const MAX_ADDRESSES: u32 = 64;
