//! `evenkeel_decap`: the program that runs on a backend host. It removes the outer header of `ipip`
//! packets, in all four combinations of address families, and passes the inner packet to the
//! kernel.
//!
//! Only packets to this host are decapsulated; the controller keeps [`ADDRESSES`] current. Packets
//! that are not encapsulated, not for this host, fragmented or with options are passed untouched.
//! Malformed packets for this host are dropped: the kernel would answer them or read beyond their
//! end. The kernel verifies the checksum of the inner header.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    btf_maps::{HashMap, PerCpuArray},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_common::{
    Address, address_v4, checksum,
    decap::{ADDRESS_TABLE_SIZE, DecapCounters, LocalAddress, decapsulated_ecn},
    family, proto,
};

#[expect(
    dead_code,
    reason = "the balancer uses all of it, this program does not"
)]
mod packet;

#[expect(
    dead_code,
    reason = "the balancer uses all of it, this program does not"
)]
mod wire;

use packet::{Packet, adjust_head, adjust_tail};
use wire::{ether, ethernet, ipv4, ipv6};

/// Addresses of this host. A hash map, so that updates are atomic; only encapsulated packets pay
/// for the lookup.
#[btf_map]
static ADDRESSES: HashMap<LocalAddress, u32, { ADDRESS_TABLE_SIZE as usize }> = HashMap::new();

#[btf_map]
static COUNTERS: PerCpuArray<DecapCounters, 1> = PerCpuArray::new();

const V4: usize = ipv4::LEN;
const V6: usize = ipv6::LEN;

/// Why a packet is not decapsulated.
#[derive(Clone, Copy)]
enum Refusal {
    /// Not encapsulated, or not for this host: passed.
    NotLocal,
    /// A fragment, or with options: passed to the kernel.
    Declined,
    Malformed,
    Congested,
    Failed,
}

/// Entry point: processes a frame and returns the XDP action.
#[xdp]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn evenkeel_decap(ctx: XdpContext) -> u32 {
    let bytes = Packet::of(ctx.ctx).len();
    match receive(ctx.ctx) {
        Ok(combination) => {
            count(|counters| {
                counters.bytes += u64::from(bytes);
                match combination {
                    (family::V4, family::V4) => counters.v4_in_v4 += 1,
                    (family::V4, _) => counters.v6_in_v4 += 1,
                    (_, family::V4) => counters.v4_in_v6 += 1,
                    _ => counters.v6_in_v6 += 1,
                }
            });
            xdp_action::XDP_PASS
        }
        Err(refusal) => refuse(refusal),
    }
}

/// Counts a packet that is not decapsulated, and passes or drops it unchanged.
#[inline(always)]
fn refuse(refusal: Refusal) -> u32 {
    count(|counters| match refusal {
        Refusal::NotLocal => counters.passed += 1,
        Refusal::Declined => counters.declined += 1,
        Refusal::Malformed => counters.malformed += 1,
        Refusal::Congested => counters.congested += 1,
        Refusal::Failed => counters.failed += 1,
    });
    match refusal {
        Refusal::NotLocal | Refusal::Declined => xdp_action::XDP_PASS,
        Refusal::Malformed | Refusal::Congested | Refusal::Failed => xdp_action::XDP_DROP,
    }
}

#[inline(always)]
fn count(change: impl FnOnce(&mut DecapCounters)) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: this CPU's entry; nothing else uses it while the program runs.
        change(unsafe { &mut *counters });
    }
}

/// Parses the outer header and decapsulates the packet. Returns the families of the outer and the
/// inner header.
#[inline(always)]
fn receive(ctx: *mut xdp_md) -> Result<(u8, u8), Refusal> {
    let packet = Packet::of(ctx);
    let frame = packet
        .view::<{ ethernet::LEN }>(0)
        .ok_or(Refusal::NotLocal)?;
    let mut ether_type = frame.get::<u16>(ethernet::ETHER_TYPE);
    let mut l3 = ethernet::LEN;
    for _ in 0..2 {
        if !ether::is_vlan(ether_type) {
            break;
        }
        let tag = packet
            .view::<{ ether::TAG_LEN }>(l3)
            .ok_or(Refusal::NotLocal)?;
        ether_type = tag.get(2);
        l3 += ether::TAG_LEN;
    }
    match ether_type {
        ether::IPV4 => {
            let outer = outer_v4(packet, l3)?;
            Ok((family::V4, decapsulate::<V4>(ctx, packet, l3, outer)?))
        }
        ether::IPV6 => {
            let outer = outer_v6(packet, l3)?;
            Ok((family::V6, decapsulate::<V6>(ctx, packet, l3, outer)?))
        }
        _ => Err(Refusal::NotLocal),
    }
}

