//! The cells of spilled flows, and the sequence numbers that prove what belongs to them.
//!
//! Global functions, which the verifier checks once, and which take numbers.

use lb_common::{
    bound::{SynNote, second},
    ring::{MemberIndex, NO_MEMBER},
    track::{Cell, FREE, Place, WAYS, is_spare},
};

use crate::{
    clock,
    counters::count_vip,
    headers::tcp,
    maps::{SPILLED_SYNS, TRACK, TRACK_MASK},
    route::is_serving,
    spilled::note_spilled,
    tracking,
};

/// Results of [`bound_known`], with a member in the lower half: the flow has no cell.
pub(super) const NEW: u32 = 1 << 16;
/// It has a proven one, with which the packet has nothing to prove.
pub(super) const ORDINARY: u32 = 2 << 16;
/// Its cell is that of a closed connection with this member, and the packet is a SYN.
pub(super) const REOPENED: u32 = 3 << 16;
/// The packet is this member's.
pub(super) const DECIDED_BEFORE: u32 = 4 << 16;
pub(super) const MEMBER: u32 = 0xffff;

/// Looks up the cell of a flow, and proves it. `members`: the slot's, and in the upper half the previous
/// one.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn bound_known(
    flow_hash: u64,
    members: u32,
    sequence: u32,
    flags: u32,
) -> u32 {
    let place = Place::of(flow_hash);
    let (current, previous) = (members as MemberIndex, (members >> 16) as MemberIndex);
    let flags = flags as u8;
    let Some(bucket) = TRACK.get_ptr_mut(place.bucket & TRACK_MASK.load()) else {
        return NEW;
    };
    let Some((way, cell)) = tracking::find(bucket, place) else {
        return NEW;
    };
    if !is_serving(cell.member) {
        // The ordinary lookup frees it.
        return if tcp::opens(flags) { NEW } else { ORDINARY };
    }
    if !cell.unproven {
        return if !tcp::opens(flags) || !cell.closed {
            ORDINARY
        } else if current == previous && cell.member != current {
            REOPENED | u32::from(cell.member)
        } else {
            NEW
        };
    }
    let Some(note) = SPILLED_SYNS.get_ptr_mut(SynNote::index(place)) else {
        return ORDINARY;
    };
    // SAFETY: a word of a mapped array.
    let noted = SynNote(unsafe { note.read_volatile() });
    let is_noted = noted.is_of(place);
    let is_late = !is_noted || noted.is_over(second(clock::now_ns()));
    let now_s = clock::now_s();
    let seen_s = now_s as u16;
    // Without the cell.
    let of_slot = if is_serving(previous) {
        previous
    } else if current != NO_MEMBER {
        current
    } else {
        cell.member
    };
    // A SYN that reopened the flow went to the slot's member, which is the previous one now if the ring has
    // changed.
    let (of_syn, without_syn) = if cell.confirmed {
        (of_slot, cell.member)
    } else {
        (cell.member, of_slot)
    };
    let member = if tcp::opens(flags) {
        if is_noted && noted.is_repeated(sequence) {
            let repeated = Cell { seen_s, ..cell };
            tracking::store(bucket, way, repeated.pack());
            let _is_noted = note_syn(place, sequence);
            of_syn
        } else if is_late && !cell.confirmed {
            // The client has given up.
            tracking::store(bucket, way, FREE);
            return NEW;
        } else {
            without_syn
        }
    } else if is_noted && noted.is_continued(sequence, cell.closed) {
        let proven = Cell {
            confirmed: true,
            closed: tcp::closes(flags),
            unproven: false,
            seen_s,
            ..cell
        };
        // SAFETY: as above.
        unsafe { note.write_volatile(0) };
        note_spilled(current, now_s);
        let word = if cell.confirmed { FREE } else { proven.pack() };
        tracking::store(bucket, way, word);
        of_syn
    } else {
        let unproven = if is_late && !cell.confirmed {
            // The SYN was forged. What it kept from being recorded is a flow of the previous member.
            let recorded = Cell {
                member: without_syn,
                confirmed: true,
                closed: tcp::closes(flags),
                unproven: false,
                seen_s,
                ..cell
            };
            if current == previous {
                FREE
            } else {
                recorded.pack()
            }
        } else {
            let disputed = Cell {
                closed: true,
                unproven: !is_late,
                ..cell
            };
            disputed.pack()
        };
        tracking::store(bucket, way, unproven);
        without_syn
    };
    DECIDED_BEFORE | u32::from(member)
}

/// Inserts the unproven cell of a spilled flow; returns 0 if there is no room. `member`: the flow's in the
/// lower half; bit 16: it is of TCP.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn bound_insert(flow_hash: u64, member: u32, sequence: u32, vip: u32) -> u32 {
    let place = Place::of(flow_hash);
    let now_s = clock::now_s() as u16;
    let is_tcp = member >> 16 != 0;
    let Some(bucket) = TRACK.get_ptr_mut(place.bucket & TRACK_MASK.load()) else {
        return 0;
    };
    // Its own, of a member that does not serve or of a connection that is closed; a free one; or that of
    // another flow that has ended.
    let (mut own, mut free, mut ended) = (WAYS, WAYS, WAYS);
    // Backwards: the first cells are found without a call.
    for step in (0..WAYS).rev() {
        let way = place.way(step);
        let word = tracking::load(bucket, way);
        if word == FREE {
            free = way;
        } else if (word >> 32) as u32 == place.tag {
            own = way;
        } else if is_spare(word, now_s) {
            ended = way;
        }
    }
    let spare = if own != WAYS {
        own
    } else if free != WAYS {
        free
    } else {
        ended
    };
    if spare == WAYS || is_tcp && !note_syn(place, sequence) {
        return 0;
    }
    let cell = Cell {
        tag: place.tag,
        member: member as MemberIndex,
        confirmed: false,
        closed: false,
        redundant: false,
        unproven: is_tcp,
        seen_s: now_s,
    };
    tracking::store(bucket, spare, cell.pack());
    count_vip(vip as u16, |counters| counters.track_inserts += 1);
    1
}

/// Makes the next packet of a flow with a closed connection prove which connection it belongs to: returns
/// 0 if that can't be.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn bound_reopen(flow_hash: u64, sequence: u32) -> u32 {
    let place = Place::of(flow_hash);
    let Some(bucket) = TRACK.get_ptr_mut(place.bucket & TRACK_MASK.load()) else {
        return 0;
    };
    let Some((way, cell)) = tracking::find(bucket, place) else {
        return 0;
    };
    if !note_syn(place, sequence) {
        return 0;
    }
    let reopened = Cell {
        unproven: true,
        seen_s: clock::now_s() as u16,
        ..cell
    };
    tracking::store(bucket, way, reopened.pack());
    1
}

/// Notes the sequence number of a SYN; false if another flow has the place.
#[inline(always)]
fn note_syn(place: Place, sequence: u32) -> bool {
    let Some(note) = SPILLED_SYNS.get_ptr_mut(SynNote::index(place)) else {
        return false;
    };
    // SAFETY: a word of a mapped array.
    let noted = SynNote(unsafe { note.read_volatile() });
    let second = second(clock::now_ns());
    if !noted.is_of(place) && !noted.is_over(second) {
        return false;
    }
    // SAFETY: as above.
    unsafe { note.write_volatile(SynNote::new(place, sequence, second).0) };
    true
}
