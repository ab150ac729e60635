//! `nat`: sessions between clients and backends through a source address of the node.
//!
//! A session has two entries: one found by the client's packets, one by the backend's. Both are
//! first written to the table of **embryonic** sessions and moved to the table of sessions when the
//! client sends a second packet after the backend's answer: a flood of packets that nothing follows
//! only displaces others of its kind.
//!
//! Embryonic sessions are in an LRU hash map, as a [`NatFlow`] under its [`NatKey`]. Established ones are in
//! two arrays of **buckets** of eight cells, one for each direction, so that finding one costs one cache
//! miss instead of a helper call and five. What makes a packet of a million sessions dear is memory, so a cell is
//! small: a [`NatRecord`] says what a session is in half a cache line, and what the tables of members and of
//! NAT sources know is looked up there. The client's packets find a record, the backend's one with the way back
//! ([`NatReply`], a line). Each of them names its session in full, so both names are exact.
//!
//! A key has two buckets, and in the first a cell where it is looked for first; the next is its neighbour in
//! the same line, or pair of lines. The second bucket is used when the first is nearly full.
//!
//! Cells are given away by one CPU at a time (an entry of a hash map is the lock) and read by all at any
//! time, without a lock. So a cell is free from the moment that its [name](NatRecord::NAME) is 0, but is
//! given away again only [`REUSE_S`] later, when no packet can be on its way that has found it before.

