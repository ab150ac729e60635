//! Receives frames: Ethernet with up to two VLAN tags.

use aya_ebpf::bindings::xdp_md;
use lb_common::reason::Reason;

use crate::{
    ipv4, ipv6,
    packet::Packet,
    verdict::{FastPath, Stage, Verdict},
    wire::{ether, ethernet},
};

/// Finds the IP header of a frame and parses the packet.
#[inline(always)]
pub(crate) fn receive(ctx: *mut xdp_md) -> FastPath {
    let packet = Packet::of(ctx);
    let Some(frame) = packet.view::<{ ethernet::LEN }>(0) else {
        return Verdict::of(Reason::Truncated).into();
    };
    let mut ether_type = frame.get::<u16>(ethernet::ETHER_TYPE);
    let mut l3 = ethernet::LEN;
    if ether::is_vlan(ether_type) {
        for _ in 0..2 {
            if !ether::is_vlan(ether_type) {
                break;
            }
            let Some(tag) = packet.view::<{ ether::TAG_LEN }>(l3) else {
                return Verdict::of(Reason::Truncated).into();
            };
            ether_type = tag.get(2);
            l3 += ether::TAG_LEN;
        }
    }
    match ether_type {
        ether::IPV4 | ether::IPV6 if l3 != ethernet::LEN => {
            let is_v6 = u32::from(ether_type == ether::IPV6);
            Verdict::next(Stage::Tagged, l3 as u32, is_v6).into()
        }
        ether::IPV4 => ipv4::receive(ctx, packet, ethernet::LEN, frame),
        ether::IPV6 => ipv6::receive(ctx, packet, ethernet::LEN, frame),
        _ => Verdict::of(Reason::NotIp).into(),
    }
}

/// Receives a frame with VLAN tags, whose IP header is at `l3`. A stage of its own, so that the
/// offsets in untagged frames are constants.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn receive_tagged(ctx: *mut xdp_md, l3: u32, is_v6: u32) -> u32 {
    // Constants here, too: with a variable offset the compiler removes bounds checks that the
    // verifier needs.
    let packet = Packet::of(ctx);
    let Some(frame) = packet.view::<{ ethernet::LEN }>(0) else {
        return Verdict::of(Reason::Truncated).0;
    };
    let received = match (l3 as usize, is_v6) {
        (ethernet::TAGGED_LEN, 0) => ipv4::receive(ctx, packet, ethernet::TAGGED_LEN, frame),
        (ethernet::TAGGED_LEN, _) => ipv6::receive(ctx, packet, ethernet::TAGGED_LEN, frame),
        (_, 0) => ipv4::receive(ctx, packet, ethernet::DOUBLE_TAGGED_LEN, frame),
        _ => ipv6::receive(ctx, packet, ethernet::DOUBLE_TAGGED_LEN, frame),
    };
    received.verdict().0
}
