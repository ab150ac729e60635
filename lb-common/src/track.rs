//! The tracking table: which member has a flow that the ring alone can't tell.
//!
//! A set-associative table in an array: a **bucket** is sixteen **cells** in two neighbouring cache lines, a
//! cell is one 64-bit word, so that it is read and written in one step and a lookup is a load instead of a
//! helper call. A cell knows its flow by 32 bits of the hash besides those that choose the bucket.
//!
//! A flow is in the line that its hash chooses, unless that was full: so nearly all are found in the first
//! line that is read, and the other is in the same page. With half of the cells taken, one flow in 1,300
//! finds no place; with a line for a bucket it was one in a hundred.
//!
//! A cell starts **unconfirmed** and is confirmed by a second packet of its flow. A new cell takes
//! the place of the oldest unconfirmed one, and of a confirmed one only when that has been idle: a
//! flood of packets that are never followed by another can't push an established flow out.

use crate::ring::{MAX_MEMBERS, MemberIndex};

/// Cells of a bucket: two cache lines.
pub const WAYS: usize = 16;

/// A bucket.
pub type Bucket = [u64; WAYS];

/// A confirmed cell may be replaced when its flow has been silent for this long, seconds.
pub const REPLACE_IDLE_S: u16 = 60;

/// Default number of buckets; a power of two. 8 MiB, 1,048,576 cells.
pub const DEFAULT_BUCKETS: u32 = 65_536;

/// Where a flow is kept, and how its cell is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Bucket, before it is reduced to the table's size.
    pub bucket: u32,
    /// The tag of the cell.
    pub tag: u32,
}

impl Place {
    /// The cell of the bucket to look at in this step: first those of the line where it begins. Each flow
    /// begins elsewhere, so that most are found where they are looked for first, which is what the
    /// processor learns to expect.
    #[inline(always)]
    #[must_use]
    pub const fn way(self, step: usize) -> usize {
        (self.bucket >> (u32::BITS - WAYS.trailing_zeros())) as usize ^ step
    }

    /// Place of the flow with this hash (of the whole flow, also under source affinity).
    ///
    /// The hash is mixed once more: flows of one slot have the upper bits in common.
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

/// A cell, unpacked. Packed: tag in bits 32–63, confirmed in bit 31, closed in bit 30, member in 16–29,
/// time in 0–15.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Tag of the flow.
    pub tag: u32,
    /// The member that has the flow.
    pub member: MemberIndex,
    /// Whether a second packet of the flow was seen.
    pub confirmed: bool,
    /// Whether the client has closed the flow, as far as is known: the next SYN opens another one.
    pub closed: bool,
    /// When the flow was last seen: seconds of [`crate::node::seconds`], modulo 2^16.
    pub seen_s: u16,
}

/// A free cell. No flow packs to it: the tag 0 with member 0, unconfirmed, at second 0 is written
/// at second 1.
pub const FREE: u64 = 0;

/// The bits of a member's index.
const MEMBER_MASK: MemberIndex = 0x3fff;
const _: () = assert!(MAX_MEMBERS <= MEMBER_MASK as u32 + 1);

impl Cell {
    /// The word of the table.
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

    /// Reads a word of the table; meaningless for [`FREE`].
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

/// Seconds of the future in which another CPU, or the controller, may have stamped a cell.
const AHEAD_S: u16 = 256;

/// How long a flow has been silent, seconds. Times wrap every 18 hours; one that is a little ahead of
/// `now_s` is of another CPU that has seen the next second.
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

/// How readily a cell gives its place to a new flow; 0: not at all.
#[inline(always)]
#[must_use]
pub const fn yields(word: u64, now_s: u16) -> u32 {
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
