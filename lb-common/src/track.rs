//! The tracking table: the member of each flow that the ring alone cannot determine.
//!
//! A set-associative table in an array. A **bucket** has sixteen **cells** in two adjacent cache
//! lines. A cell is one 64-bit word, so it is read and written atomically, and a lookup is a load
//! instead of a helper call. A cell identifies its flow by 32 bits of the hash, in addition to
//! those that select the bucket.
//!
//! A flow is stored in the cache line that its hash selects unless that line was full, so nearly
//! all flows are found in the first line read; the other line is on the same page. With half of the
//! cells in use, one flow in 1,300 finds no cell; with one line per bucket it was one in a hundred.
//!
//! A new cell is **unconfirmed** until a second packet of its flow arrives. A cell is **redundant**
//! while a lookup that does not find it selects the same member: evicting it moves no flow. That is
//! the case for most flows of a VIP that always tracks, which anyone can create with two datagrams.
//! So a flow that depends on its cell takes the place of a redundant one, and never the other way
//! round. Within each kind, cells are taken from the VIP that has most cells in the bucket, and
//! active confirmed cells are kept: see [`Newcomer::eviction_rank`].

use core::hint::black_box;

use crate::ring::{MAX_MEMBERS, MemberIndex};

/// Cells per bucket: two cache lines.
pub const WAYS: usize = 16;

/// A bucket.
pub type Bucket = [u64; WAYS];

/// Idle seconds after which a confirmed cell may be replaced.
pub const REPLACE_IDLE_S: u16 = 60;

/// Seconds that a flow has for its second packet: the handshake of a client far away.
pub const REPLACE_UNCONFIRMED_S: u16 = 3;

/// Default number of buckets, a power of two: 8 MiB, 1,048,576 cells.
pub const DEFAULT_BUCKETS: u32 = 65_536;

/// Bucket and tag of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Bucket, not yet reduced to the table's size.
    pub bucket: u32,
    /// Tag of the cell.
    pub tag: u32,
}

impl Place {
    /// Returns the cell to probe in this step; the cells of the first cache line come first. Each
    /// flow starts at a different cell, so most are found at the first probe, which branch
    /// prediction learns.
    #[inline(always)]
    #[must_use]
    pub const fn way(self, step: usize) -> usize {
        (self.bucket >> (u32::BITS - WAYS.trailing_zeros())) as usize ^ step
    }

    /// Returns the place of the flow with this hash (of the whole flow, also under source
    /// affinity).
    ///
    /// The hash is mixed once more because flows of one slot share its upper bits.
    #[inline(always)]
    #[must_use]
    pub const fn of(flow_hash: u64) -> Self {
        let x = flow_hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
        let x = x ^ (x >> 32);
        Self {
            bucket: x as u32,
            tag: (x >> 32) as u32,
        }
    }
}

/// A cell, unpacked. Packed: tag in bits 32–63, confirmed in bit 31, closed in bit 30, redundant in
/// bit 29, unproven in bit 28, member index in bits 16–27, time in bits 0–15.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Tag of the flow.
    pub tag: u32,
    /// Member of the flow.
    pub member: MemberIndex,
    /// Whether a second packet of the flow was seen.
    pub confirmed: bool,
    /// Whether the client has closed the flow: the next SYN starts a new one.
    pub closed: bool,
    /// Whether, at its last packet of another second, a lookup without this cell would have selected
    /// the same member.
    pub redundant: bool,
    /// Whether the next packet has to prove that it belongs to the SYN that is noted for the flow
    /// ([`crate::bound::SynNote`]). Unless confirmed: the SYN was spilled to the member; `closed` then says
    /// that other packets were seen, too. If confirmed: the member's connection is closed, and the SYN
    /// began one with the member of the slot.
    pub unproven: bool,
    /// When the flow was last seen, in [`crate::node::seconds`] modulo 2^16.
    pub seen_s: u16,
}

/// A free cell. No flow packs to it: tag 0 with member 0, unconfirmed, at second 0 is stored as
/// second 1.
pub const FREE: u64 = 0;

/// Mask of the member index.
const MEMBER_MASK: MemberIndex = 0x0fff;
const _: () = assert!(MAX_MEMBERS <= MEMBER_MASK as u32 + 1);

impl Cell {
    /// Packs the cell into a word of the table.
    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> u64 {
        let word = (self.tag as u64) << 32
            | (self.confirmed as u64) << 31
            | (self.closed as u64) << 30
            | (self.redundant as u64) << 29
            | (self.unproven as u64) << 28
            | (self.member as u64) << 16
            | self.seen_s as u64;
        if word == FREE { 1 } else { word }
    }

    /// Unpacks a word of the table. Meaningless for [`FREE`].
    #[inline(always)]
    #[must_use]
    pub const fn unpack(word: u64) -> Self {
        Self {
            tag: (word >> 32) as u32,
            member: (word >> 16) as u16 & MEMBER_MASK,
            confirmed: word >> 31 & 1 == 1,
            closed: word >> 30 & 1 == 1,
            redundant: word >> 29 & 1 == 1,
            unproven: word >> 28 & 1 == 1,
            seen_s: word as u16,
        }
    }
}