/// The parsed outer header.
#[derive(Clone, Copy)]
struct Outer {
    /// Protocol of the inner packet: IPv4 or IPv6.
    protocol: u8,
    /// ECN codepoint.
    ecn: u8,
    /// Bytes after the header; the frame has that many.
    payload: u32,
}

#[inline(always)]
fn outer_v4(packet: Packet, l3: usize) -> Result<Outer, Refusal> {
    let ip = packet.view::<V4>(l3).ok_or(Refusal::NotLocal)?;
    let protocol = ip.get::<u8>(ipv4::PROTOCOL);
    check_local(protocol, address_v4(ip.get(ipv4::DEST)), family::V4)?;
    let first = ip.get::<u8>(ipv4::VERSION_IHL);
    if first >> 4 != 4 || first & 0xf < 5 {
        return Err(Refusal::Malformed);
    }
    if first != ipv4::NO_OPTIONS || ip.get::<u16>(ipv4::FRAGMENT) & ipv4::FRAGMENT_BITS != 0 {
        return Err(Refusal::Declined);
    }
    let length = u32::from(ip.be16(ipv4::TOTAL_LENGTH));
    if checksum::fold(ip.sum_v4()) != 0xffff
        || length < V4 as u32
        || length + l3 as u32 > packet.len()
    {
        return Err(Refusal::Malformed);
    }
    Ok(Outer {
        protocol,
        ecn: ip.get::<u8>(ipv4::TOS) & 3,
        payload: length - V4 as u32,
    })
}

#[inline(always)]
fn outer_v6(packet: Packet, l3: usize) -> Result<Outer, Refusal> {
    let ip = packet.view::<V6>(l3).ok_or(Refusal::NotLocal)?;
    let protocol = ip.get::<u8>(ipv6::NEXT_HEADER);
    check_local(
        protocol,
        [ip.get(ipv6::DEST), ip.get(ipv6::DEST + 8)],
        family::V6,
    )?;
    let payload = u32::from(ip.be16(ipv6::PAYLOAD_LENGTH));
    let length = payload + V6 as u32;
    if ip.get::<u8>(ipv6::VERSION) >> 4 != 6 || length + l3 as u32 > packet.len() {
        return Err(Refusal::Malformed);
    }
    Ok(Outer {
        protocol,
        ecn: ip.get::<u8>(ipv6::VERSION + 1) >> 4 & 3,
        payload,
    })
}

/// Checks that the packet is encapsulated and addressed to this host.
#[inline(always)]
fn check_local(protocol: u8, address: Address, family: u8) -> Result<(), Refusal> {
    if protocol != proto::IPIP && protocol != proto::IPV6 {
        return Err(Refusal::NotLocal);
    }
    let key = LocalAddress {
        address,
        family: u64::from(family),
    };
    match ADDRESSES.get_ptr(key) {
        Some(_) => Ok(()),
        None => Err(Refusal::NotLocal),
    }
}

/// Removes the outer header of `OUTER` bytes. Returns the family of the inner header.
#[inline(always)]
fn decapsulate<const OUTER: usize>(
    ctx: *mut xdp_md,
    packet: Packet,
    l3: usize,
    outer: Outer,
) -> Result<u8, Refusal> {
    let (length, family, ether_type) = if outer.protocol == proto::IPIP {
        let length = inner_v4(packet, l3 + OUTER, outer)?;
        (length, family::V4, ether::IPV4)
    } else {
        let length = inner_v6(packet, l3 + OUTER, outer)?;
        (length, family::V6, ether::IPV6)
    };
    // What follows the inner packet is padding of the outer packet or of the frame.
    let excess = packet.len() - (l3 + OUTER) as u32 - length;
    if excess > 0 && !adjust_tail(ctx, -(excess as i32)) {
        return Err(Refusal::Failed);
    }
    move_link::<OUTER>(Packet::of(ctx), l3, ether_type).ok_or(Refusal::Failed)?;
    if adjust_head(ctx, OUTER as i32) {
        Ok(family)
    } else {
        Err(Refusal::Failed)
    }
}

