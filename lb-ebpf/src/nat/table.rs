//! The tables of sessions: buckets of cells, see [`lb_common::nat`].
//!
//! Established sessions have one table for the clients' packets and one for the backends';
//! embryonic ones have one table, whose policy is in [`super::embryonic`]. Every cell starts with a
//! [`NatRecord`], which is all that most functions need.

use core::hint::black_box;

use aya_ebpf::bindings::BPF_NOEXIST;
use lb_common::{
    member::Member,
    nat::{
        FREE_CELLS_LOW, NatKey, NatRecord, NatReply, Pattern, REPLACE_IDLE_S, REUSE_DELAY_S, WAYS,
        bucket_of, idle_s, way,
    },
};

use crate::{
    clock,
    maps::{NAT_BUCKETS, NAT_LOCKS, NAT_NEW, NAT_NEW_MASK, NAT_REPLIES, NAT_REQUESTS, below},
    scratch::{Session, scratch},
    tables,
};

/// Table of the clients' packets of established sessions.
const REQUESTS: u8 = 0;
/// Table of the backends' packets of established sessions.
const REPLIES: u8 = 1;
/// Table of embryonic sessions.
pub(super) const NEW: u8 = 2;

/// Finds the session of a client's packet.
#[inline(always)]
pub(super) fn find_request(key: &NatKey) -> Option<*mut NatRecord> {
    find::<REQUESTS>(key)
}

/// Finds the session of a backend's packet.
#[inline(always)]
pub(super) fn find_reply(key: &NatKey) -> Option<*mut NatReply> {
    find::<REPLIES>(key).map(<*mut NatRecord>::cast)
}

/// Like [`find_request`], for rare cases: the search is a global function that the verifier checks
/// once.
#[inline(always)]
pub(super) fn find_request_outlined(key: &NatKey) -> Option<*mut NatRecord> {
    let [high, low] = key.address;
    at_place::<REQUESTS>(black_box(place_of_request(high, low, key.last_word())))
}

/// Like [`find_reply`], for rare cases.
#[inline(always)]
pub(super) fn find_reply_outlined(key: &NatKey) -> Option<*mut NatReply> {
    let [high, low] = key.address;
    let place = black_box(place_of_reply(high, low, key.last_word()));
    at_place::<REPLIES>(place).map(<*mut NatRecord>::cast)
}

/// Returns the number of the cell of a client's packet, from 1; 0 if there is none. Takes the words
/// of the key.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn place_of_request(high: u64, low: u64, last_word: u64) -> u32 {
    place_of::<REQUESTS>(&NatKey::from_words([high, low], last_word))
}

/// Returns the number of the cell of a backend's packet, from 1; 0 if there is none. Takes the
/// words of the key.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn place_of_reply(high: u64, low: u64, last_word: u64) -> u32 {
    place_of::<REPLIES>(&NatKey::from_words([high, low], last_word))
}

/// Like [`find`], but its loops are not unrolled: that leaves more stack to the callers.
#[inline(always)]
pub(super) fn place_of<const TABLE: u8>(key: &NatKey) -> u32 {
    let hash = key.hash();
    let search = Search::new::<TABLE>(key);
    for (number, half) in bucket_words(hash).into_iter().enumerate() {
        if TABLE == NEW && number > 0 {
            break;
        }
        let index = bucket_index::<TABLE>(half);
        let Some(bucket) = bucket::<TABLE>(index) else {
            return 0;
        };
        let mut step = black_box(0);
        while step < WAYS {
            let way = way(hash, step);
            if search.matches::<TABLE>(cell::<TABLE>(bucket, way)) {
                return index * WAYS as u32 + way as u32 + 1;
            }
            step += 1;
        }
    }
    0
}

/// Returns the cell with this number.
#[inline(always)]
pub(super) fn at_place<const TABLE: u8>(place: u32) -> Option<*mut NatRecord> {
    if place == 0 {
        return None;
    }
    let place = place - 1;
    let bucket = bucket::<TABLE>(place / WAYS as u32)?;
    Some(cell::<TABLE>(bucket, place as usize))
}

#[inline(always)]
fn find<const TABLE: u8>(key: &NatKey) -> Option<*mut NatRecord> {
    let hash = key.hash();
    let search = Search::new::<TABLE>(key);
    for half in bucket_words(hash) {
        let bucket = bucket::<TABLE>(bucket_index::<TABLE>(half))?;
        for step in 0..WAYS {
            let cell = cell::<TABLE>(bucket, way(hash, step));
            if search.matches::<TABLE>(cell) {
                return Some(cell);
            }
        }
    }
    None
}

