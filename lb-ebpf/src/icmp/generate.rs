//! Generates ICMP errors: fragmentation needed, packet too big, time exceeded.

use aya_ebpf::bindings::{xdp_action, xdp_md};
use lb_common::{Address, address_v4, checksum, family, proto, reason::Reason};

use super::{
    TTL,
    checksum::{NO_SUM, sum_of},
};
use crate::{
    budget, clock,
    ethernet::{self, Addresses},
    headers::{Headers, dest_v6, is_valid_source, source_v6},
    maps::{ICMP_BUDGET, ICMP_RATE},
    packet::{Packet, adjust_head, adjust_tail},
    verdict::{Stage, Verdict},
    wire::{ether, icmp, ipv4, ipv6},
};

#[derive(Clone, Copy)]
pub(crate) enum Message {
    /// The packet does not fit; the MTU in bytes.
    TooBig(u32),
    /// The TTL or hop limit has expired.
    TimeExceeded,
}

/// Minimum MTU of IPv6 (RFC 8200).
const MIN_MTU_V6: u32 = 1280;

/// Bytes of the packet that are quoted at most: they make a message of 576 bytes, which every host
/// accepts (RFC 1812 §4.3.2.3), or of the minimum MTU (RFC 4443 §2.4). The quote includes the ports
/// behind any options and nearly all extension headers.
const MAX_QUOTE_V4: u32 = 576 - (ipv4::LEN + icmp::LEN) as u32;
const MAX_QUOTE_V6: u32 = MIN_MTU_V6 - (ipv6::LEN + icmp::LEN) as u32;

/// Answers a TCP or UDP packet with an ICMP error, unless it must not be answered or the rate limit
/// is reached.
#[inline(always)]
pub(crate) fn reply_with(headers: &Headers, reply_with: Message) -> Verdict {
    let mtu = match reply_with {
        Message::TooBig(mtu) => {
            if mtu > 0xffff {
                0xffff
            } else {
                mtu
            }
        }
        Message::TimeExceeded => 0,
    };
    let stage = if headers.family == family::V4 {
        Stage::GenerateV4
    } else {
        Stage::GenerateV6
    };
    Verdict::next(stage, headers.l3, mtu)
}

/// Why the packet is dropped if no ICMP error is sent.
#[inline(always)]
fn unanswered_reason(mtu: u32) -> Reason {
    if mtu == 0 {
        Reason::HopLimit
    } else {
        Reason::TooBig
    }
}

/// Sends an ICMP error. `mtu` 0: time exceeded.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn generate_v4(ctx: *mut xdp_md, l3: u32, mtu: u32) -> u32 {
    let unanswered = unanswered_reason(mtu);
    let l3 = (l3 & 0x1f) as usize;
    let packet = Packet::of(ctx);
    let (Some(ip), Ok(link)) = (packet.view::<{ ipv4::LEN }>(l3), Addresses::read(ctx)) else {
        return Verdict::of(Reason::Internal).0;
    };
    let (source, dest) = (
        address_v4(ip.get(ipv4::SOURCE)),
        address_v4(ip.get(ipv4::DEST)),
    );
    let is_later = ip.get::<u16>(ipv4::FRAGMENT) & ipv4::OFFSET_BITS != 0;
    let quote = u32::from(ip.be16(ipv4::TOTAL_LENGTH)).min(MAX_QUOTE_V4);
    // Later fragments are not answered (RFC 1122 §3.2.2).
    if is_later || !may_answer(&source, &dest, family::V4, link) || !within_rate() {
        return Verdict::of(unanswered).0;
    }
    let done = write_v4(ctx, l3, mtu, quote);
    let sent = if mtu == 0 {
        Reason::TimeExceeded
    } else {
        Reason::FragmentationNeeded
    };
    finish(done, sent, unanswered).0
}

