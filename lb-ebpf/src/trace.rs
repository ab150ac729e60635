//! What was decided about a packet, for `simulate --trace` and `explain`.
//!
//! Without [`TRACING`] the verifier removes all but the question whether it is set. Who reads a trace writes
//! [`Trace::EMPTY`] before the packet.

use lb_common::trace::{Trace, decision};

use crate::{counters::block, maps::TRACING};

#[inline(always)]
fn change(change: impl FnOnce(&mut Trace)) {
    if TRACING.load() != 0
        && let Some(block) = block()
    {
        // SAFETY: the block of this CPU, which nothing else writes while the program runs.
        change(unsafe { &mut (*block).trace });
    }
}

/// The packet is for this VIP.
#[inline(always)]
pub(crate) fn vip(vip: u16) {
    change(|trace| trace.vip = vip);
}

/// The ring of the VIP was asked, and named this member.
#[inline(always)]
pub(crate) fn slot(vip: u16, slot_hash: u64, flow_hash: u64, slot: u32, member: u16) {
    change(|trace| {
        trace.vip = vip;
        trace.slot_hash = slot_hash;
        trace.flow_hash = flow_hash;
        trace.slot = slot;
        trace.member = member;
        trace.decision = decision::RING;
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
