//! `evenkeel_clock`: tells the controller what the kernel's clocks say.
//!
//! The data path's seconds are jiffies shifted right, and userspace can't read jiffies. The program
//! is never attached; the controller runs it on a frame of its own.

use aya_ebpf::{bindings::xdp_action, helpers::generated, macros::xdp, programs::XdpContext};

use crate::packet::Packet;

/// Writes jiffies to the first eight bytes of the packet, and nanoseconds to the next eight.
#[xdp]
pub(crate) fn evenkeel_clock(ctx: XdpContext) -> u32 {
    let Some(clocks) = Packet::of(ctx.ctx).view::<16>(0) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: helper calls without arguments.
    let (jiffies, now_ns) = unsafe { (generated::bpf_jiffies64(), generated::bpf_ktime_get_ns()) };
    clocks.set::<u64>(0, jiffies);
    clocks.set::<u64>(8, now_ns);
    xdp_action::XDP_PASS
}
