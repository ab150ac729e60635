//! Maps of `evenkeel_decap`, the program that runs on a backend host.

use crate::{Address, map_type};

map_type! {
    /// Counters of the program, per CPU.
    pub struct DecapCounters [80] {
        /// IPv4 in IPv4 packets decapsulated.
        pub v4_in_v4: u64,
        /// IPv6 in IPv4 packets decapsulated.
        pub v6_in_v4: u64,
        /// IPv4 in IPv6 packets decapsulated.
        pub v4_in_v6: u64,
        /// IPv6 in IPv6 packets decapsulated.
        pub v6_in_v6: u64,
        /// Bytes of these frames before decapsulation.
        pub bytes: u64,
        /// Packets that are not encapsulated or not for this host; passed untouched.
        pub passed: u64,
        /// Encapsulated packets for this host that are fragments or have IPv4 options; passed
        /// untouched, for the kernel's tunnel interface if there is one. Expected: 0.
        pub declined: u64,
        /// Malformed encapsulated packets for this host; dropped. Expected: 0.
        pub malformed: u64,
        /// Packets with a congestion mark on the outer header whose inner header cannot carry one;
        /// dropped (RFC 6040). Expected: 0.
        pub congested: u64,
        /// Packets whose outer header could not be removed; dropped. Expected: 0.
        pub failed: u64,
    }
}

map_type! {
    /// Key of the address table: an address of the host.
    pub struct LocalAddress [24] {
        /// The address.
        pub address: Address,
        /// Address family, see [`crate::family`]; the two words alone are ambiguous.
        pub family: u64,
    }
}

/// Maximum number of local addresses of a decapsulating host, VIPs on the loopback interface
/// included.
pub const MAX_ADDRESSES: u32 = 1024;

/// Entries of the address table. New addresses are added before old ones are removed, so there is
/// room for both.
pub const ADDRESS_TABLE_SIZE: u32 = 2 * MAX_ADDRESSES;

/// Codepoints of the ECN field (RFC 3168).
pub mod ecn {
    /// Not ECN-capable transport.
    pub const NOT_ECT: u8 = 0;
    /// ECT(1).
    pub const ECT_1: u8 = 1;
    /// ECT(0).
    pub const ECT_0: u8 = 2;
    /// Congestion experienced.
    pub const CE: u8 = 3;
}

/// Returns the inner ECN codepoint after decapsulation, or `None` if the packet must be dropped
/// (RFC 6040 §4.2).
#[inline(always)]
#[must_use]
pub const fn decapsulated_ecn(outer: u8, inner: u8) -> Option<u8> {
    match (outer, inner) {
        (ecn::CE, ecn::NOT_ECT) => None,
        (ecn::CE, _) => Some(ecn::CE),
        (ecn::ECT_1, ecn::ECT_0) => Some(ecn::ECT_1),
        _ => Some(inner),
    }
}
