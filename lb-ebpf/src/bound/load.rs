//! The new flows of members, as this CPU has counted them, and which members can take more.
//!
//! Global functions, which the verifier checks once, and which take numbers.

use core::{hint::black_box, ptr::null};

use lb_common::{
    bound::{
        BY_MEMBER, BY_SLOT, CANDIDATE_WORDS, CpuLoads, MemberLoad, ONE_FLOW, VipLoad, places_of,
        room, second,
    },
    limit::{Cell, units},
    ring::{ENTRIES_PER_WORD, MAX_MEMBERS, MemberIndex, NO_MEMBER, entry},
    vip::MAX_VIPS,
};

use crate::{
    counters::cpu,
    limits::draw_from_word,
    maps::{BOUNDS, CANDIDATES, CAPACITY_CELLS, LOADS, below},
    route::is_serving,
    select::{self, ring_of},
    tables,
};

/// Returns the first candidate of a flow that serves and has room; [`NO_MEMBER`] if there is none. `room` is
/// that of the member of its slot.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn bound_candidate(
    vip: u32,
    slot: u32,
    jump: u32,
    room: u32,
    now_ns: u64,
) -> u32 {
    let (image, size) = ring_of(tables::vip(vip as u16));
    let Some(own) = select::member_of(image, slot) else {
        return NO_MEMBER.into();
    };
    let mut search = Search {
        vip,
        own,
        now_ns,
        over_factor: own,
    };
    let mut at = slot;
    for _ in 0..BY_SLOT {
        at = next(at, jump, size);
        let member = select::member_of(image, at).unwrap_or(NO_MEMBER);
        if search.has_room(member) {
            return member.into();
        }
    }
    let (places, words) = candidates(vip);
    if places > 1 {
        let (mut place, step) = places_of(jump, places);
        for _ in 0..BY_MEMBER {
            place = next(place, step, places);
            let member = candidate_at(words, place);
            if search.has_room(member) {
                return member.into();
            }
        }
    }
    if room == room::OVER_CAPACITY && search.over_factor != own {
        search.over_factor.into()
    } else {
        NO_MEMBER.into()
    }
}

/// The place after this one in a circle.
#[inline(always)]
const fn next(at: u32, step: u32, size: u32) -> u32 {
    let at = at.wrapping_add(step);
    if at >= size {
        at.wrapping_sub(size)
    } else {
        at
    }
}

/// The search for a candidate.
struct Search {
    vip: u32,
    /// The member of the flow's slot.
    own: MemberIndex,
    now_ns: u64,
    /// The first candidate that has only its capacity left; until there is one, the slot's member: a constant
    /// would make the verifier follow each turn of the loops twice.
    over_factor: MemberIndex,
}

impl Search {
    /// Whether a candidate serves and has room.
    #[inline(always)]
    fn has_room(&mut self, member: MemberIndex) -> bool {
        let members = u32::from(member) | u32::from(self.own) << 16;
        let room = black_box(bound_offer(self.vip, members, self.now_ns));
        if room == room::OVER_FACTOR && self.over_factor == self.own {
            self.over_factor = member;
        }
        room == room::FREE
    }
}

/// Whether a candidate can take a flow, as one of [`room`]. `members`: the candidate, and in the upper half
/// the member of the flow's slot, which can't.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn bound_offer(vip: u32, members: u32, now_ns: u64) -> u32 {
    let (member, own) = (members & 0xffff, members >> 16);
    if member == own || !is_serving(member as MemberIndex) {
        return room::OVER_CAPACITY;
    }
    bound_room(vip, member, now_ns)
}

/// The candidates of a VIP by member: their number of places, and their words.
#[inline(always)]
fn candidates(vip: u32) -> (u32, *const u64) {
    CANDIDATES.get_ptr(vip).map_or((0, null()), |table| {
        let words = table.cast::<u64>();
        // SAFETY: the first word of a mapped array; the controller writes whole words.
        (u32::from(entry(unsafe { words.read_volatile() }, 0)), words)
    })
}

/// The member of a place.
#[inline(always)]
fn candidate_at(words: *const u64, place: u32) -> MemberIndex {
    let at = place + 1;
    let word = below::<CANDIDATE_WORDS>((at / ENTRIES_PER_WORD) as usize);
    // SAFETY: in bounds, and as in `candidates`.
    entry(unsafe { words.add(word).read_volatile() }, at)
}

/// Whether a member can take another flow, as one of [`room`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn bound_room(vip: u32, member: u32, now_ns: u64) -> u32 {
    let Some(bound) = BOUNDS.get(member) else {
        return room::FREE;
    };
    if bound.capacity.is_set()
        && let Some(cell) = CAPACITY_CELLS.get_ptr_mut(member)
    {
        // SAFETY: a word of a mapped array.
        let cell = Cell(unsafe { cell.read_volatile() });
        if bound.capacity.debt(cell, units(now_ns)) > bound.capacity.room {
            return room::OVER_CAPACITY;
        }
    }
    let Some(loads) = loads() else {
        return room::FREE;
    };
    let second = second(now_ns);
    // SAFETY: in bounds; the block of this CPU, which nothing else writes while the program runs.
    let (member, vip) = unsafe {
        (
            &(*member_load(loads, member)).recent,
            &(*vip_load(loads, vip)).recent,
        )
    };
    let all = vip.now(second) + ONE_FLOW;
    if bound.is_exceeded(member.now(second), all, member.spills(second)) {
        room::OVER_FACTOR
    } else {
        room::FREE
    }
}

/// Counts a new flow. `members`: where it goes; in the upper half, the member that spilled it, or
/// [`NO_MEMBER`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn bound_count(vip: u32, members: u32, now_ns: u64) -> u32 {
    let (to, from) = (members & 0xffff, members >> 16);
    if let Some(bound) = BOUNDS.get(to)
        && bound.capacity.is_set()
        && let Some(cell) = CAPACITY_CELLS.get_ptr_mut(to)
    {
        // If it is used up, all candidates are full.
        let _is_full = !draw_from_word(&bound.capacity, cell, units(now_ns));
    }
    let Some(loads) = loads() else { return 0 };
    let second = second(now_ns);
    // SAFETY: as in `bound_room`.
    unsafe {
        (*vip_load(loads, vip)).recent.add(second);
        let member = member_load(loads, to);
        (*member).recent.add(second);
        if from != u32::from(NO_MEMBER) {
            (*member).received += 1;
            let from = member_load(loads, from);
            (*from).spilled += 1;
            (*from).recent.spilled = second + 1;
        }
    }
    0
}

#[inline(always)]
pub(super) fn count_vip_load(vip: u16, change: impl FnOnce(&mut VipLoad)) {
    if let Some(loads) = loads() {
        // SAFETY: as in `bound_room`.
        change(unsafe { &mut *vip_load(loads, vip.into()) });
    }
}

/// What this CPU knows.
#[inline(always)]
fn loads() -> Option<*mut CpuLoads> {
    LOADS.get_ptr_mut(cpu())
}

#[inline(always)]
fn member_load(loads: *mut CpuLoads, member: u32) -> *mut MemberLoad {
    let member = member as usize & (MAX_MEMBERS as usize - 1);
    // SAFETY: in bounds.
    unsafe { (&raw mut (*loads).members).cast::<MemberLoad>().add(member) }
}

#[inline(always)]
fn vip_load(loads: *mut CpuLoads, vip: u32) -> *mut VipLoad {
    let vip = vip as usize & (MAX_VIPS as usize - 1);
    // SAFETY: in bounds.
    unsafe { (&raw mut (*loads).vips).cast::<VipLoad>().add(vip) }
}
