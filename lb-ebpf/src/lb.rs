//! `evenkeel_lb`: the balancer.
//!
//! A packet's way: `link` finds the IP header, `ipv4`/`ipv6` the flow, `services` the VIP; then
//! `forward` asks `select` (and that `tracking`) for the member and sends the packet by `encap` or as
//! it is. `nat`, `icmp` and `fragments` are side ways. Every packet ends in `verdict`, where it is
//! counted under its reason.
#![no_std]
#![no_main]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key that lies in a map is read there; by value it would be copied to the stack first"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the signature that the macro wants"
)]

use aya_ebpf::{macros::xdp, programs::XdpContext};

mod budget;
mod clock;
mod counters;
mod dispatch;
mod encap;
mod ethernet;
mod extensions;
mod forward;
mod fragments;
mod headers;
mod icmp;
mod ip;
mod ipv4;
mod ipv6;
mod later_fragment;
mod log;
mod maps;
mod nat;
mod packet;
mod receive;
mod route;
mod samples;
mod scratch;
mod select;
mod services;
mod stages;
mod table;
mod trace;
mod tracking;
mod transmit;
mod transport;
mod verdict;
mod wire;

/// Entry point: takes a frame, returns what becomes of it.
#[xdp]
fn evenkeel_lb(ctx: XdpContext) -> u32 {
    stages::run(ctx.ctx, receive::receive(ctx.ctx)).finish()
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
