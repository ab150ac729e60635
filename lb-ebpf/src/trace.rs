//! Traces the decisions about a packet, for `simulate --trace` and `explain`.
//!
//! Unless [`TRACING`] is set, the verifier removes everything but the check. The reader resets the
//! trace to [`Trace::EMPTY`] before each packet.

use lb_common::trace::{Trace, decision};

use crate::{counters::block, maps::TRACING};

#[inline(always)]
fn change(change: impl FnOnce(&mut Trace)) {
    if TRACING.load() != 0
        && let Some(block) = block()
    {
        core::hint::cold_path();
        // SAFETY: the block of this CPU, which nothing else writes while the program runs.
        change(unsafe { &mut (*block).trace });
    }
}

/// Records the VIP.
#[inline(always)]
pub(crate) fn vip(vip: u16) {
    change(|trace| trace.vip = vip);
}

/// Records the ring lookup.
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

/// Records the member and how it was found.
#[inline(always)]
pub(crate) fn member(member: u16, decision: u32) {
    change(|trace| {
        trace.member = member;
        trace.decision = decision;
    });
}

/// Records the final verdict.
#[inline(always)]
pub(crate) fn finished(reason: u32, verdict: u32) {
    change(|trace| {
        trace.reason = reason;
        trace.verdict = verdict;
    });
}

/// Records the member only.
#[inline(always)]
pub(crate) fn member_found(member: u16) {
    change(|trace| trace.member = member);
}
