//! What becomes of a packet, and why.

use aya_ebpf::bindings::xdp_action;
use lb_common::reason::{FIRST_DROPPED, FIRST_PASSED, Reason};

use crate::{counters, trace};

/// The end of a packet's way: the XDP action in bits 0–7, the reason in bits 8–15.
///
/// One word, because a BPF function returns one register.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Verdict(u32);

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

    /// The packet is sent by this XDP action.
    #[inline(always)]
    pub(crate) const fn sent(reason: Reason, action: u32) -> Self {
        Self((reason as u32) << 8 | action)
    }

    /// Counts the packet under its reason, and gives the action to return to the kernel.
    #[inline(always)]
    pub(crate) fn finish(self) -> u32 {
        let (reason, action) = (self.0 >> 8, self.0 & 0xff);
        counters::count_reason(reason);
        trace::finished(reason, action);
        action
    }
}
