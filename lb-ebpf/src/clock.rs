//! Time in seconds, from jiffies.

use aya_ebpf::{helpers, macros::xdp, programs::XdpContext};
use lb_common::node;

use crate::{maps::JIFFIES_SHIFT, packet::Packet, tables};

/// The data path's seconds, see [`node::seconds`].
#[inline(always)]
pub(crate) fn now_s() -> u64 {
    node::seconds(jiffies(), JIFFIES_SHIFT.load())
}

/// The kernel's ticks: 100 to 1,000 per second.
#[inline(always)]
pub(crate) fn jiffies() -> u64 {
    // SAFETY: no arguments; reads a kernel variable (Linux 5.6).
    unsafe { helpers::generated::bpf_jiffies64() }
}

/// The time for rate limits in nanoseconds.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    match tables::clock_ns() {
        // SAFETY: no arguments; reads the clock.
        0 => unsafe { helpers::generated::bpf_ktime_get_ns() },
        now_ns => now_ns,
    }
}

/// Writes jiffies and the monotonic clock into the packet: the controller runs it to measure the
/// tick rate. Never attached.
#[xdp]
fn evenkeel_clock(ctx: XdpContext) -> u32 {
    if let Some(bytes) = Packet::of(ctx.ctx).view::<16>(0) {
        bytes.set(0, jiffies());
        // SAFETY: no arguments; reads the clock.
        bytes.set(8, unsafe { helpers::generated::bpf_ktime_get_ns() });
    }
    aya_ebpf::bindings::xdp_action::XDP_PASS
}