/// A search for a key.
pub(super) struct Search<'a> {
    key: &'a NatKey,
    pattern: Pattern,
    /// The table of members, for replies.
    members: *const Member,
}

impl<'a> Search<'a> {
    #[inline(always)]
    pub(super) fn new<const TABLE: u8>(key: &'a NatKey) -> Self {
        Self {
            key,
            pattern: Pattern::of(key),
            members: if TABLE != REQUESTS {
                tables::member(0)
            } else {
                core::ptr::null()
            },
        }
    }

    /// Whether a cell matches.
    #[inline(always)]
    pub(super) fn matches<const TABLE: u8>(&self, cell: *mut NatRecord) -> bool {
        if !self.pattern.matches(name(cell)) {
            return false;
        }
        // SAFETY: a cell of a mapped array, whose name was read first.
        let session = unsafe { &*cell };
        if TABLE != REQUESTS {
            // SAFETY: in bounds: the table has an entry for every possible index. The fields read
            // are constant while a session refers to the member.
            let member = unsafe { &*self.members.add(usize::from(session.member())) };
            session.is_answered_by(member, self.key)
        } else {
            session.is_of(self.key)
        }
    }
}

/// Frees the cell of a session for the client's packets: one, or two if two CPUs have inserted it.
#[inline(always)]
pub(super) fn remove_request(key: &NatKey) {
    for _ in 0..2 {
        if let Some(cell) = find_request_outlined(key) {
            free(cell, clock::now_s() as u32);
        }
    }
}

/// Frees the cell of a session for the backend's packets, likewise.
#[inline(always)]
pub(super) fn remove_reply(key: &NatKey) {
    for _ in 0..2 {
        if let Some(cell) = find_reply_outlined(key) {
            free(cell.cast(), clock::now_s() as u32);
        }
    }
}

/// Inserts the request entry of the session in the scratch unless it exists. Returns whether it
/// exists then.
///
/// If both buckets are full, evicts a session that has been idle for long, of the VIP that has most of
/// the bucket; its cell can be used later.
#[inline(always)]
pub(super) fn insert_request(session: &Session) -> bool {
    find_request_outlined(&session.request_key).is_some() || insert_or_evict(0)
}

/// Inserts the reply entry of the session in the scratch, likewise.
#[inline(always)]
pub(super) fn insert_reply(session: &Session) -> bool {
    find_reply_outlined(&session.reply_key).is_some() || insert_or_evict(1)
}

/// Two functions, one after the other: Linux 5.10 would add up their stacks, and refuse them, if one called
/// the other.
#[inline(always)]
fn insert_or_evict(is_reply: u32) -> bool {
    let outcome = black_box(insert_session(is_reply));
    if outcome == FULL {
        black_box(evict_session(is_reply));
    }
    outcome == INSERTED
}

/// Results of [`insert_session`]: try again; done; both buckets are full.
const LOCKED: u32 = 0;
const INSERTED: u32 = 1;
const FULL: u32 = 2;

/// Inserts the request (0) or the reply (1) entry of the session in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn insert_session(is_reply: u32) -> u32 {
    let Some(scratch) = scratch() else {
        return LOCKED;
    };
    let session = &scratch.session;
    if is_reply == 0 {
        insert::<REQUESTS>(session, &session.request_key)
    } else {
        insert::<REPLIES>(session, &session.reply_key)
    }
}

/// Makes room for the request (0) or the reply (1) entry of the session in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn evict_session(is_reply: u32) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let session = &scratch.session;
    let vip = session.request.vip;
    if is_reply == 0 {
        evict_idle::<REQUESTS>(session.request_key.hash(), vip);
    } else {
        evict_idle::<REPLIES>(session.reply_key.hash(), vip);
    }
    0
}

#[inline(always)]
fn insert<const TABLE: u8>(session: &Session, key: &NatKey) -> u32 {
    let hash = key.hash();
    let now_s = clock::now_s() as u32;
    let [first, second] = bucket_words(hash).map(bucket_index::<TABLE>);
    let (free_cells, other) = (
        free_cells::<TABLE>(first, now_s),
        free_cells::<TABLE>(second, now_s),
    );
    let order = if free_cells > FREE_CELLS_LOW || free_cells >= other {
        [first, second]
    } else {
        [second, first]
    };
    for index in order {
        let Some(bucket) = bucket::<TABLE>(index) else {
            return LOCKED;
        };
        if !lock::<TABLE>(index) {
            return LOCKED;
        }
        let inserted = write_free_cell::<TABLE>(bucket, hash, session, now_s);
        unlock::<TABLE>(index);
        if inserted {
            return INSERTED;
        }
    }
    FULL
}

