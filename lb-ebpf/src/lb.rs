//! `evenkeel_lb`: the balancer.
//!
//! `receive` finds the IP header, `ipv4` and `ipv6` parse the flow, `services` finds the VIP. Then
//! `forward` selects the member (`select`, `tracking`) and transmits the packet, encapsulated
//! (`encap`) or with a new link header. NAT, ICMP and fragments have modules of their own. Every
//! packet ends with a `verdict` and is counted under one reason.
#![no_std]
#![no_main]
// For one atomic addition.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key that lies in a map is read there; by value it would be copied to the stack first"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the signature that the macro wants"
)]

use aya_ebpf::{bindings::xdp_md, macros::xdp, programs::XdpContext};

use verdict::FastPath;

mod bound;
mod budget;
mod capture;
mod clock;
mod counters;
mod dispatch;
mod encap;
mod ethernet;
mod extensions;
mod first_syns;
mod forward;
mod fragments;
mod headers;
mod icmp;
mod ip;
mod ipv4;
mod ipv6;
mod later_fragment;
mod limits;
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
mod spilled;
mod stages;
mod tables;
mod trace;
mod tracking;
mod transmit;
mod transport;
mod verdict;
mod wire;

/// Entry point: processes a frame and returns the XDP action.
#[xdp]
#[inline(always)]
fn evenkeel_lb(ctx: XdpContext) -> u32 {
    process(ctx.ctx)
}

/// The same for the time of a capture: also records the frame before and after. Loaded with tracing.
#[xdp]
#[inline(always)]
fn evenkeel_capture(ctx: XdpContext) -> u32 {
    capture::begin_capture(ctx.ctx);
    let action = process(ctx.ctx);
    capture::end_capture(ctx.ctx);
    action
}

#[inline(always)]
fn process(ctx: *mut xdp_md) -> u32 {
    match receive::receive(ctx) {
        FastPath::Sent(action) => FastPath::finish(action),
        FastPath::Other(verdict) => stages::run(ctx, verdict).finish(),
    }
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
