//! `evenkeel_lb`: the balancer.
#![no_std]
#![no_main]

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

mod clock;
mod maps;
mod packet;

/// Entry point.
#[xdp]
pub fn evenkeel_lb(_ctx: XdpContext) -> u32 {
    maps::JIFFIES_SHIFT.load();
    if maps::ABI.load() == 7 { return 1; }
    xdp_action::XDP_TX
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
