//! Reports of routers that a packet encapsulated for `ipip` is too big.
//!
//! They go to the outer source, which is this node. The MTU is kept for the member, and larger
//! packets of clients are answered with an ICMP error from then on ([`lb_common::tunnel`]). The
//! report itself is passed to the host, which keeps path MTUs of its own.

use aya_ebpf::bindings::xdp_md;
use lb_common::{
    Address, address_v4, family,
    member::{Member, control},
    proto,
    reason::Reason,
    ring::MemberIndex,
    tunnel::{MIN_MTU_V4, MIN_MTU_V6, PathMtu},
    vip::forward,
};

use crate::{
    clock,
    ethernet::is_for_other_host,
    headers::{Headers, dest_v6, source_v6},
    ip::inner_protocol,
    packet::{Packet, View},
    select::{Asked, choose},
    services::service,
    tables,
    verdict::{Stage, Verdict},
    wire::{icmp, ipv4, ipv6, ports},
};

/// The outer header that a report quotes.
struct Outer {
    family: u8,
    /// Offset of the inner header.
    inner: usize,
    source: Address,
    dest: Address,
    protocol: u8,
    /// Length of the packet in bytes.
    length: u32,
    /// The reported MTU.
    mtu: u32,
}

/// A message to an address without services continues with the stage for reports if it may be one;
/// otherwise it is passed for this reason.
#[inline(always)]
pub(crate) fn report_v4(packet: Packet, l3: usize, passed: Reason) -> Verdict {
    let is_report = packet
        .view::<{ ipv4::LEN + icmp::LEN }>(l3)
        .is_some_and(|ip| {
            ip.get::<u8>(ipv4::PROTOCOL) == proto::ICMP
                && ip.get::<u8>(ipv4::LEN + icmp::TYPE) == icmp::v4::UNREACHABLE
                && ip.get::<u8>(ipv4::LEN + icmp::CODE) == icmp::v4::FRAGMENTATION_NEEDED
        });
    if is_report {
        Verdict::next(Stage::TunnelV4, l3 as u32, passed as u32)
    } else {
        Verdict::of(passed)
    }
}

/// The same for IPv6.
#[inline(always)]
pub(crate) fn report_v6(packet: Packet, l3: usize, passed: Reason) -> Verdict {
    let is_report = packet
        .view::<{ ipv6::LEN + icmp::LEN }>(l3)
        .is_some_and(|ip| {
            ip.get::<u8>(ipv6::NEXT_HEADER) == proto::ICMPV6
                && ip.get::<u8>(ipv6::LEN + icmp::TYPE) == icmp::v6::PACKET_TOO_BIG
        });
    if is_report {
        Verdict::next(Stage::TunnelV6, l3 as u32, passed as u32)
    } else {
        Verdict::of(passed)
    }
}

/// The same for an error of either family, which was parsed.
#[inline(always)]
pub(super) fn report(headers: &Headers, passed: Reason) -> Verdict {
    let stage = if headers.family == family::V4 {
        Stage::TunnelV4
    } else {
        Stage::TunnelV6
    };
    Verdict::next(stage, headers.l3, passed as u32)
}

/// Processes a report, or passes the packet for the reason `passed`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn tunnel_v4(ctx: *mut xdp_md, l3: u32, passed: u32) -> u32 {
    let outer = outer_v4(Packet::of(ctx), (l3 & 0x1f) as usize);
    finish(ctx, outer, passed).0
}

/// The same for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn tunnel_v6(ctx: *mut xdp_md, l3: u32, passed: u32) -> u32 {
    let outer = outer_v6(Packet::of(ctx), (l3 & 0x1f) as usize);
    finish(ctx, outer, passed).0
}

#[inline(always)]
fn finish(ctx: *mut xdp_md, outer: Option<Outer>, passed: u32) -> Verdict {
    match outer {
        Some(outer) if !is_for_other_host(ctx) && learn(ctx, &outer).is_some() => {
            Verdict::of(Reason::TunnelMtu)
        }
        _ => Verdict::passed(passed),
    }
}

