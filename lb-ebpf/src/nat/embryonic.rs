//! The table of embryonic sessions and its index, see [`lb_common::nat`].

use core::hint::black_box;

use lb_common::{
    hash,
    nat::{IndexWord, NatKey, NatRecord, NatReply, REPLY, WAYS, way},
    track::{Bucket, Place, WAYS as INDEX_WAYS},
};

use super::table::{self, NEW, Search};
use crate::{
    clock,
    headers::ports_hash,
    maps::{NAT_INDEX, NAT_NEW_MASK, below},
    scratch::{RankedSearch, Session, scratch},
    tables,
};

/// Finds the session of a backend's packet, and copies its cell to `copy`.
#[inline(always)]
pub(super) fn find_reply(key: &NatKey, copy: &mut NatReply) -> Option<*mut NatReply> {
    let cell = find_cell(key)?;
    // SAFETY: a cell of a mapped array. It may be replaced at any time, so the copy is checked.
    *copy = unsafe { cell.read_volatile() };
    let search = Search::new::<NEW>(key);
    let same = table::name(cell.cast()) == copy.session.name();
    (same && search.matches::<NEW>((&raw mut *copy).cast())).then_some(cell)
}

/// Finds the cell of a reply key without looking at its contents.
#[inline(always)]
pub(super) fn find_cell(key: &NatKey) -> Option<*mut NatReply> {
    let [high, low] = key.address;
    table::at_place::<NEW>(black_box(place_of_new(high, low, key.last_word())))
        .map(<*mut NatRecord>::cast)
}

/// Returns the number of the cell of an embryonic session, from 1; 0 if there is none. Takes the
/// words of the reply key.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn place_of_new(high: u64, low: u64, last_word: u64) -> u32 {
    table::place_of::<NEW>(&NatKey::from_words([high, low], last_word))
}

/// Finds the session of a client's packet, and copies its cell to `session.reply`. The key of the
/// packet is `session.request_key`; sets `session.reply_key`.
#[inline(always)]
pub(super) fn find_request(session: &mut Session) -> Option<*mut NatReply> {
    let key = &session.request_key;
    let [high, low] = key.address;
    let word = IndexWord(black_box(index_word(high, low, key.last_word())));
    if word.0 == 0 {
        return None;
    }
    // SAFETY: an entry of a mapped array; the fields read are constant while a session refers to it.
    let member = unsafe { &*tables::member(word.member()) };
    session.reply_key = NatKey {
        address: member.address,
        source_be: if member.port_be == 0 {
            key.dest_be
        } else {
            member.port_be
        },
        dest_be: word.nat_port_be(),
        scope: member.nat_source | REPLY,
        protocol: key.protocol,
    };
    let cell = find_reply(&session.reply_key, &mut session.reply)?;
    let found = &session.reply.session;
    let same = found.is_of(key)
        && found.client_be == key.source_be
        && found.vip_be == key.dest_be
        && found.vip() == key.scope;
    same.then_some(cell)
}

/// Returns the index word of a client's packet; 0 if there is none. Takes the words of its key.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn index_word(high: u64, low: u64, last_word: u64) -> u64 {
    let key = NatKey::from_words([high, low], last_word);
    let place = index_place(&key);
    let Some(bucket) = NAT_INDEX.get_ptr_mut(place.bucket & NAT_NEW_MASK.load()) else {
        return 0;
    };
    let mut step = black_box(0);
    while step < INDEX_WAYS {
        let word = load(bucket, step);
        if word.is_of(place.tag) {
            return word.0;
        }
        step += 1;
    }
    0
}

/// The place of a flow in the index. It is keyed: nobody else can fill the bucket of a flow.
#[inline(always)]
fn index_place(key: &NatKey) -> Place {
    let vip = tables::vip(key.scope);
    let ports = hash::ports_word(key.source_be, key.dest_be);
    Place::of(ports_hash(vip, vip.family, &key.address, ports))
}

