//! `evenkeel_decap`: the program for a backend host.

use crate::{Address, map_type};

map_type! {
    /// What the program did. Per CPU.
    pub struct DecapCounters [80] {
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
        /// Encapsulated for this host, but in fragments or with IPv4 options: passed untouched, for a
        /// tunnel interface of the kernel if there is one. Normal: 0.
        pub declined: u64,
        /// Encapsulated for this host, but malformed; dropped. Normal: 0.
        pub malformed: u64,
        /// A congestion mark on the outer header of a packet that can't carry one; dropped, as
        /// RFC 6040 says. Normal: 0.
        pub congested: u64,
        /// The header could not be taken off; dropped. Normal: 0.
        pub failed: u64,
    }
}

map_type! {
    /// An address of the host: key of the table of addresses.
    pub struct LocalAddress [24] {
        /// The address.
        pub address: Address,
        /// Its family, of [`crate::family`]: the words alone can be those of either.
        pub family: u64,
    }
}

/// Local addresses that a decapsulating host can have. VIPs on the loopback interface count.
pub const MAX_ADDRESSES: u32 = 1024;

/// Entries of the table of addresses: room to add all new ones before the old ones are removed.
pub const ADDRESS_TABLE_SIZE: u32 = 2 * MAX_ADDRESSES;

/// Marks of the ECN field (RFC 3168).
pub mod ecn {
    /// The transport does not know congestion marks.
    pub const NOT_ECT: u8 = 0;
    /// ECT(1).
    pub const ECT_1: u8 = 1;
    /// ECT(0).
    pub const ECT_0: u8 = 2;
    /// Congestion experienced.
    pub const CE: u8 = 3;
}

/// The mark of a packet whose outer header is taken off, from the marks of both headers. `None`: the
/// packet must be dropped (RFC 6040, section 4.2).
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