/// Validates an inner IPv4 header and sets its ECN codepoint. Returns the length of the packet.
#[inline(always)]
fn inner_v4(packet: Packet, at: usize, outer: Outer) -> Result<u32, Refusal> {
    let ip = packet.view::<V4>(at).ok_or(Refusal::Malformed)?;
    let first = ip.get::<u8>(ipv4::VERSION_IHL);
    let header_len = u32::from(first & 0xf) * 4;
    let length = u32::from(ip.be16(ipv4::TOTAL_LENGTH));
    if first >> 4 != 4 || header_len < V4 as u32 || length < header_len || length > outer.payload {
        return Err(Refusal::Malformed);
    }
    let class = ip.get::<u8>(ipv4::TOS);
    let ecn = decapsulated_ecn(outer.ecn, class & 3).ok_or(Refusal::Congested)?;
    if ecn != class & 3 {
        let before = ip.get::<u16>(ipv4::VERSION_IHL);
        ip.set(ipv4::TOS, class & !3 | ecn);
        let delta = checksum::replace_u16(before, ip.get(ipv4::VERSION_IHL));
        ip.set(
            ipv4::CHECKSUM,
            checksum::update(ip.get(ipv4::CHECKSUM), delta),
        );
    }
    Ok(length)
}

/// Validates an inner IPv6 header and sets its ECN codepoint. Returns the length of the packet.
#[inline(always)]
fn inner_v6(packet: Packet, at: usize, outer: Outer) -> Result<u32, Refusal> {
    let ip = packet.view::<V6>(at).ok_or(Refusal::Malformed)?;
    let length = u32::from(ip.be16(ipv6::PAYLOAD_LENGTH)) + V6 as u32;
    if ip.get::<u8>(ipv6::VERSION) >> 4 != 6 || length > outer.payload {
        return Err(Refusal::Malformed);
    }
    // The traffic class spans the first two bytes; ECN is in bits 4–5 of the second one.
    let second = ip.get::<u8>(ipv6::VERSION + 1);
    let ecn = decapsulated_ecn(outer.ecn, second >> 4 & 3).ok_or(Refusal::Congested)?;
    ip.set(ipv6::VERSION + 1, second & !0x30 | ecn << 4);
    Ok(length)
}

/// Moves the link header, VLAN tags included, to the end of the outer header and sets the ether
/// type of the inner packet. Source and target overlap, so all reads precede the writes.
#[inline(always)]
fn move_link<const OUTER: usize>(packet: Packet, l3: usize, ether_type: u16) -> Option<()> {
    let from = packet.view::<{ ethernet::ADDRESSES_LEN }>(0)?;
    let addresses = (from.get::<u64>(0), from.get::<u32>(8));
    let tags = match l3 {
        ethernet::TAGGED_LEN => u64::from(
            packet
                .view::<{ ethernet::TAGGED_LEN }>(0)?
                .get::<u32>(ethernet::ETHER_TYPE),
        ),
        ethernet::DOUBLE_TAGGED_LEN => packet
            .view::<{ ethernet::DOUBLE_TAGGED_LEN }>(0)?
            .get::<u64>(ethernet::ETHER_TYPE),
        _ => 0,
    };
    match l3 {
        ethernet::LEN => packet
            .view::<{ ethernet::LEN }>(OUTER)?
            .set(ethernet::ETHER_TYPE, ether_type),
        ethernet::TAGGED_LEN => {
            let to = packet.view::<{ ethernet::TAGGED_LEN }>(OUTER)?;
            to.set(ethernet::ETHER_TYPE, tags as u32);
            to.set(ethernet::TAGGED_LEN - 2, ether_type);
        }
        ethernet::DOUBLE_TAGGED_LEN => {
            let to = packet.view::<{ ethernet::DOUBLE_TAGGED_LEN }>(OUTER)?;
            to.set(ethernet::ETHER_TYPE, tags);
            to.set(ethernet::DOUBLE_TAGGED_LEN - 2, ether_type);
        }
        _ => return None,
    }
    let to = packet.view::<{ ethernet::ADDRESSES_LEN }>(OUTER)?;
    to.set(0, addresses.0);
    to.set(8, addresses.1);
    Some(())
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
