//! `nat`: sessions between clients and backends through a source address of the node.
//!
//! A session has two entries: one for the client's packets, one for the backend's. Both start in
//! the table of **embryonic** sessions and move to the tables of established sessions when the
//! client sends a second packet after the backend's reply. A flood of packets that are never
//! followed up therefore displaces only other embryonic sessions.
//!
//! Embryonic sessions are [`NatReply`]s in an array of buckets by the key of the replies; the oldest of a
//! bucket is replaced. Clients' packets find them through an index ([`IndexWord`]). Established ones
//! are in two arrays of **buckets** of eight cells, one array per direction: a lookup costs one
//! cache miss instead of a helper call and five misses. With a million sessions memory access
//! dominates, so a cell is small. A [`NatRecord`] describes a session in half a cache line and
//! refers to the tables of members and NAT sources. The client's packets find a record; the
//! backend's packets find a [`NatReply`], a cache line that also holds the way back to the client.
//! Both identify the session exactly.
//!
//! A key maps to two buckets, and within a bucket to a first cell; the search continues with its
//! neighbours in the same cache lines. The second bucket is used when the first one is nearly full.
//!
//! One CPU at a time allocates a cell of a bucket (an entry of a hash map is the lock); all CPUs
//! read cells at any time without a lock. A cell is free once its [name](NatRecord::NAME) is 0, but
//! is reused only [`REUSE_DELAY_S`] seconds later, when no packet that found it before can still be in
//! flight.

mod index;
mod port;
mod size;
pub mod state;
mod tcp;

pub use index::IndexWord;
pub use port::PortChoice;
pub use size::{
    DEFAULT_EMBRYONIC, DEFAULT_SESSIONS, EMBRYONIC_TRIES, FREE_CELLS_LOW, MAX_LOCKS, PORT_TRIES,
    REPLACE_IDLE_S, REUSE_DELAY_S, ReplyBucket, RequestBucket, WAYS, buckets_for,
    embryonic_buckets, way,
};
pub use tcp::TcpState;

use crate::{
    Address,
    hash::{self, HashKey},
    map_type,
    member::Member,
    proto,
    ring::MAX_MEMBERS,
    track,
    vip::MAX_VIPS,
};

map_type! {
    /// Key of one entry of a session.
    pub struct NatKey [24] {
        /// Sender of the packet: the client (`scope` is a VIP) or the backend (`scope` is a NAT
        /// source).
        pub address: Address,
        /// Source port of the packet (packet order).
        pub source_be: u16,
        /// Destination port of the packet (packet order).
        pub dest_be: u16,
        /// Index of the VIP, or index of the NAT source with [`REPLY`] set.
        pub scope: u16,
        /// Protocol.
        pub protocol: u16,
    }
}

impl NatKey {
    /// Builds a key from the words of its memory.
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

    /// Returns the last of the key's three words, as it is in memory.
    #[inline(always)]
    #[must_use]
    pub const fn last_word(&self) -> u64 {
        let [a, b] = self.source_be.to_ne_bytes();
        let [c, d] = self.dest_be.to_ne_bytes();
        let [e, f] = self.scope.to_ne_bytes();
        let [g, h] = self.protocol.to_ne_bytes();
        u64::from_ne_bytes([a, b, c, d, e, f, g, h])
    }

    /// Whether the protocol is UDP.
    #[inline(always)]
    #[must_use]
    pub const fn is_udp(&self) -> bool {
        self.protocol == proto::UDP as u16
    }

