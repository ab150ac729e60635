//! Fragments. Only the first fragment has ports; later ones are matched by the identification of
//! the datagram.

use crate::{Address, map_type, nat::NatKey};

map_type! {
    /// Identifies the fragments of one datagram (RFC 791, RFC 8200 §4.5).
    pub struct FragmentKey [40] {
        /// Source address.
        pub source: Address,
        /// Destination address.
        pub dest: Address,
        /// Identification (packet order); 16 bits for IPv4.
        pub id: u32,
        /// Protocol for IPv4; 0 for IPv6.
        pub protocol: u8,
        /// Address family, see [`crate::family`].
        pub family: u8,
        /// Padding.
        pub _pad: u16,
    }
}

map_type! {
    /// Where the first fragment was sent.
    pub struct FragmentTarget [40] {
        /// Hash of the flow. For `nat`: identification that the datagram is sent with (packet order).
        pub flow_hash: u64,
        /// Key of the session, for `nat`.
        pub nat: NatKey,
        /// VIP index, or [`PASSED`].
        pub vip: u16,
        /// Member index.
        pub member: u16,
        /// When the first fragment was seen, in [`crate::node::seconds`].
        pub seen_s: u32,
    }
}

/// [`FragmentTarget::vip`] of a datagram that matches no VIP: all its fragments are passed.
pub const PASSED: u16 = 0xffff;

/// Seconds after the first fragment from which on later fragments are dropped (RFC 8200 §4.5: 60).
pub const LIFETIME_S: u32 = 60;

/// Maximum number of datagrams followed at a time.
pub const MAX_DATAGRAMS: u32 = 4096;
