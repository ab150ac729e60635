//! `nat`: sessions between clients and backends through a source address of the node.
//!
//! A session has two entries: one found by the client's packets, one by the backend's. Both are
//! first written to the table of **embryonic** sessions and moved to the table of sessions when the
//! client sends a second packet after the backend's answer: a flood of packets that nothing follows
//! only displaces others of its kind.

use crate::{Address, map_type};

map_type! {
    /// Key of a session's entry.
    pub struct NatKey [24] {
        /// The sender: the client (`scope` of a VIP) or the backend (`scope` of a NAT source).
        pub address: Address,
        /// Source port of the packet (packet order).
        pub source_be: u16,
        /// Destination port of the packet (packet order).
        pub dest_be: u16,
        /// Index of the VIP, or of the NAT source with [`REPLY`] set.
        pub scope: u16,
        /// Protocol.
        pub protocol: u16,
    }
}

/// Bit of [`NatKey::scope`]: packets of the backend.
pub const REPLY: u16 = 0x8000;

map_type! {
    /// What is done with the packets that match.
    pub struct NatFlow [80] {
        /// New source address.
        pub source: Address,
        /// New destination address.
        pub dest: Address,
        /// New source port (packet order).
        pub source_be: u16,
        /// New destination port (packet order).
        pub dest_be: u16,
        /// What the rewriting adds to the IPv4 header's sum.
        pub header_delta: u32,
        /// What it adds to the sum of the TCP or UDP checksum.
        pub payload_delta: u32,
        /// Member.
        pub member: u16,
        /// VIP.
        pub vip: u16,
        /// Generation of the member.
        pub generation: u32,
        /// When a packet was last seen, seconds of [`crate::node::seconds`].
        pub seen_s: u32,
        /// [`state`] bits.
        pub state: u32,
        /// Replies: the link header of the client's packets, with the addresses swapped. Requests: in
        /// the first word, when the entry of the replies was last kept.
        pub link: [u32; 3],
        /// Replies: interface that the client's packets come in by.
        pub ifindex: u32,
        /// Port of the node's address that the session uses (packet order).
        pub nat_port_be: u16,
        /// Index of the node's address.
        pub nat_source: u16,
    }
}

/// Bits of [`NatFlow::state`]. Each direction's entry has the bits of the packets it saw.
pub mod state {
    /// A packet was seen in this direction after the first.
    pub const SEEN: u32 = 1;
    /// FIN seen.
    pub const FIN: u32 = 2;
    /// RST seen.
    pub const RST: u32 = 4;
}

map_type! {
    /// A source address of the node and the ports that sessions may use on it.
    pub struct NatSource [24] {
        /// The address.
        pub address: Address,
        /// First port (host order).
        pub first_port: u16,
        /// Number of ports; 0 in unused entries.
        pub ports: u16,
        /// Unused.
        pub _pad: u32,
    }
}

/// Source addresses that a node can have.
pub const MAX_NAT_SOURCES: u32 = 64;

/// Ports tried for a new session.
pub const PORT_TRIES: u32 = 32;

/// Default number of sessions.
pub const DEFAULT_SESSIONS: u32 = 65_536;

/// Default number of embryonic sessions.
pub const DEFAULT_EMBRYONIC: u32 = 16_384;