/// Reads the headers of a report and its quote, all without options.
#[inline(always)]
fn outer_v4(packet: Packet, l3: usize) -> Option<Outer> {
    const QUOTE: usize = ipv4::LEN + icmp::LEN;
    let ip = packet.view::<{ QUOTE + ipv4::LEN }>(l3)?;
    let is_report = ip.get::<u8>(ipv4::VERSION_IHL) == ipv4::NO_OPTIONS
        && ip.get::<u16>(ipv4::FRAGMENT) & ipv4::FRAGMENT_BITS == 0
        && ip.get::<u8>(ipv4::PROTOCOL) == proto::ICMP
        && ip.get::<u8>(ipv4::LEN + icmp::TYPE) == icmp::v4::UNREACHABLE
        && ip.get::<u8>(ipv4::LEN + icmp::CODE) == icmp::v4::FRAGMENTATION_NEEDED;
    let quotes_us = ip.get::<u8>(QUOTE + ipv4::VERSION_IHL) == ipv4::NO_OPTIONS
        && ip.get::<u32>(QUOTE + ipv4::SOURCE) == ip.get::<u32>(ipv4::DEST);
    if !is_report || !quotes_us {
        return None;
    }
    Some(Outer {
        family: family::V4,
        inner: l3 + QUOTE + ipv4::LEN,
        source: address_v4(ip.get(QUOTE + ipv4::SOURCE)),
        dest: address_v4(ip.get(QUOTE + ipv4::DEST)),
        protocol: ip.get(QUOTE + ipv4::PROTOCOL),
        length: ip.be16(QUOTE + ipv4::TOTAL_LENGTH).into(),
        // Old routers report 0.
        mtu: u32::from(ip.be16(ipv4::LEN + icmp::REST + 2)).max(MIN_MTU_V4),
    })
}

#[inline(always)]
fn outer_v6(packet: Packet, l3: usize) -> Option<Outer> {
    const QUOTE: usize = ipv6::LEN + icmp::LEN;
    let ip = packet.view::<{ QUOTE + ipv6::LEN }>(l3)?;
    let is_report = ip.get::<u8>(ipv6::NEXT_HEADER) == proto::ICMPV6
        && ip.get::<u8>(ipv6::LEN + icmp::TYPE) == icmp::v6::PACKET_TOO_BIG;
    let source: Address = [
        ip.get(QUOTE + ipv6::SOURCE),
        ip.get(QUOTE + ipv6::SOURCE + 8),
    ];
    if !is_report || source != dest_v6(ip) {
        return None;
    }
    Some(Outer {
        family: family::V6,
        inner: l3 + QUOTE + ipv6::LEN,
        source,
        dest: [ip.get(QUOTE + ipv6::DEST), ip.get(QUOTE + ipv6::DEST + 8)],
        protocol: ip.get(QUOTE + ipv6::NEXT_HEADER),
        length: u32::from(ip.be16(QUOTE + ipv6::PAYLOAD_LENGTH)) + ipv6::LEN as u32,
        mtu: u32::from_be(ip.get(ipv6::LEN + icmp::REST)).max(MIN_MTU_V6),
    })
}

/// Parses the quoted inner packet: what a client sent.
#[inline(always)]
fn inner(ctx: *mut xdp_md, outer: &Outer) -> Option<Headers> {
    let packet = Packet::of(ctx);
    if outer.protocol == proto::IPIP {
        let ip: View<{ ipv4::LEN + ports::LEN }> = packet.view(outer.inner)?;
        let is_plain = ip.get::<u8>(ipv4::VERSION_IHL) == ipv4::NO_OPTIONS
            && ip.get::<u16>(ipv4::FRAGMENT) & ipv4::OFFSET_BITS == 0;
        return is_plain.then(|| Headers {
            family: family::V4,
            protocol: ip.get(ipv4::PROTOCOL),
            source: address_v4(ip.get(ipv4::SOURCE)),
            dest: address_v4(ip.get(ipv4::DEST)),
            source_be: ip.get(ipv4::LEN + ports::SOURCE),
            dest_be: ip.get(ipv4::LEN + ports::DEST),
            ..Headers::EMPTY
        });
    }
    if outer.protocol != inner_protocol(family::V6) {
        return None;
    }
    let ip: View<{ ipv6::LEN + ports::LEN }> = packet.view(outer.inner)?;
    Some(Headers {
        family: family::V6,
        protocol: ip.get(ipv6::NEXT_HEADER),
        source: source_v6(ip),
        dest: dest_v6(ip),
        source_be: ip.get(ipv6::LEN + ports::SOURCE),
        dest_be: ip.get(ipv6::LEN + ports::DEST),
        ..Headers::EMPTY
    })
}