/// Returns the words that select the first and the second bucket.
#[inline(always)]
const fn bucket_words(hash: u64) -> [u32; 2] {
    [(hash >> 32) as u32, hash as u32]
}

#[inline(always)]
pub(super) fn bucket_index<const TABLE: u8>(half: u32) -> u32 {
    if TABLE == NEW {
        half & NAT_NEW_MASK.load()
    } else {
        bucket_of(half, NAT_BUCKETS.load())
    }
}

/// Number of cells of a bucket that can be allocated.
#[inline(always)]
fn free_cells<const TABLE: u8>(index: u32, now_s: u32) -> u32 {
    let Some(bucket) = bucket::<TABLE>(index) else {
        return 0;
    };
    (0..WAYS)
        .map(|way| u32::from(is_usable(cell::<TABLE>(bucket, way), now_s)))
        .sum()
}

#[inline(always)]
pub(super) fn bucket<const TABLE: u8>(index: u32) -> Option<*mut u8> {
    match TABLE {
        REQUESTS => NAT_REQUESTS.get_ptr_mut(index).map(<*mut _>::cast),
        REPLIES => NAT_REPLIES.get_ptr_mut(index).map(<*mut _>::cast),
        _ => NAT_NEW.get_ptr_mut(index).map(<*mut _>::cast),
    }
}

#[inline(always)]
pub(super) fn cell<const TABLE: u8>(bucket: *mut u8, way: usize) -> *mut NatRecord {
    let size = if TABLE != REQUESTS {
        size_of::<NatReply>()
    } else {
        size_of::<NatRecord>()
    };
    // SAFETY: in bounds of the bucket.
    unsafe { bucket.add(below::<WAYS>(way) * size).cast() }
}

/// Writes an entry to a free cell of a locked bucket.
///
/// Two CPUs that process packets of one session at the same time may both insert it; the second
/// cell is then useless and expires.
#[inline(always)]
fn write_free_cell<const TABLE: u8>(
    bucket: *mut u8,
    hash: u64,
    session: &Session,
    now_s: u32,
) -> bool {
    let free = (0..WAYS).find(|&step| is_usable(cell::<TABLE>(bucket, way(hash, step)), now_s));
    let Some(step) = free else { return false };
    let cell = cell::<TABLE>(bucket, way(hash, step));
    if TABLE == REQUESTS {
        write_record(
            cell,
            &NatRecord::new(&session.request_key, &session.request),
        );
    } else {
        write_reply(cell.cast(), &session.reply);
    }
    true
}

/// Writes the record of a cell of a locked bucket. The name, which makes the cell valid, is written
/// last; x86 keeps the order of stores.
#[inline(always)]
fn write_record(cell: *mut NatRecord, session: &NatRecord) {
    // SAFETY: a cell of a mapped array; nobody else writes it.
    unsafe {
        (&raw mut (*cell).client).write_volatile(session.client);
        (&raw mut (*cell).member_and_state).write_volatile(session.member_and_state);
        (&raw mut (*cell).seen_s).write_volatile(session.seen_s);
        (&raw mut (*cell).generation).write_volatile(session.generation);
        (&raw mut (*cell).refreshed).write_volatile(session.refreshed);
        (&raw mut (*cell).path_or_port).write_volatile(session.path_or_port);
        let name = cell.cast::<u64>().add(NatRecord::NAME);
        name.write_volatile(session.name());
    }
}

/// Writes a cell for the backend's packets, likewise. The cell need not be free.
#[inline(always)]
pub(super) fn write_reply(cell: *mut NatReply, reply: &NatReply) {
    // SAFETY: as in `write_record`.
    unsafe {
        cell.cast::<u64>().add(NatRecord::NAME).write_volatile(0);
        (&raw mut (*cell).tcp).write_volatile(reply.tcp);
        (&raw mut (*cell).link).write_volatile(reply.link);
        (&raw mut (*cell).ifindex).write_volatile(reply.ifindex);
    }
    write_record(cell.cast(), &reply.session);
}

#[inline(always)]
pub(super) fn name(cell: *mut NatRecord) -> u64 {
    // SAFETY: a word of a cell of a mapped array.
    unsafe { cell.cast::<u64>().add(NatRecord::NAME).read_volatile() }
}