#[inline(always)]
fn finish(done: Result<(), Reason>, sent: Reason, unanswered: Reason) -> Verdict {
    match done {
        Ok(()) => Verdict::sent(sent, xdp_action::XDP_TX),
        Err(Reason::TooBig) => Verdict::of(unanswered),
        Err(reason) => Verdict::of(reason),
    }
}

/// Whether this CPU may send another message in this second.
#[inline(always)]
fn within_rate() -> bool {
    budget::take(&ICMP_BUDGET, clock::now_s(), ICMP_RATE.load().into())
}

/// Truncates the packet to `quote` bytes of IP, and adds `room` bytes of headroom.
#[inline(always)]
fn truncate_to_quote(ctx: *mut xdp_md, l3: usize, quote: u32, room: usize) -> Result<(), Reason> {
    let surplus = Packet::of(ctx).len() as i32 - (l3 as u32 + quote) as i32;
    if surplus < 0 {
        return Err(Reason::TooBig);
    }
    if surplus > 0 && !adjust_tail(ctx, -surplus) {
        return Err(Reason::NoRoom);
    }
    if adjust_head(ctx, -(room as i32)) {
        Ok(())
    } else {
        Err(Reason::NoRoom)
    }
}

#[inline(always)]
fn write_v4(ctx: *mut xdp_md, l3: usize, mtu: u32, quote: u32) -> Result<(), Reason> {
    let packet = Packet::of(ctx);
    let ip = packet.view::<{ ipv4::LEN }>(l3).ok_or(Reason::Internal)?;
    let (sender, vip) = (ip.get::<u32>(ipv4::SOURCE), ip.get::<u32>(ipv4::DEST));
    let link = Addresses::read(ctx)?.swapped();
    let tags = ethernet::tags(ctx, l3);
    truncate_to_quote(ctx, l3, quote, ipv4::LEN + icmp::LEN)?;

    let packet = Packet::of(ctx);
    ethernet::write(ctx, l3, link, tags, ether::IPV4)?;
    let ip = packet.view::<{ ipv4::LEN }>(l3).ok_or(Reason::NoRoom)?;
    let room = quote + icmp::LEN as u32;
    let length_be = (ipv4::LEN as u16 + room as u16).to_be();
    let first = u32::from(ipv4::NO_OPTIONS) | u32::from(length_be) << 16;
    let third = u32::from(TTL) | u32::from(proto::ICMP) << 8;
    let sum = u64::from(first) + u64::from(third) + u64::from(vip) + u64::from(sender);
    ip.set(ipv4::VERSION_IHL, first);
    ip.set(ipv4::ID, 0_u32);
    ip.set(ipv4::TTL, third | u32::from(checksum::finish(sum)) << 16);
    ip.set(ipv4::SOURCE, vip);
    ip.set(ipv4::DEST, sender);
    let message = packet
        .view::<{ icmp::LEN }>(l3 + ipv4::LEN)
        .ok_or(Reason::NoRoom)?;
    // Destination unreachable, fragmentation needed; or time exceeded in transit.
    let kind = if mtu == 0 {
        u32::from(icmp::v4::TIME_EXCEEDED)
    } else {
        u32::from(icmp::v4::UNREACHABLE) | u32::from(icmp::v4::FRAGMENTATION_NEEDED) << 8
    };
    message.set(icmp::TYPE, kind);
    message.set(icmp::REST, mtu.to_be());
    finish_icmp(ctx, l3 + ipv4::LEN, room, 0)
}

/// Sends an ICMPv6 error. `mtu` 0: time exceeded.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn generate_v6(ctx: *mut xdp_md, l3: u32, mtu: u32) -> u32 {
    let unanswered = unanswered_reason(mtu);
    let l3 = (l3 & 0x1f) as usize;
    let packet = Packet::of(ctx);
    let (Some(ip), Ok(link)) = (packet.view::<{ ipv6::LEN }>(l3), Addresses::read(ctx)) else {
        return Verdict::of(Reason::Internal).0;
    };
    let source = source_v6(ip);
    let dest = dest_v6(ip);
    let quote = (u32::from(ip.be16(ipv6::PAYLOAD_LENGTH)) + ipv6::LEN as u32).min(MAX_QUOTE_V6);
    if !may_answer(&source, &dest, family::V6, link) || !within_rate() {
        return Verdict::of(unanswered).0;
    }
    let done = write_v6(ctx, l3, mtu, quote);
    let sent = if mtu == 0 {
        Reason::TimeExceeded
    } else {
        Reason::PacketTooBig
    };
    finish(done, sent, unanswered).0
}

