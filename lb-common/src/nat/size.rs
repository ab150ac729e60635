//! Sizes of the tables of sessions, and bounds of the searches in them.

use super::{NatRecord, NatReply};

/// Cells per bucket; a power of two.
pub const WAYS: usize = 8;

/// Bucket of the table for the clients' packets.
pub type RequestBucket = [NatRecord; WAYS];

/// Bucket of the table for the backends' packets.
pub type ReplyBucket = [NatReply; WAYS];

/// Returns the cell to probe in this step: neighbours first.
#[inline(always)]
#[must_use]
pub const fn way(hash: u64, step: usize) -> usize {
    (hash as usize ^ step) & (WAYS - 1)
}

/// While the first bucket of a key has more free cells than this, a new entry goes there; otherwise
/// it goes to the bucket with more free cells. With two thirds of all cells in use, one entry in
/// seven is in its second bucket, and fewer than one in a million find no cell.
pub const FREE_CELLS_LOW: u32 = 3;

/// Buckets that can be locked at a time: at most one per CPU.
pub const MAX_LOCKS: u32 = 1024;

/// Seconds before a freed cell is reused; the current second may be about to end.
pub const REUSE_DELAY_S: u16 = 2;

/// Idle seconds after which a session may be evicted from a full bucket.
pub const REPLACE_IDLE_S: u16 = 60;

/// Buckets of each table for this number of sessions, filled to two thirds.
#[must_use]
pub const fn buckets_for(sessions: u32) -> u32 {
    (sessions as u64 * 3).div_ceil(2 * WAYS as u64) as u32
}

/// Ports tried for a new session.
pub const PORT_TRIES: u32 = 32;

/// Default number of sessions.
pub const DEFAULT_SESSIONS: u32 = 65_536;

/// Ports without an established session that are compared before the one whose embryonic session is
/// oldest is taken.
pub const EMBRYONIC_TRIES: u32 = 6;

/// Default number of embryonic sessions: 100,000 new flows per second are kept for more than a second.
pub const DEFAULT_EMBRYONIC: u32 = 131_072;

/// Buckets of the table of embryonic sessions, and of its index: a power of two.
#[must_use]
pub const fn embryonic_buckets(sessions: u32) -> u32 {
    sessions.div_ceil(WAYS as u32).next_power_of_two()
}