    /// Hash of the key. Its halves select the two buckets, its lowest bits the first cell.
    ///
    /// The hash key is not secret: filling a bucket takes established sessions. The effect is that
    /// other sessions of that bucket stay embryonic, or evict one that was idle for [`REPLACE_IDLE_S`].
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

/// Returns the index of the bucket that a half of the hash selects.
#[inline(always)]
#[must_use]
pub const fn bucket_of(half: u32, buckets: u32) -> u32 {
    ((half as u64 * buckets as u64) >> 32) as u32
}

/// Bit of [`NatKey::scope`]: packets from the backend.
pub const REPLY: u16 = 0x8000;

map_type! {
    /// How matching packets are rewritten.
    pub struct NatFlow [72] {
        /// New source address.
        pub source: Address,
        /// New destination address.
        pub dest: Address,
        /// New source port (packet order).
        pub source_be: u16,
        /// New destination port (packet order).
        pub dest_be: u16,
        /// Member index.
        pub member: u16,
        /// VIP index.
        pub vip: u16,
        /// Generation of the member.
        pub generation: u32,
        /// When a packet was last seen, in [`crate::node::seconds`].
        pub seen_s: u32,
        /// [`state`] bits.
        pub state: u32,
        /// Replies: link header of the client's packets with the addresses swapped. Requests: when
        /// the reply entry was last refreshed ([`refresh_time`] units), and a 16-bit hash of the path that
        /// the client's packets took then.
        pub link: [u32; 3],
        /// Replies: interface that receives the client's packets.
        pub ifindex: u32,
        /// Port of the node's address that the session uses (packet order).
        pub nat_port_be: u16,
        /// Index of the [`NatSource`].
        pub nat_source: u16,
    }
}

map_type! {
    /// An established session, stored in both directions. The name of a free cell is 0.
    pub struct NatRecord [32] {
        /// Address of the client.
        pub client: Address,
        /// The client's port (packet order).
        pub client_be: u16,
        /// Destination port of the client's packets (packet order).
        pub vip_be: u16,
        /// VIP index in bits 0–9, index of the [`NatSource`] in bits 10–15.
        pub vip_and_source: u16,
        /// Port of the node's address (packet order).
        pub nat_port_be: u16,
        /// Member index in bits 0–11, [`state`] bits of this direction in bits 12–15.
        pub member_and_state: u16,
        /// When a packet was last seen, in [`crate::node::seconds`] modulo 2^16; in a freed cell,
        /// when it was freed.
        pub seen_s: u16,
        /// Generation of the member, modulo 2^8.
        pub generation: u8,
        /// Requests: when the reply entry was last refreshed ([`refresh_time`]).
        pub refreshed: u8,
        /// Requests: hash of the path that the client's packets took then. Replies: the backend's
        /// port (packet order).
        pub path_or_port: u16,
    }
}

map_type! {
    /// Cell that a backend's packet finds: one cache line.
    pub struct NatReply [64] {
        /// The session.
        pub session: NatRecord,
        /// State of the connection.
        pub tcp: TcpState,
        /// See [`NatFlow::link`].
        pub link: [u32; 3],
        /// See [`NatFlow::ifindex`].
        pub ifindex: u32,
    }
}

/// Bits of the VIP index in [`NatRecord::vip_and_source`].
const VIP_BITS: u32 = 10;
/// Bits of the member index in [`NatRecord::member_and_state`].
const MEMBER_BITS: u32 = 12;
/// Bit of [`state::UDP`] in [`NatRecord::member_and_state`].
const UDP_SHIFT: u32 = MEMBER_BITS + state::UDP.trailing_zeros();
const _: () = assert!(MAX_VIPS == 1 << VIP_BITS && MAX_NAT_SOURCES == 1 << (16 - VIP_BITS));
const _: () = assert!(MAX_MEMBERS == 1 << MEMBER_BITS);

impl NatRecord {
    /// Index of the word that identifies a session together with the client's address: ports, VIP,
    /// NAT source. It is written last.
    pub const NAME: usize = 2;

    /// Builds the record of an entry.
    #[inline(always)]
    #[must_use]
    pub const fn new(key: &NatKey, flow: &NatFlow) -> Self {
        let is_reply = key.scope & REPLY != 0;
        let (client, client_be, vip_be) = if is_reply {
            (flow.dest, flow.dest_be, flow.source_be)
        } else {
            (key.address, key.source_be, key.dest_be)
        };
        let udp = if key.is_udp() { state::UDP } else { 0 };
        Self {
            client,
            client_be,
            vip_be,
            vip_and_source: flow.vip | flow.nat_source << VIP_BITS,
            nat_port_be: flow.nat_port_be,
            member_and_state: flow.member | ((flow.state | udp) << MEMBER_BITS) as u16,
            seen_s: flow.seen_s as u16,
            generation: flow.generation as u8,
            refreshed: flow.link[0] as u8,
            path_or_port: if is_reply {
                key.source_be
            } else {
                flow.link[1] as u16
            },
        }
    }

    /// Returns the word that identifies the session, as it is in memory.
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

    /// Index of the VIP.
    #[inline(always)]
    #[must_use]
    pub const fn vip(&self) -> u16 {
        self.vip_and_source & ((1 << VIP_BITS) - 1)
    }

    /// Index of the [`NatSource`].
    #[inline(always)]
    #[must_use]
    pub const fn nat_source(&self) -> u16 {
        self.vip_and_source >> VIP_BITS
    }

    /// Index of the member.
    #[inline(always)]
    #[must_use]
    pub const fn member(&self) -> u16 {
        self.member_and_state & ((1 << MEMBER_BITS) - 1)
    }

    /// [`state`] bits of this direction.
    #[inline(always)]
    #[must_use]
    pub const fn state(&self) -> u32 {
        self.member_and_state as u32 >> MEMBER_BITS
    }

