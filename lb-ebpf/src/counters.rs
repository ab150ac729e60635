//! Counting. Per CPU, so nothing is shared; a counter that is missing never changes a verdict.

use lb_common::counters::{MemberCounters, VipCounters};

use crate::maps::{MEMBER_COUNTS, NODE_COUNTS, VIP_COUNTS};

/// Counts a packet of the node under its reason.
#[inline(always)]
pub(crate) fn count_reason(reason: u32) {
    if let Some(counters) = NODE_COUNTS.get_ptr_mut(0) {
        // SAFETY: the entry of this CPU; the index is below the array's length.
        unsafe {
            (*counters).reasons[(reason & 63) as usize] += 1;
        }
    }
}

/// Changes the counters of a member.
#[inline(always)]
pub(crate) fn count_member(member: u16, change: impl FnOnce(&mut MemberCounters)) {
    if let Some(counters) = MEMBER_COUNTS.get_ptr_mut(u32::from(member)) {
        // SAFETY: the entry of this CPU, which nothing else uses while the program runs.
        change(unsafe { &mut *counters });
    }
}

/// Changes the counters of a VIP.
#[inline(always)]
pub(crate) fn count_vip(vip: u16, change: impl FnOnce(&mut VipCounters)) {
    if let Some(counters) = VIP_COUNTS.get_ptr_mut(u32::from(vip)) {
        // SAFETY: as for members.
        change(unsafe { &mut *counters });
    }
}
