//! Members that have spilled flows: packets of their slots are looked up.

use lb_common::ring::MemberIndex;

use crate::maps::SPILLED;

/// Whether flows of a member's slots may have been spilled, so that packets have to be looked up.
#[inline(always)]
pub(crate) fn has_spilled(member: MemberIndex) -> bool {
    // SAFETY: a word of a mapped array; the controller resets it atomically.
    let load = |stamp: *mut u64| unsafe { stamp.read_volatile() };
    SPILLED.get_ptr_mut(member.into()).map_or(0, load) != 0
}

/// Notes that a member has spilled a flow, or had a packet of one. Before the flow's cell is written.
#[inline(always)]
pub(crate) fn note_spilled(member: MemberIndex, now_s: u64) {
    if let Some(stamp) = SPILLED.get_ptr_mut(member.into()) {
        // SAFETY: as in `has_spilled`.
        unsafe {
            if stamp.read_volatile() != now_s {
                stamp.write_volatile(now_s);
            }
        }
    }
}