    /// Whether the session is UDP, not TCP.
    #[inline(always)]
    #[must_use]
    pub const fn is_udp(&self) -> bool {
        self.state() & state::UDP != 0
    }

    /// Returns [`Self::member_and_state`] with `bits` set.
    #[inline(always)]
    #[must_use]
    pub const fn with_state(&self, bits: u32) -> u16 {
        self.member_and_state | (bits << MEMBER_BITS) as u16
    }

    /// Returns [`Self::member_and_state`] with `bits` cleared.
    #[inline(always)]
    #[must_use]
    pub const fn without_state(&self, bits: u32) -> u16 {
        self.member_and_state & !((bits << MEMBER_BITS) as u16)
    }

    /// Whether the session, whose name matches, belongs to the client's packet with this key.
    /// Branch-free for the verifier, like [`Self::is_answered_by`].
    #[inline(always)]
    #[must_use]
    pub const fn is_of(&self, key: &NatKey) -> bool {
        (self.client[0] ^ key.address[0]) | (self.client[1] ^ key.address[1]) == 0
    }

    /// Whether the session of a reply, whose name matches, belongs to the backend's packet with
    /// this key. `member` is the session's member.
    #[inline(always)]
    #[must_use]
    pub const fn is_answered_by(&self, member: &Member, key: &NatKey) -> bool {
        let udp = (key.is_udp() as u16) << UDP_SHIFT;
        let port = self.path_or_port ^ key.source_be;
        let protocol = (self.member_and_state ^ udp) & 1 << UDP_SHIFT;
        (member.address[0] ^ key.address[0])
            | (member.address[1] ^ key.address[1])
            | (port | protocol) as u64
            == 0
    }

    /// Returns how the client's packets are rewritten, given the session's member and NAT source
    /// address.
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
            link: [self.refreshed as u32, self.path_or_port as u32, 0],
            ifindex: 0,
            nat_port_be: self.nat_port_be,
            nat_source: self.nat_source(),
        }
    }
}

impl NatReply {
    /// Builds the cell of an entry.
    #[inline(always)]
    #[must_use]
    pub const fn new(key: &NatKey, flow: &NatFlow) -> Self {
        Self {
            session: NatRecord::new(key, flow),
            tcp: TcpState {
                expected: 0,
                backend_next: 0,
                fin_end: 0,
                time: 0,
            },
            link: flow.link,
            ifindex: flow.ifindex,
        }
    }

    /// Returns how the backend's packets are rewritten, given the session's member.
    #[inline(always)]
    #[must_use]
    pub const fn flow(&self, member: &Member) -> NatFlow {
        let session = &self.session;
        NatFlow {
            source: member.source,
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

/// Builds [`NatRecord::name`] from its parts.
#[inline(always)]
const fn name_word(client_be: u16, vip_be: u16, vip_and_source: u16, nat_port_be: u16) -> u64 {
    let [a, b] = client_be.to_ne_bytes();
    let [c, d] = vip_be.to_ne_bytes();
    let [e, f] = vip_and_source.to_ne_bytes();
    let [g, h] = nat_port_be.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// A word and a mask of its significant bits.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    /// Mask of the significant bits.
    pub mask: u64,
    /// Value of the significant bits.
    pub bits: u64,
}

impl Pattern {
    /// Pattern of the session names that match the key of a client's packet (the client's address
    /// must match, too) or of a backend's packet ([`NatRecord::is_answered_by`] must hold, too).
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
                // The bit of `REPLY` is shifted out.
                bits: name_word(0, 0, key.scope << VIP_BITS, key.dest_be),
            }
        }
    }

    /// Whether a name matches. 0 is a free cell and never matches.
    #[inline(always)]
    #[must_use]
    pub const fn matches(&self, word: u64) -> bool {
        word & self.mask == self.bits && word != 0
    }
}

/// Time at which a reply entry was refreshed: units of four seconds, modulo 2^8.
#[inline(always)]
#[must_use]
pub const fn refresh_time(now_s: u32) -> u8 {
    (now_s >> 2) as u8
}

/// Seconds since an entry was last used, see [`track::idle_s`].
#[inline(always)]
#[must_use]
pub const fn idle_s(seen_s: u16, now_s: u32) -> u16 {
    track::idle_s(seen_s, now_s as u16)
}

map_type! {
    /// A source address of the node, and the ports that sessions may use.
    pub struct NatSource [24] {
        /// The address.
        pub address: Address,
        /// First port (host order).
        pub first_port: u16,
        /// Number of ports; 0 in unused entries.
        pub ports: u16,
        /// How many of the ports are drawn for one source of packets ([`PortChoice`]); 0: it may use all.
        pub draws: u32,
    }
}

/// Maximum number of source addresses of a node.
pub const MAX_NAT_SOURCES: u32 = 64;
