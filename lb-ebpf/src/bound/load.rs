//! The new flows of members, as this CPU has counted them, and which members can take more.
//!
//! Global functions, which the verifier checks once, and which take numbers.

use core::hint::black_box;

use lb_common::{
    bound::{CANDIDATES, CpuLoads, MemberLoad, ONE_FLOW, VipLoad, second},
    limit::{Cell, units},
    ring::{MAX_MEMBERS, NO_MEMBER},
    vip::MAX_VIPS,
};

use crate::{
    counters::cpu,
    limits::draw_from_word,
    maps::{BOUNDS, CAPACITY_CELLS, LOADS},
    route::is_serving,
    select::{self, ring_of},
    tables,
};

/// Returns the first candidate of a flow that serves and is not full; [`NO_MEMBER`] if there is none.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn bound_candidate(vip: u32, slot: u32, jump: u32, now_ns: u64) -> u32 {
    let (image, size) = ring_of(tables::vip(vip as u16));
    let Some(own) = select::member_of(image, slot) else {
        return NO_MEMBER.into();
    };
    let mut at = slot;
    for _ in 0..CANDIDATES {
        at = at.wrapping_add(jump);
        if at >= size {
            at = at.wrapping_sub(size);
        }
        let member = select::member_of(image, at).unwrap_or(NO_MEMBER);
        if member != own
            && is_serving(member)
            && black_box(bound_is_full(vip, member.into(), now_ns)) == 0
        {
            return member.into();
        }
    }
    NO_MEMBER.into()
}

/// Returns 1 if a member can't take another flow.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn bound_is_full(vip: u32, member: u32, now_ns: u64) -> u32 {
    let Some(bound) = BOUNDS.get(member) else {
        return 0;
    };
    if bound.capacity.is_set()
        && let Some(cell) = CAPACITY_CELLS.get_ptr_mut(member)
    {
        // SAFETY: a word of a mapped array.
        let cell = Cell(unsafe { cell.read_volatile() });
        if bound.capacity.debt(cell, units(now_ns)) > bound.capacity.room {
            return 1;
        }
    }
    let Some(loads) = loads() else { return 0 };
    let second = second(now_ns);
    // SAFETY: in bounds; the block of this CPU, which nothing else writes while the program runs.
    let (member, vip) = unsafe {
        (
            &(*member_load(loads, member)).recent,
            &(*vip_load(loads, vip)).recent,
        )
    };
    let all = vip.now(second) + ONE_FLOW;
    bound
        .is_exceeded(member.now(second), all, member.spills(second))
        .into()
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
    // SAFETY: as in `bound_is_full`.
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
        // SAFETY: as in `bound_is_full`.
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
