//! Fragments: only the first has ports; the later ones follow it by the datagram's identification.

use crate::{Address, map_type, nat::NatKey};

map_type! {
    /// What the fragments of one datagram have in common (RFC 791, RFC 8200 §4.5).
    pub struct FragmentKey [40] {
        /// Source address.
        pub source: Address,
        /// Destination address.
        pub dest: Address,
        /// Identification (packet order); IPv4 has 16 bits of it.
        pub id: u32,
        /// Protocol (IPv4); 0 for IPv6.
        pub protocol: u8,
        /// Family.
        pub family: u8,
        /// Unused.
        pub _pad: u16,
    }
}

map_type! {
    /// Where the first fragment went.
    pub struct FragmentTarget [40] {
        /// Hash of the flow.
        pub flow_hash: u64,
        /// Session, for `nat`.
        pub nat: NatKey,
        /// VIP, or [`PASSED`].
        pub vip: u16,
        /// Member.
        pub member: u16,
        /// When the first fragment was seen, seconds.
        pub seen_s: u32,
    }
}

/// [`FragmentTarget::vip`] of a datagram that is for no VIP: all of it is passed.
pub const PASSED: u16 = 0xffff;

/// Later fragments are dropped when the first is older than this, seconds (RFC 8200 §4.5: 60).
pub const LIFETIME_S: u32 = 60;

/// Datagrams followed at a time.
pub const MAX_DATAGRAMS: u32 = 4096;