#[inline(always)]
fn seen_s(cell: *mut NatRecord) -> u16 {
    // SAFETY: as in `name`.
    unsafe { (&raw const (*cell).seen_s).read_volatile() }
}

/// Whether the cell is free, and no packet still uses its former contents.
#[inline(always)]
fn is_usable(cell: *mut NatRecord, now_s: u32) -> bool {
    let freed_s = seen_s(cell);
    name(cell) == 0 && (freed_s == 0 || idle_s(freed_s, now_s) >= REUSE_DELAY_S)
}

#[inline(always)]
pub(super) fn free(cell: *mut NatRecord, now_s: u32) {
    // SAFETY: as in `name`.
    unsafe {
        (&raw mut (*cell).seen_s).write_volatile(now_s as u16);
        cell.cast::<u64>().add(NatRecord::NAME).write_volatile(0);
    }
}

/// Frees the cell with the highest rank in the first bucket of a hash, see [`idle_rank`]. None if the bucket has
/// a free one, which will be usable soon: until then every packet of the session comes here.
#[inline(always)]
fn evict_idle<const TABLE: u8>(hash: u64, vip: u16) {
    let index = bucket_index::<TABLE>(bucket_words(hash)[0]);
    let (mut highest, mut found) = (0, 0);
    for way in 0..WAYS as u32 {
        let rank = black_box(idle_rank(TABLE.into(), index, way, vip.into()));
        if rank > highest {
            (highest, found) = (rank, way);
        }
    }
    if (1..FREE).contains(&highest)
        && let Some(bucket) = bucket::<TABLE>(index)
    {
        free(cell::<TABLE>(bucket, found as usize), clock::now_s() as u32);
    }
}

/// Rank of a free cell.
const FREE: u32 = u32::MAX;

/// Rank of a cell if a session of the VIP needs one, the highest is evicted: its VIP's number of cells in
/// the bucket, then its idle time. 0, not to be evicted: it was not idle long enough, or its VIP has fewer
/// cells than `vip`. So the sessions of a VIP, however many they are, displace none of a VIP that has few.
/// [`FREE`], and then the ranks of the others, which count it, are of no use.
///
/// The verifier checks a global function once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_rank(table: u32, index: u32, way: u32, vip: u32) -> u32 {
    if table == u32::from(REQUESTS) {
        idle_rank_in::<REQUESTS>(index, way, vip)
    } else {
        idle_rank_in::<REPLIES>(index, way, vip)
    }
}

#[inline(always)]
fn idle_rank_in<const TABLE: u8>(index: u32, way: u32, vip: u32) -> u32 {
    let Some(bucket) = bucket::<TABLE>(index) else {
        return 0;
    };
    // SAFETY: a cell of a mapped array.
    let vip_of = |way| u32::from(unsafe { (*cell::<TABLE>(bucket, way)).vip() });
    let cells_of = |vip: u32| -> u32 {
        // Without branches, whose combinations the verifier would follow.
        let is_of = |way| black_box(vip_of(way) ^ vip).wrapping_sub(1) >> 31;
        (0..WAYS).map(is_of).sum()
    };
    let cell = cell::<TABLE>(bucket, way as usize);
    let idle_s = idle_s(seen_s(cell), clock::now_s() as u32);
    let share = cells_of(vip_of(way as usize));
    if name(cell) == 0 {
        return FREE;
    }
    if idle_s < REPLACE_IDLE_S || share < cells_of(vip) {
        return 0;
    }
    share << 16 | u32::from(idle_s)
}

/// Locks a bucket. False if another CPU holds the lock; the next packet tries again.
///
/// Inserting an entry that must not exist is the only atomic operation that all supported kernels
/// have.
#[inline(always)]
pub(super) fn lock<const TABLE: u8>(bucket: u32) -> bool {
    NAT_LOCKS
        .insert(&lock_of::<TABLE>(bucket), &0, u64::from(BPF_NOEXIST))
        .is_ok()
}

#[inline(always)]
pub(super) fn unlock<const TABLE: u8>(bucket: u32) {
    let _gone = NAT_LOCKS.remove(&lock_of::<TABLE>(bucket));
}

/// Key of a bucket's lock. There are fewer than 2^30 buckets.
#[inline(always)]
const fn lock_of<const TABLE: u8>(bucket: u32) -> u32 {
    bucket | (TABLE as u32) << 30
}
