//! The table of established sessions: buckets of cells, see [`lb_common::nat`].

use aya_ebpf::bindings::BPF_NOEXIST;
use lb_common::nat::{
    NatCell, NatFlow, NatKey, REPLACE_IDLE_S, REUSE_S, ROOM, WAYS, bucket_of, silent_s,
};

use crate::{
    clock,
    maps::{NAT_BUCKETS, NAT_FLOWS, NAT_LOCKS},
    scratch::{Session, scratch},
};

/// Place of [`NatKey::last_word`] in a cell, in words.
const LAST_WORD: usize = 2;

/// Finds the entry of an established session.
#[inline(always)]
pub(super) fn find(key: &NatKey) -> Option<*mut NatFlow> {
    let hash = key.hash();
    for half in halves(hash) {
        let bucket = bucket(half)?;
        for step in 0..WAYS {
            let cell = cell(bucket, hash, step);
            if has(cell, key) {
                // SAFETY: a field of a cell of a mapped array.
                return Some(unsafe { &raw mut (*cell).flow });
            }
        }
    }
    None
}

/// [`find`] as a function of its own, for what is rare; null if there is none.
#[inline(never)]
pub(super) fn find_rarely(key: &NatKey) -> *mut NatFlow {
    find(key).unwrap_or(core::ptr::null_mut())
}

/// Frees the cell of a session, if it has one.
#[inline(never)]
pub(super) fn remove(key: &NatKey) -> u32 {
    let hash = key.hash();
    for half in halves(hash) {
        let Some(bucket) = bucket(half) else { return 0 };
        for step in 0..WAYS {
            let cell = cell(bucket, hash, step);
            if has(cell, key) {
                free(cell, clock::now_s() as u32);
            }
        }
    }
    0
}

/// Enters the request (0) or the reply (1) of the session in the scratch; 1: it is there.
///
/// When there is no room, a session that has been silent for long makes some, which can be used later.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn enter_session(is_reply: u32) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let Session {
        request_key,
        reply_key,
        request,
        reply,
        ..
    } = &scratch.session;
    let (key, flow) = if is_reply == 0 {
        (request_key, request)
    } else {
        (reply_key, reply)
    };
    let hash = key.hash();
    let now_s = clock::now_s() as u32;
    let [first, second] = halves(hash);
    let (room, other) = (room(first, now_s), room(second, now_s));
    let order = if room > ROOM || room >= other {
        [first, second]
    } else {
        [second, first]
    };
    if find(key).is_some() {
        return 1;
    }
    for half in order {
        let index = index_of(half);
        let Some(bucket) = bucket(half) else { return 0 };
        if !lock(index) {
            return 0;
        }
        let entered = put(bucket, hash, key, flow, now_s);
        unlock(index);
        if entered {
            return 1;
        }
    }
    if let Some(bucket) = bucket((hash >> 32) as u32) {
        make_room(bucket, now_s);
    }
    0
}

/// What chooses the first and the second bucket.
#[inline(always)]
const fn halves(hash: u64) -> [u32; 2] {
    [(hash >> 32) as u32, hash as u32]
}

/// How many cells of a bucket can be given away.
#[inline(always)]
fn room(half: u32, now_s: u32) -> u32 {
    let Some(bucket) = bucket(half) else { return 0 };
    (0..WAYS)
        .map(|way| u32::from(is_usable(cell(bucket, 0, way), now_s)))
        .sum()
}

#[inline(always)]
fn bucket(half: u32) -> Option<*mut NatCell> {
    NAT_FLOWS.get_ptr_mut(index_of(half)).map(<*mut _>::cast)
}

#[inline(always)]
fn index_of(half: u32) -> u32 {
    bucket_of(half, NAT_BUCKETS.load())
}

/// The cell that is looked at in this step.
#[inline(always)]
fn cell(bucket: *mut NatCell, hash: u64, step: usize) -> *mut NatCell {
    // SAFETY: inside the bucket.
    unsafe { bucket.add((hash as usize + step) & (WAYS - 1)) }
}

/// Whether the cell has the entry of this key.
#[inline(always)]
fn has(cell: *mut NatCell, key: &NatKey) -> bool {
    // SAFETY: a cell of a mapped array. The last word is read once, before the others.
    unsafe {
        cell.cast::<u64>().add(LAST_WORD).read_volatile() == key.last_word()
            && (*cell).key.address[0] == key.address[0]
            && (*cell).key.address[1] == key.address[1]
    }
}

/// Writes an entry into a free cell of a bucket that is locked.
///
/// Two CPUs that have a packet of the same session at once may both enter it: then the second cell is of no
/// use, and expires.
#[inline(always)]
fn put(bucket: *mut NatCell, hash: u64, key: &NatKey, flow: &NatFlow, now_s: u32) -> bool {
    let free = (0..WAYS).find(|&step| is_usable(cell(bucket, hash, step), now_s));
    let Some(step) = free else { return false };
    let cell = cell(bucket, hash, step);
    // SAFETY: a cell that is free, so nobody reads it, and that nobody else writes. What makes it valid
    // is written last; x86 keeps the order of stores.
    unsafe {
        (&raw mut (*cell).flow).write_volatile(*flow);
        (&raw mut (*cell).key.address).write_volatile(key.address);
        let last = cell.cast::<u64>().add(LAST_WORD);
        last.write_volatile(key.last_word());
    }
    true
}

#[inline(always)]
fn last_word(cell: *mut NatCell) -> u64 {
    // SAFETY: a word of a cell of a mapped array.
    unsafe { cell.cast::<u64>().add(LAST_WORD).read_volatile() }
}

#[inline(always)]
fn seen_s(cell: *mut NatCell) -> u32 {
    // SAFETY: as for `last_word`.
    unsafe { (&raw const (*cell).flow.seen_s).read_volatile() }
}

/// Whether the cell is free, and no packet uses what was in it.
#[inline(always)]
fn is_usable(cell: *mut NatCell, now_s: u32) -> bool {
    let freed_s = seen_s(cell);
    last_word(cell) == 0 && (freed_s == 0 || silent_s(freed_s, now_s) >= REUSE_S)
}

#[inline(always)]
fn free(cell: *mut NatCell, now_s: u32) {
    // SAFETY: as for `last_word`.
    unsafe {
        (&raw mut (*cell).flow.seen_s).write_volatile(now_s);
        cell.cast::<u64>().add(LAST_WORD).write_volatile(0);
    }
}

/// Frees the cell that has been silent longest, if that is long.
#[inline(always)]
fn make_room(bucket: *mut NatCell, now_s: u32) {
    let (mut longest_s, mut longest) = (REPLACE_IDLE_S, None);
    for way in 0..WAYS {
        let cell = cell(bucket, 0, way);
        let silent_s = silent_s(seen_s(cell), now_s);
        if last_word(cell) != 0 && silent_s >= longest_s {
            (longest_s, longest) = (silent_s, Some(way));
        }
    }
    if let Some(way) = longest {
        free(cell(bucket, 0, way), now_s);
    }
}

/// Takes the lock of a bucket; false if another CPU has it, which then tries again with the next packet.
///
/// An entry that may not exist yet is the one thing that all kernels have two CPUs agree on.
#[inline(always)]
fn lock(bucket: u32) -> bool {
    NAT_LOCKS
        .insert(&bucket, &0, u64::from(BPF_NOEXIST))
        .is_ok()
}

#[inline(always)]
fn unlock(bucket: u32) {
    let _gone = NAT_LOCKS.remove(&bucket);
}
