//! What becomes of a packet, and why.

use core::hint::black_box;

use aya_ebpf::bindings::xdp_action;
use lb_common::reason::{FIRST_DROPPED, FIRST_PASSED, Reason};

use crate::{counters, log, stages::Stage, trace};

/// The end of a packet's way: the XDP action in bits 0–5, whether it was counted under its reason in bit 6, the
/// reason in bits 8–15. Or, with bit 7, the stage that comes next in bits 0–6, an offset in bits 8–15 and a number
/// in bits 16–31.
///
/// One word, because a BPF function returns one register; a plain number where the function is a
/// global one, which returns nothing else.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Verdict(pub(crate) u32);

const NEXT: u32 = 0x80;
const COUNTED: u32 = 0x40;

impl Verdict {
    /// The packet is passed or dropped, as the reason says.
    #[inline(always)]
    pub(crate) const fn of(reason: Reason) -> Self {
        let number = reason as u32;
        let action = if number >= FIRST_PASSED as u32 && number < FIRST_DROPPED as u32 {
            xdp_action::XDP_PASS
        } else {
            xdp_action::XDP_DROP
        };
        Self(number << 8 | action)
    }

    /// The verdict of a stage that the verifier checks by itself: to it, any number may come back. The
    /// compiler sees which ones do, and must not drop a bound because of that.
    #[inline(always)]
    pub(crate) fn from_stage(number: u32) -> Self {
        Self(black_box(number))
    }

    /// What becomes of a packet that is refused. One to a NAT source may be the host's own: it is passed,
    /// and the host decides.
    #[inline(always)]
    pub(crate) fn refused(reason: Reason, to_nat_source: bool) -> Self {
        if to_nat_source && reason as u32 >= FIRST_DROPPED as u32 {
            return Self::of(Reason::NatNoSession);
        }
        Self::of(reason)
    }

    /// The packet is passed for the reason with this number.
    #[inline(always)]
    pub(crate) const fn passed(reason: u32) -> Self {
        Self(reason << 8 | xdp_action::XDP_PASS)
    }

    /// The packet is dropped for the reason with this number.
    #[inline(always)]
    pub(crate) const fn dropped(reason: u32) -> Self {
        Self(reason << 8 | xdp_action::XDP_DROP)
    }

    /// The packet is sent by this XDP action; it was counted already, together with what its member got.
    #[inline(always)]
    pub(crate) const fn counted(reason: Reason, action: u32) -> Self {
        Self((reason as u32) << 8 | COUNTED | action)
    }

    /// The packet is sent by this XDP action.
    #[inline(always)]
    pub(crate) const fn sent(reason: Reason, action: u32) -> Self {
        Self((reason as u32) << 8 | action)
    }

    /// The packet goes on to a stage.
    #[inline(always)]
    pub(crate) const fn next(stage: Stage, offset: u32, number: u32) -> Self {
        Self(NEXT | stage as u32 | (offset & 0xff) << 8 | number << 16)
    }

    /// The stage that comes next, if one does, with the offset and the number that it takes.
    #[inline(always)]
    pub(crate) fn next_stage(self) -> Option<(u32, u32, u32)> {
        if self.0 & NEXT == 0 {
            return None;
        }
        Some((self.0 & 0x7f, self.0 >> 8 & 0xff, self.0 >> 16))
    }

    /// Whether no stage comes next. A packet to a member then is sent; else its sender is told something.
    #[inline(always)]
    pub(crate) const fn is_last(self) -> bool {
        self.0 & NEXT == 0
    }

    /// Counts the packet under its reason, and gives the action to return to the kernel.
    #[inline(always)]
    pub(crate) fn finish(self) -> u32 {
        let (reason, action) = (self.0 >> 8, self.0 & 0x3f);
        if self.0 & COUNTED == 0 {
            counters::count_reason(reason);
        }
        trace::finished(reason, action);
        action
    }
}

/// The verdict of a stage that may have given up; the packet's headers are in the scratch.
#[inline(always)]
pub(crate) fn settle(result: Result<Verdict, Reason>) -> Verdict {
    match result {
        Ok(verdict) => verdict,
        Err(reason) => log::refuse(reason),
    }
}