/// Stores the MTU for the member if the quoted packet is one that this node sends to it.
#[inline(always)]
fn learn(ctx: *mut xdp_md, outer: &Outer) -> Option<()> {
    let headers = inner(ctx, outer)?;
    let Headers {
        family,
        protocol,
        dest_be,
        ..
    } = headers;
    let found = service(&headers.dest, family, protocol, dest_be);
    // An honest report is about a packet that did not fit.
    if !found.is_vip() || outer.length <= outer.mtu {
        return None;
    }
    let vip = tables::vip(found.index());
    if vip.mode() != forward::IPIP {
        return None;
    }
    let choice = choose(vip, found.index(), &headers, false, Asked::NONE).ok()?;
    // SAFETY: an element of a mapped array, as in `route_to`.
    let entry = unsafe { &*tables::member(choice.member()) };
    if !is_outer_of(entry, outer, choice.flow_hash) {
        return None;
    }
    store(choice.member(), entry, outer.mtu)
}

/// Whether the outer header is what [`crate::encap`] writes. The varying bits of its source come
/// from the keyed hash of the flow, so that others can't guess them.
#[inline(always)]
fn is_outer_of(entry: &Member, outer: &Outer, flow_hash: u64) -> bool {
    // SAFETY: a word of a mapped array, stored atomically by the controller.
    let word = unsafe { (&raw const entry.control).read_volatile() };
    let varied = flow_hash as u32 & entry.vary_mask;
    let source = if outer.family == family::V4 {
        [entry.source[0] | u64::from(varied), 0]
    } else {
        [entry.source[0], entry.source[1] | u64::from(varied) << 32]
    };
    control::family(word) == outer.family && entry.address == outer.dest && source == outer.source
}

#[inline(always)]
fn store(member: MemberIndex, entry: &Member, mtu: u32) -> Option<()> {
    let at = tables::path_mtu(member);
    // SAFETY: words of mapped arrays.
    let (word, before) = unsafe {
        (
            (&raw const entry.control).read_volatile(),
            at.read_volatile(),
        )
    };
    let now_s = clock::now_s() as u32;
    let known = PathMtu::unpack(before);
    // A larger MTU than the known one is about another path.
    if known.is_valid(word, now_s) && u32::from(known.mtu) < mtu {
        return Some(());
    }
    let learned = PathMtu {
        mtu: if mtu > 0xffff { 0xffff } else { mtu as u16 },
        generation: control::generation(word) as u16,
        at_s: now_s,
    };
    // SAFETY: a word of a mapped array, which only the data path writes.
    unsafe { at.cast_mut().write_volatile(learned.pack()) };
    Some(())
}

/// Returns the path MTU that was reported for a member; the largest number if none was.
#[inline(always)]
pub(crate) fn path_mtu(member: MemberIndex, entry: &Member) -> u32 {
    // SAFETY: words of mapped arrays.
    let learned = unsafe { tables::path_mtu(member).read_volatile() };
    if learned == 0 {
        return u32::MAX;
    }
    // SAFETY: as above.
    let word = unsafe { (&raw const entry.control).read_volatile() };
    let learned = PathMtu::unpack(learned);
    if learned.is_valid(word, clock::now_s() as u32) {
        u32::from(learned.mtu)
    } else {
        u32::MAX
    }
}
