//! What was decided about a packet, for `simulate --trace` and `explain`.
//!
//! Without [`TRACING`] the verifier removes all of it.

use lb_common::trace::{NONE, Trace, decision};

use crate::maps::{TRACE, TRACING};

#[inline(always)]
fn change(change: impl FnOnce(&mut Trace)) {
    if TRACING.load() != 0
        && let Some(trace) = TRACE.get_ptr_mut(0)
    {
        // SAFETY: the entry of this CPU, which nothing else uses while the program runs.
        change(unsafe { &mut *trace });
    }
}

/// Forgets the packet before.
#[inline(always)]
pub(crate) fn begin() {
    change(|trace| {
        trace.slot_hash = 0;
        trace.flow_hash = 0;
        trace.slot = 0;
        trace.vip = NONE;
        trace.member = NONE;
        trace.decision = decision::NOT_MADE;
    });
}

/// The packet is for this VIP.
#[inline(always)]
pub(crate) fn vip(vip: u16) {
    change(|trace| trace.vip = vip);
}

/// The ring was asked.
#[inline(always)]
pub(crate) fn slot(slot_hash: u64, flow_hash: u64, slot: u32) {
    change(|trace| {
        trace.slot_hash = slot_hash;
        trace.flow_hash = flow_hash;
        trace.slot = slot;
    });
}

/// The member was found.
#[inline(always)]
pub(crate) fn member(member: u16, decision: u32) {
    change(|trace| {
        trace.member = member;
        trace.decision = decision;
    });
}

/// The end.
#[inline(always)]
pub(crate) fn finished(reason: u32, verdict: u32) {
    change(|trace| {
        trace.reason = reason;
        trace.verdict = verdict;
    });
}

/// The packet goes to this member.
#[inline(always)]
pub(crate) fn member_found(member: u16) {
    change(|trace| trace.member = member);
}
