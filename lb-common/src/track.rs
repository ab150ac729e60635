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
//! A new cell is **unconfirmed** until a second packet of its flow arrives. A new flow replaces the
//! oldest unconfirmed cell, and a confirmed one only if that has been idle: a flood of single
//! packets cannot evict an established flow.

use crate::ring::{MAX_MEMBERS, MemberIndex};

/// Cells per bucket: two cache lines.
pub const WAYS: usize = 16;

/// A bucket.
pub type Bucket = [u64; WAYS];

/// Idle seconds after which a confirmed cell may be replaced.
pub const REPLACE_IDLE_S: u16 = 60;

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

/// A cell, unpacked. Packed: tag in bits 32–63, confirmed in bit 31, closed in bit 30, member index
/// in bits 16–29, time in bits 0–15.
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
    /// When the flow was last seen, in [`crate::node::seconds`] modulo 2^16.
    pub seen_s: u16,
}

/// A free cell. No flow packs to it: tag 0 with member 0, unconfirmed, at second 0 is stored as
/// second 1.
pub const FREE: u64 = 0;

/// Mask of the member index.
const MEMBER_MASK: MemberIndex = 0x3fff;
const _: () = assert!(MAX_MEMBERS <= MEMBER_MASK as u32 + 1);

impl Cell {
    /// Packs the cell into a word of the table.
    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> u64 {
        let word = (self.tag as u64) << 32
            | (self.confirmed as u64) << 31
            | (self.closed as u64) << 30
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
            seen_s: word as u16,
        }
    }
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

/// Eviction rank of a cell: the highest is replaced first, 0 is never replaced.
#[inline(always)]
#[must_use]
pub const fn eviction_rank(word: u64, now_s: u16) -> u32 {
    if word == FREE {
        return u32::MAX;
    }
    let cell = Cell::unpack(word);
    let idle_s = idle_s(cell.seen_s, now_s);
    if !cell.confirmed {
        0x1_0000 + idle_s as u32
    } else if idle_s >= REPLACE_IDLE_S {
        idle_s as u32
    } else {
        0
    }
}