/// Whether a spilled flow may have a cell: it takes none from a flow that needs it. Those of ended flows
/// stay until the controller frees them, or another flow takes them.
#[inline(always)]
#[must_use]
pub const fn is_spare(word: u64, now_s: u16) -> bool {
    let cell = Cell::unpack(word);
    let idle_s = idle_s(cell.seen_s, now_s);
    let ended = if cell.confirmed {
        cell.closed && idle_s >= REPLACE_IDLE_S
    } else {
        idle_s >= REPLACE_UNCONFIRMED_S
    };
    word == FREE || ended
}

/// Seconds by which the time stamp of another CPU or the controller may be ahead.
const AHEAD_S: u16 = 256;

/// Seconds since a flow was last seen. Time stamps wrap every 18 hours; one that is slightly ahead
/// of `now_s` comes from another CPU.
#[inline(always)]
#[must_use]
pub const fn idle_s(seen_s: u16, now_s: u16) -> u16 {
    let idle_s = now_s.wrapping_sub(seen_s);
    if idle_s > u16::MAX - AHEAD_S {
        0
    } else {
        idle_s
    }
}

/// Numbers of cells in a bucket by VIP. Counts of different VIPs are mixed up with a probability of one in
/// eight, which depends on `salt`: another one for each flow and second.
#[derive(Clone, Copy, Debug)]
struct Shares {
    /// Eight counts of eight bits.
    counts: u64,
    salt: u32,
}

impl Shares {
    /// No cells.
    #[inline(always)]
    const fn new(tag: u32, now_s: u16) -> Self {
        let salt = tag.wrapping_add((now_s as u32).wrapping_mul(0x9e37_79b9)) | 1;
        Self { counts: 0, salt }
    }

    #[inline(always)]
    const fn shift(self, vip: u16) -> u32 {
        (vip as u32).wrapping_mul(self.salt) >> 10 & 0x38
    }

    /// Counts a cell of a VIP.
    #[inline(always)]
    const fn with(self, vip: u16) -> Self {
        Self {
            counts: self.counts + (1 << self.shift(vip)),
            ..self
        }
    }

    /// Number of cells of a VIP.
    #[inline(always)]
    const fn of(self, vip: u16) -> u32 {
        (self.counts >> self.shift(vip)) as u32 & 0xff
    }
}

/// A flow that gets a cell.
#[derive(Clone, Copy, Debug)]
pub struct Newcomer {
    /// Its place.
    pub place: Place,
    /// Index of its VIP.
    pub vip: u16,
    /// Whether the ring alone will give its next packets the same member.
    pub redundant: bool,
    /// As in [`Cell::seen_s`].
    pub now_s: u16,
}

impl Newcomer {
    /// Returns the cell of the bucket that this flow gets: a free one, else the one with the
    /// highest [`Self::eviction_rank`]. `None`: there is no room.
    #[inline(always)]
    pub fn way(
        &self,
        load: impl Fn(usize) -> u64,
        vip_of: impl Fn(MemberIndex) -> u16,
    ) -> Option<usize> {
        for step in 0..WAYS {
            let way = self.place.way(step);
            if load(way) == FREE {
                return Some(way);
            }
        }
        let vip_of = |word| vip_of(Cell::unpack(word).member);
        let mut shares = Shares::new(self.place.tag, self.now_s);
        for way in 0..WAYS {
            shares = shares.with(vip_of(load(way)));
        }
        let own = shares.of(self.vip);
        let (mut best, mut best_way) = (0, self.place.way(0));
        for step in 0..WAYS {
            let way = self.place.way(step);
            let word = load(way);
            let rank = self.eviction_rank(word, shares.of(vip_of(word)), own);
            // Of a rank with known bits, the verifier would decide the comparison, and then follow
            // each combination of decisions to the end.
            let unknown = word as u32;
            let rank = black_box(rank ^ unknown) ^ unknown;
            if rank > best {
                (best, best_way) = (rank, way);
            }
        }
        if best > 0 { Some(best_way) } else { None }
    }

    /// Eviction rank of a cell: the highest is replaced first, 0 is not replaced by this flow.
    /// `share` and `own` are the numbers of cells in the bucket of the cell's VIP and the flow's.
    ///
    /// | cell | replaced by a redundant flow | by another |
    /// | --- | --- | --- |
    /// | free | yes | yes |
    /// | redundant, unconfirmed or idle for [`REPLACE_IDLE_S`] | yes | yes |
    /// | redundant, confirmed and active | if its VIP has more cells | yes |
    /// | unconfirmed | no | after [`REPLACE_UNCONFIRMED_S`] |
    /// | confirmed | no | if idle, and its VIP has no fewer cells |
    #[inline(always)]
    #[must_use]
    pub const fn eviction_rank(&self, word: u64, share: u32, own: u32) -> u32 {
        if word == FREE {
            return u32::MAX;
        }
        let cell = Cell::unpack(word);
        let idle_s = idle_s(cell.seen_s, self.now_s);
        let is_idle = idle_s >= REPLACE_IDLE_S;
        let class = if cell.redundant {
            if !self.redundant || !cell.confirmed || is_idle {
                2
            } else {
                (share > own + 1) as u32
            }
        } else if self.redundant {
            0
        } else if cell.confirmed {
            (is_idle && share >= own) as u32
        } else {
            (idle_s >= REPLACE_UNCONFIRMED_S) as u32
        };
        if class == 0 {
            return 0;
        }
        class << 24 | share << 17 | (!cell.confirmed as u32) << 16 | idle_s as u32
    }
}