use crate::{
    Address,
    hash::{self, HashKey},
    map_type,
    member::Member,
    proto,
    ring::MAX_MEMBERS,
    vip::MAX_VIPS,
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
    /// The key whose memory has these words.
    #[inline(always)]
    #[must_use]
    pub const fn from_words(address: Address, last_word: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = last_word.to_ne_bytes();
        Self {
            address,
            source_be: u16::from_ne_bytes([a, b]),
            dest_be: u16::from_ne_bytes([c, d]),
            scope: u16::from_ne_bytes([e, f]),
            protocol: u16::from_ne_bytes([g, h]),
        }
    }

    /// The last of the key's three words, as it is in memory.
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
    pub struct NatFlow [72] {
        /// New source address.
        pub source: Address,
        /// New destination address.
        pub dest: Address,
        /// New source port (packet order).
        pub source_be: u16,
        /// New destination port (packet order).
        pub dest_be: u16,
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
        /// the entry of the replies was last kept, in [`kept`] units, and 16 bits of a hash of the way that
        /// they came then.
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
    /// An established session, as both of its entries have it. A free cell has a name of 0.
    pub struct NatRecord [32] {
        /// The client.
        pub client: Address,
        /// The client's port (packet order).
        pub client_be: u16,
        /// Port of the VIP that the client's packets go to (packet order).
        pub vip_be: u16,
        /// VIP in bits 0–9, index of the node's address in 10–15.
        pub vip_and_source: u16,
        /// Port of the node's address (packet order).
        pub nat_port_be: u16,
        /// Member in bits 0–11, [`state`] bits of this direction in 12–15.
        pub member_and_state: u16,
        /// When a packet was last seen, seconds of [`crate::node::seconds`] modulo 2^16. In a cell that was
        /// freed: when.
        pub seen_s: u16,
        /// Generation of the member, modulo 2^8.
        pub generation: u8,
        /// Requests: when the entry of the replies was last kept ([`kept`]).
        pub kept: u8,
        /// Requests: hash of the way that the packets came then. Replies: the backend's port (packet order).
        pub way_or_port: u16,
    }
}

map_type! {
    /// What a backend's packet finds: a cache line.
    pub struct NatReply [64] {
        /// The session.
        pub session: NatRecord,
        /// Address of the VIP.
        pub vip: Address,
        /// As in [`NatFlow`].
        pub link: [u32; 3],
        /// As in [`NatFlow`].
        pub ifindex: u32,
    }
}

/// Bits of a VIP in [`NatRecord::vip_and_source`].
const VIP_BITS: u32 = 10;
/// Bits of a member in [`NatRecord::member_and_state`].
const MEMBER_BITS: u32 = 12;
/// Place of [`state::UDP`] there.
const UDP_SHIFT: u32 = MEMBER_BITS + state::UDP.trailing_zeros();
const _: () = assert!(MAX_VIPS == 1 << VIP_BITS && MAX_NAT_SOURCES == 1 << (16 - VIP_BITS));
const _: () = assert!(MAX_MEMBERS == 1 << MEMBER_BITS);

impl NatRecord {
    /// The word that, with the client's address, names a session: ports, VIP, address of the node. Written
    /// last; by its place in words.
    pub const NAME: usize = 2;

    /// The record of an entry.
    #[inline(always)]
    #[must_use]
    pub const fn new(key: &NatKey, flow: &NatFlow) -> Self {
        let is_reply = key.scope & REPLY != 0;
        let (client, client_be, vip_be) = if is_reply {
            (flow.dest, flow.dest_be, flow.source_be)
        } else {
            (key.address, key.source_be, key.dest_be)
        };
        let udp = if key.protocol == proto::UDP as u16 {
            state::UDP
        } else {
            0
        };
        Self {
            client,
            client_be,
            vip_be,
            vip_and_source: flow.vip | flow.nat_source << VIP_BITS,
            nat_port_be: flow.nat_port_be,
            member_and_state: flow.member | ((flow.state | udp) << MEMBER_BITS) as u16,
            seen_s: flow.seen_s as u16,
            generation: flow.generation as u8,
            kept: flow.link[0] as u8,
            way_or_port: if is_reply {
                key.source_be
            } else {
                flow.link[1] as u16
            },
        }
    }

    /// The word that names the session, as it is in memory.
    #[inline(always)]
    #[must_use]
    pub const fn name(&self) -> u64 {
        name_word(
            self.client_be,
            self.vip_be,
            self.vip_and_source,
            self.nat_port_be,
        )
    }

    /// VIP.
    #[inline(always)]
    #[must_use]
    pub const fn vip(&self) -> u16 {
        self.vip_and_source & ((1 << VIP_BITS) - 1)
    }

    /// Index of the node's address.
    #[inline(always)]
    #[must_use]
    pub const fn nat_source(&self) -> u16 {
        self.vip_and_source >> VIP_BITS
    }

    /// Member.
    #[inline(always)]
    #[must_use]
    pub const fn member(&self) -> u16 {
        self.member_and_state & ((1 << MEMBER_BITS) - 1)
    }

    /// [`state`] bits.
    #[inline(always)]
    #[must_use]
    pub const fn state(&self) -> u32 {
        self.member_and_state as u32 >> MEMBER_BITS
    }

    /// [`Self::member_and_state`] with more bits set.
    #[inline(always)]
    #[must_use]
    pub const fn with_state(&self, bits: u32) -> u16 {
        self.member_and_state | (bits << MEMBER_BITS) as u16
    }

    /// Whether a session whose name matches is of a client's packet with this key. Without branches, for the
    /// verifier, as what follows.
    #[inline(always)]
    #[must_use]
    pub const fn is_of(&self, key: &NatKey) -> bool {
        (self.client[0] ^ key.address[0]) | (self.client[1] ^ key.address[1]) == 0
    }

    /// Whether a reply's session whose name matches is of a backend's packet with this key; with the entry of
    /// the session's member.
    #[inline(always)]
    #[must_use]
    pub const fn is_answered_by(&self, member: &Member, key: &NatKey) -> bool {
        let udp = ((key.protocol == proto::UDP as u16) as u16) << UDP_SHIFT;
        let port = self.way_or_port ^ key.source_be;
        let protocol = (self.member_and_state ^ udp) & 1 << UDP_SHIFT;
        (member.address[0] ^ key.address[0])
            | (member.address[1] ^ key.address[1])
            | (port | protocol) as u64
            == 0
    }

    /// What is done with the client's packets, with the entry of the session's member and the node's address.
    #[inline(always)]
    #[must_use]
    pub const fn flow(&self, member: &Member, source: Address) -> NatFlow {
        NatFlow {
            source,
            dest: member.address,
            source_be: self.nat_port_be,
            dest_be: if member.port_be == 0 {
                self.vip_be
            } else {
                member.port_be
            },
            member: self.member(),
            vip: self.vip(),
            generation: self.generation as u32,
            seen_s: self.seen_s as u32,
            state: self.state() & !state::UDP,
            link: [self.kept as u32, self.way_or_port as u32, 0],
            ifindex: 0,
            nat_port_be: self.nat_port_be,
            nat_source: self.nat_source(),
        }
    }
}

impl NatReply {
    /// The cell of an entry.
    #[inline(always)]
    #[must_use]
    pub const fn new(key: &NatKey, flow: &NatFlow) -> Self {
        Self {
            session: NatRecord::new(key, flow),
            vip: flow.source,
            link: flow.link,
            ifindex: flow.ifindex,
        }
    }

    /// What is done with the backend's packets.
    #[inline(always)]
    #[must_use]
    pub const fn flow(&self) -> NatFlow {
        let session = &self.session;
        NatFlow {
            source: self.vip,
            dest: session.client,
            source_be: session.vip_be,
            dest_be: session.client_be,
            member: session.member(),
            vip: session.vip(),
            generation: session.generation as u32,
            seen_s: session.seen_s as u32,
            state: session.state() & !state::UDP,
            link: self.link,
            ifindex: self.ifindex,
            nat_port_be: session.nat_port_be,
            nat_source: session.nat_source(),
        }
    }
}

/// [`NatRecord::name`] of its parts.
#[inline(always)]
const fn name_word(client_be: u16, vip_be: u16, vip_and_source: u16, nat_port_be: u16) -> u64 {
    let [a, b] = client_be.to_ne_bytes();
    let [c, d] = vip_be.to_ne_bytes();
    let [e, f] = vip_and_source.to_ne_bytes();
    let [g, h] = nat_port_be.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// A word and which of its bits count.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    /// The bits that count.
    pub mask: u64,
    /// What they must be.
    pub bits: u64,
}

impl Pattern {
    /// What the name of a session must be to match the key of a client's packet (the client's address, too)
    /// or of a backend's ([`NatRecord::is_answered_by`], too).
    #[inline(always)]
    #[must_use]
    pub const fn of(key: &NatKey) -> Self {
        if key.scope & REPLY == 0 {
            Self {
                mask: name_word(u16::MAX, u16::MAX, (1 << VIP_BITS) - 1, 0),
                bits: name_word(key.source_be, key.dest_be, key.scope, 0),
            }
        } else {
            Self {
                mask: name_word(0, 0, u16::MAX << VIP_BITS, u16::MAX),
                // Without the bit of `REPLY`, which is shifted out.
                bits: name_word(0, 0, key.scope << VIP_BITS, key.dest_be),
            }
        }
    }

    /// Whether a word is so. 0 is a free cell.
    #[inline(always)]
    #[must_use]
    pub const fn matches(&self, word: u64) -> bool {
        word & self.mask == self.bits && word != 0
    }
}

/// When an entry of replies was kept: units of four seconds, modulo 2^8.
#[inline(always)]
#[must_use]
pub const fn kept(now_s: u32) -> u8 {
    (now_s >> 2) as u8
}

/// Cells of a bucket; a power of two.
pub const WAYS: usize = 8;

/// A bucket of the table of the client's packets.
pub type RequestBucket = [NatRecord; WAYS];

/// A bucket of the table of the backends' packets.
pub type ReplyBucket = [NatReply; WAYS];

/// The cell of a bucket that is looked at in this step: neighbours first.
#[inline(always)]
#[must_use]
pub const fn way(hash: u64, step: usize) -> usize {
    (hash as usize ^ step) & (WAYS - 1)
}

/// While the first bucket of a key has more free cells than this, a new entry goes there. Then it goes to
/// the one of the two that has more: with two thirds of all cells taken, one entry in seven is in its
/// second bucket, and fewer than one in a million find no place.
pub const ROOM: u32 = 3;

/// Buckets in which cells can be given away at a time: CPUs.
pub const MAX_LOCKS: u32 = 1024;

/// Seconds before a cell that was freed is given away: one may just be over.
pub const REUSE_S: u16 = 2;

/// When a bucket is full, a session that has been silent for this long makes room, seconds.
pub const REPLACE_IDLE_S: u16 = 60;

/// Buckets of each table for so many sessions: two thirds of the cells are taken when there are that many.
#[must_use]
pub const fn buckets_for(sessions: u32) -> u32 {
    (sessions as u64 * 3).div_ceil(2 * WAYS as u64) as u32
}

/// Seconds of the future in which another CPU, or the controller, may have stamped a cell.
const AHEAD_S: u16 = 256;

/// How long an entry has been silent, seconds; times wrap every 18 hours. One that is a little ahead of ours,
/// of another CPU, is now.
#[inline(always)]
#[must_use]
pub const fn silent_s(seen_s: u16, now_s: u32) -> u16 {
    let silent_s = (now_s as u16).wrapping_sub(seen_s);
    if silent_s > u16::MAX - AHEAD_S {
        0
    } else {
        silent_s
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
    /// In a [`super::NatRecord`]: UDP, not TCP.
    pub const UDP: u32 = 8;
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