/// Inserts the session in the scratch, in a free cell or in place of the oldest one in its bucket.
/// False if another CPU held the bucket, or has taken the port since it was found free.
#[inline(always)]
pub(super) fn insert() -> bool {
    black_box(insert_new()) != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn insert_new() -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let Session {
        request_key,
        reply_key,
        reply,
        search,
        ..
    } = &mut scratch.session;
    let hash = reply_key.hash();
    let index = table::bucket_index::<NEW>((hash >> 32) as u32);
    let Some(bucket) = table::bucket::<NEW>(index) else {
        return 0;
    };
    if !table::lock::<NEW>(index) {
        return 0;
    }
    let cell = choose(bucket, hash, reply_key, reply.tcp.time, search);
    if let Some(cell) = cell {
        table::write_reply(cell, reply);
    }
    table::unlock::<NEW>(index);
    if cell.is_none() {
        return 0;
    }
    remember(request_key, reply, search);
    1
}

/// A free cell, or else the oldest; none if a session has the key.
#[inline(always)]
fn choose(
    bucket: *mut u8,
    hash: u64,
    key: &NatKey,
    now: u32,
    oldest: &mut RankedSearch,
) -> Option<*mut NatReply> {
    let search = Search::new::<NEW>(key);
    oldest.start();
    let mut step = black_box(0);
    while step < WAYS {
        let way = way(hash, step);
        let cell = table::cell::<NEW>(bucket, way);
        if search.matches::<NEW>(cell) {
            return None;
        }
        let rank = if table::name(cell) == 0 {
            u32::MAX
        } else {
            age(cell.cast(), now).min(u32::MAX - 2) + 1
        };
        oldest.offer(rank, way as u32);
        step += 1;
    }
    let (_, way) = oldest.best();
    Some(table::cell::<NEW>(bucket, way as usize).cast())
}

/// Jiffies since the session of a cell was created: 0 if another CPU created it after `now` was read.
#[inline(always)]
pub(super) fn age(cell: *mut NatReply, now: u32) -> u32 {
    // SAFETY: a word of a cell of a mapped array.
    let age = now.wrapping_sub(unsafe { (&raw const (*cell).tcp.time).read_volatile() });
    if age > i32::MAX as u32 { 0 } else { age }
}

/// The time that ages refer to, in jiffies.
#[inline(always)]
pub(super) fn now() -> u32 {
    clock::jiffies() as u32
}

/// Stores the index word of a session, in place of that of the same flow, or else of the oldest one.
#[inline(always)]
fn remember(key: &NatKey, reply: &NatReply, oldest: &mut RankedSearch) {
    let place = index_place(key);
    let Some(bucket) = NAT_INDEX.get_ptr_mut(place.bucket & NAT_NEW_MASK.load()) else {
        return;
    };
    let (session, now) = (&reply.session, reply.tcp.time);
    oldest.start();
    let mut step = black_box(0);
    while step < INDEX_WAYS {
        let word = load(bucket, step);
        let rank = if word.is_of(place.tag) {
            u32::MAX
        } else {
            word.rank(now).min(u32::MAX - 2) + 1
        };
        oldest.offer(rank, step as u32);
        step += 1;
    }
    let (_, way) = oldest.best();
    let word = IndexWord::new(place.tag, session.member(), session.nat_port_be, now);
    // SAFETY: in bounds of the bucket; other CPUs read and write the word atomically.
    unsafe { index_cell(bucket, way as usize).write_volatile(word.0) };
}

#[inline(always)]
fn load(bucket: *mut Bucket, way: usize) -> IndexWord {
    // SAFETY: as in `remember`.
    IndexWord(unsafe { index_cell(bucket, way).read_volatile() })
}

#[inline(always)]
fn index_cell(bucket: *mut Bucket, way: usize) -> *mut u64 {
    // SAFETY: in bounds of the bucket.
    unsafe { bucket.cast::<u64>().add(below::<INDEX_WAYS>(way)) }
}
