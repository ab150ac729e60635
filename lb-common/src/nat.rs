//! `nat`: sessions between clients and backends through a source address of the node.
//!
//! A session has two entries: one found by the client's packets, one by the backend's. Both are
//! first written to the table of **embryonic** sessions and moved to the table of sessions when the
//! client sends a second packet after the backend's answer: a flood of packets that nothing follows
//! only displaces others of its kind.
//!
//! Embryonic sessions are in an LRU hash map. The table of sessions is an array of **buckets** of eight
//! [`NatCell`]s, so that finding one costs one cache miss instead of a helper call and five: a key has two
//! buckets, and in the first a cell where it is looked for first. The second is used when the first is
//! nearly full.
//!
//! Cells are given away by one CPU at a time (an entry of a hash map is the lock) and read by all at any
//! time, without a lock. So a cell is free from the moment that the last word of its key is 0, but is
//! given away again only [`REUSE_S`] later, when no packet can be on its way that has found it before.

use crate::{
    Address,
    hash::{self, HashKey},
    map_type,
};

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

impl NatKey {
    /// The last of the key's three words, as it is in memory. Never 0 in a key: it has the protocol.
    #[inline(always)]
    #[must_use]
    pub const fn last_word(&self) -> u64 {
        let [a, b] = self.source_be.to_ne_bytes();
        let [c, d] = self.dest_be.to_ne_bytes();
        let [e, f] = self.scope.to_ne_bytes();
        let [g, h] = self.protocol.to_ne_bytes();
        u64::from_ne_bytes([a, b, c, d, e, f, g, h])
    }

    /// Hash of the key. Its halves choose the two buckets, its lowest bits the cell to look at first.
    ///
    /// Not secret: who wants to fill a bucket must establish the sessions, and all that he gains is that
    /// others in it stay embryonic.
    #[inline(always)]
    #[must_use]
    pub const fn hash(&self) -> u64 {
        const KEY: HashKey = HashKey {
            k0: 0x2d35_8dcc_aa6c_78a5,
            k1: 0x8bb8_4b93_962e_acc9,
            k2: 0x4b33_a62e_d433_d4a3,
            k3: 0x4d5a_2da5_1de1_aa47,
        };
        hash::hash_words(&KEY, self.address[0], self.address[1], self.last_word())
    }
}

/// Number of the bucket that a half of a hash chooses.
#[inline(always)]
#[must_use]
pub const fn bucket_of(half: u32, buckets: u32) -> u32 {
    ((half as u64 * buckets as u64) >> 32) as u32
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
        /// Replies: the link header of the client's packets, with the addresses swapped. Requests: when
        /// the entry of the replies was last kept, and a hash of the link header then.
        pub link: [u32; 3],
        /// Replies: interface that the client's packets come in by.
        pub ifindex: u32,
        /// Port of the node's address that the session uses (packet order).
        pub nat_port_be: u16,
        /// Index of the node's address.
        pub nat_source: u16,
    }
}

map_type! {
    /// A cell of the table of sessions: two cache lines, the first of which has the key.
    pub struct NatCell [128] {
        /// Key of the entry. Written last; its last word 0: the cell is free.
        pub key: NatKey,
        /// The entry. In a cell that was freed, `seen_s` is when.
        pub flow: NatFlow,
        /// Unused.
        pub _pad: [u64; 3],
    }
}

/// Cells of a bucket; a power of two.
pub const WAYS: usize = 8;

/// A bucket of the table of sessions.
pub type NatBucket = [NatCell; WAYS];

/// While the first bucket of a key has more free cells than this, a new entry goes there. Then it goes to
/// the one of the two that has more: with two thirds of all cells taken, one entry in seven is in its
/// second bucket, and fewer than one in a million find no place.
pub const ROOM: u32 = 3;

/// Buckets in which cells can be given away at a time: CPUs.
pub const MAX_LOCKS: u32 = 1024;

/// Seconds before a cell that was freed is given away: one may just be over.
pub const REUSE_S: u32 = 2;

/// When a bucket is full, a session that has been silent for this long makes room, seconds.
pub const REPLACE_IDLE_S: u32 = 60;

/// Buckets for so many sessions: two thirds of the cells are taken when there are that many.
#[must_use]
pub const fn buckets_for(sessions: u32) -> u32 {
    (sessions as u64 * 3).div_ceil(WAYS as u64) as u32
}

/// How long an entry has been silent, seconds. A time ahead of ours, of another CPU, is now.
#[inline(always)]
#[must_use]
pub const fn silent_s(seen_s: u32, now_s: u32) -> u32 {
    let silent_s = now_s.wrapping_sub(seen_s);
    if silent_s > u32::MAX / 2 { 0 } else { silent_s }
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
