//! Programs of the benchmark: a wrapper that generates packets, and the minimal programs ("floors")
//! that others are compared with. Never attached.
#![no_std]
#![no_main]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the signature that the macro wants"
)]

use core::hint::black_box;

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, xdp_action, xdp_md},
    btf_maps::{Array, ProgramArray},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_common::{
    bench::{Flow, Plan, third_word_v4},
    family,
};

#[expect(dead_code, reason = "the floors need little of it")]
mod packet;
#[expect(dead_code, reason = "the floors need little of it")]
mod wire;

use packet::{Packet, adjust_head};
use wire::{ether, ethernet, ipv4, ipv6, tcp};

const V4: usize = ipv4::LEN;
const V6: usize = ipv6::LEN;
const TCP: usize = tcp::LEN;
/// Offset of the IP header.
const L3: usize = ethernet::LEN;

/// What packets to generate.
#[btf_map]
static PLAN: Array<Plan, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// The program under test.
#[btf_map]
static MEASURED: ProgramArray<1> = ProgramArray::new();

/// Generates the next packet from the previous run's output, and calls the program under test.
#[xdp]
fn evenkeel_wrapper(ctx: XdpContext) -> u32 {
    if make(ctx.ctx).is_some() {
        // SAFETY: there is nothing to drop.
        unsafe { MEASURED.tail_call(&ctx, 0) };
    }
    xdp_action::XDP_ABORTED
}

#[inline(always)]
fn make(ctx: *mut xdp_md) -> Option<()> {
    // SAFETY: the only entry; benchmarks run in one thread.
    let plan = unsafe { &mut *PLAN.get_ptr_mut(0)? };
    // `black_box` keeps the order of the subtraction; the verifier rejects the other one.
    let grown = black_box(Packet::of(ctx).len()) as i32 - plan.frame_len as i32;
    if grown != 0 && !adjust_head(ctx, grown) {
        return None;
    }
    let flow = Flow::of_packet(plan.made, plan.flow_mask);
    plan.made += 1;
    let packet = Packet::of(ctx);
    if plan.family == u32::from(family::V4) {
        make_v4(packet, plan, flow)
    } else {
        make_v6(packet, plan, flow)
    }
}

/// The stores have the sizes of the loads in the measured programs: otherwise store-to-load
/// forwarding fails, a cost that no driver's packet has.
#[inline(always)]
fn make_v4(packet: Packet, plan: &Plan, flow: Flow) -> Option<()> {
    let frame = packet.view::<{ L3 + V4 + TCP }>(0)?;
    let (source, dest) = (flow.source_v4(), flow.dest_v4(plan));
    frame.set(0, plan.ethernet[0]);
    frame.set(8, plan.ethernet[1] as u32);
    frame.set(ethernet::ETHER_TYPE, (plan.ethernet[1] >> 32) as u16);
    frame.set(L3, plan.ip);
    frame.set(L3 + ipv4::TTL, third_word_v4(plan, source, dest));
    frame.set(L3 + ipv4::SOURCE, source);
    frame.set(L3 + ipv4::DEST, dest);
    frame.set(
        L3 + V4,
        plan.transport[0] | u64::from(flow.source_be()) & plan.port_mask,
    );
    frame.set(L3 + V4 + 8, plan.transport[1]);
    frame.set(L3 + V4 + 16, plan.transport[2] as u32);
    Some(())
}

#[inline(always)]
fn make_v6(packet: Packet, plan: &Plan, flow: Flow) -> Option<()> {
    let frame = packet.view::<{ L3 + V6 + TCP }>(0)?;
    frame.set(0, plan.ethernet[0]);
    frame.set(8, plan.ethernet[1] as u32);
    frame.set(ethernet::ETHER_TYPE, (plan.ethernet[1] >> 32) as u16);
    frame.set(L3, plan.ip);
    frame.set(L3 + ipv6::SOURCE, plan.source[0]);
    frame.set(L3 + ipv6::SOURCE + 8, flow.source_v6(plan.source[1]));
    frame.set(L3 + ipv6::DEST, plan.dest[0]);
    frame.set(L3 + ipv6::DEST + 8, plan.dest[1]);
    frame.set(
        L3 + V6,
        plan.transport[0] | u64::from(flow.source_be()) & plan.port_mask,
    );
    frame.set(L3 + V6 + 8, plan.transport[1]);
    frame.set(L3 + V6 + 16, plan.transport[2] as u32);
    Some(())
}

/// Floor: the cheapest possible program.
#[xdp]
fn floor_tx(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

/// Floor: the cheapest program that adds an IPv4 header.
#[xdp]
fn floor_encap4(ctx: XdpContext) -> u32 {
    if encap4(ctx.ctx).is_some() {
        xdp_action::XDP_TX
    } else {
        xdp_action::XDP_ABORTED
    }
}

/// Floor: the cheapest program that adds an IPv6 header.
#[xdp]
fn floor_encap6(ctx: XdpContext) -> u32 {
    if encap6(ctx.ctx).is_some() {
        xdp_action::XDP_TX
    } else {
        xdp_action::XDP_ABORTED
    }
}

#[inline(always)]
fn encap4(ctx: *mut xdp_md) -> Option<()> {
    if !adjust_head(ctx, -(V4 as i32)) {
        return None;
    }
    let frame = Packet::of(ctx).view::<{ L3 + V4 }>(0)?;
    frame.set(0, 0x0202_0202_u32);
    frame.set(4, 0x0404_0202_u32);
    frame.set(8, 0x0404_0404_u32);
    frame.set(ethernet::ETHER_TYPE, ether::IPV4);
    frame.set(L3, 0x5400_0045_u32);
    frame.set(L3 + ipv4::ID, 0x0040_0000_u32);
    frame.set(L3 + ipv4::TTL, 0x1234_0440_u32);
    frame.set(L3 + ipv4::SOURCE, 0x0100_000a_u32);
    frame.set(L3 + ipv4::DEST, 0x0200_000a_u32);
    Some(())
}

#[inline(always)]
fn encap6(ctx: *mut xdp_md) -> Option<()> {
    if !adjust_head(ctx, -(V6 as i32)) {
        return None;
    }
    let frame = Packet::of(ctx).view::<{ L3 + V6 }>(0)?;
    frame.set(0, 0x0202_0202_u32);
    frame.set(4, 0x0404_0202_u32);
    frame.set(8, 0x0404_0404_u32);
    frame.set(ethernet::ETHER_TYPE, ether::IPV6);
    frame.set(L3, 0x60_u32);
    frame.set(L3 + ipv6::PAYLOAD_LENGTH, 0x4029_3c00_u32);
    frame.set(L3 + ipv6::SOURCE, 0xfd_u64);
    frame.set(L3 + ipv6::SOURCE + 8, 1_u64);
    frame.set(L3 + ipv6::DEST, 0xfd_u64);
    frame.set(L3 + ipv6::DEST + 8, 2_u64);
    Some(())
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