#[inline(always)]
fn write_v6(ctx: *mut xdp_md, l3: usize, mtu: u32, quote: u32) -> Result<(), Reason> {
    let packet = Packet::of(ctx);
    let ip = packet.view::<{ ipv6::LEN }>(l3).ok_or(Reason::Internal)?;
    let sender = source_v6(ip);
    let vip = dest_v6(ip);
    let link = Addresses::read(ctx)?.swapped();
    let tags = ethernet::tags(ctx, l3);
    truncate_to_quote(ctx, l3, quote, ipv6::LEN + icmp::LEN)?;

    let packet = Packet::of(ctx);
    ethernet::write(ctx, l3, link, tags, ether::IPV6)?;
    let ip = packet.view::<{ ipv6::LEN }>(l3).ok_or(Reason::NoRoom)?;
    let room = quote + icmp::LEN as u32;
    let length_be = (room as u16).to_be();
    ip.set(ipv6::VERSION, (6_u32 << 28).to_be());
    ip.set(
        ipv6::PAYLOAD_LENGTH,
        u32::from(length_be) | u32::from(proto::ICMPV6) << 16 | u32::from(TTL) << 24,
    );
    ip.set(ipv6::SOURCE, vip[0]);
    ip.set(ipv6::SOURCE + 8, vip[1]);
    ip.set(ipv6::DEST, sender[0]);
    ip.set(ipv6::DEST + 8, sender[1]);
    let message = packet
        .view::<{ icmp::LEN }>(l3 + ipv6::LEN)
        .ok_or(Reason::NoRoom)?;
    let kind = u32::from(if mtu == 0 {
        icmp::v6::TIME_EXCEEDED
    } else {
        icmp::v6::PACKET_TOO_BIG
    });
    let mtu = if mtu == 0 { 0 } else { mtu.max(MIN_MTU_V6) };
    message.set(icmp::TYPE, kind);
    message.set(icmp::REST, mtu.to_be());
    let mut sum = u64::from(length_be) + u64::from(u32::from(proto::ICMPV6).to_be());
    for word in [sender[0], sender[1], vip[0], vip[1]] {
        sum += (word & 0xffff_ffff) + (word >> 32);
    }
    finish_icmp(ctx, l3 + ipv6::LEN, room, sum)
}

/// Writes the checksum of a message of `room` bytes. `pseudo` is the sum of the pseudo-header.
#[inline(always)]
fn finish_icmp(ctx: *mut xdp_md, l4: usize, room: u32, pseudo: u64) -> Result<(), Reason> {
    let sum = match sum_of(ctx, l4 as u32, room) {
        NO_SUM => return Err(Reason::Internal),
        sum => u64::from(sum) + pseudo,
    };
    let message = Packet::of(ctx)
        .view::<{ icmp::LEN }>(l4)
        .ok_or(Reason::Internal)?;
    message.set(icmp::CHECKSUM, checksum::finish(sum));
    Ok(())
}

/// Whether a packet may be answered: it comes from a single host other than this node, in a unicast
/// frame (RFC 1122 §3.2.2, RFC 4443 §2.4). Otherwise a forged packet could trigger messages to many
/// hosts.
#[inline(always)]
pub(super) fn may_answer(source: &Address, dest: &Address, ip: u8, link: Addresses) -> bool {
    is_valid_source(source, dest, ip) && !link.is_multicast()
}
