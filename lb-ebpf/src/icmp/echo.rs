//! Answers echo requests to VIPs.

use aya_ebpf::bindings::{xdp_action, xdp_md};
use lb_common::{checksum, family, proto, reason::Reason};

use super::{
    TTL,
    checksum::{MAX_ECHO, NO_SUM, pseudo_header, sum_of},
    generate::may_answer,
    receive::is_to_nat_source,
};
use crate::{
    ethernet::Addresses,
    headers::Headers,
    log::into_verdict,
    packet::Packet,
    scratch::scratch,
    verdict::Verdict,
    wire::{icmp, ipv4, ipv6},
};

/// Answers an echo request. The headers are in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn answer_echo(ctx: *mut xdp_md) -> u32 {
    let Some(scratch) = scratch() else {
        return Verdict::of(Reason::Internal).0;
    };
    into_verdict(echo(ctx, &scratch.headers)).0
}

/// Turns an echo request into its reply.
#[inline(always)]
fn echo(ctx: *mut xdp_md, headers: &Headers) -> Result<Verdict, Reason> {
    let room = headers.length - (headers.l4 - headers.l3);
    if is_to_nat_source(headers) {
        // The address belongs to the host, too: the host answers.
        return Err(Reason::IcmpOther);
    }
    let (l3, l4) = (headers.l3(), headers.l4());
    let link = Addresses::read(ctx)?;
    if room > MAX_ECHO || !may_answer(&headers.source, &headers.dest, headers.family, link) {
        return Err(Reason::IcmpOther);
    }
    let mut sum = match sum_of(ctx, l4 as u32, room) {
        NO_SUM => return Err(Reason::BadTransport),
        sum => u64::from(sum),
    };
    if headers.family == family::V6 {
        sum += pseudo_header(headers, room);
    }
    if checksum::fold(sum) != 0xffff {
        return Err(Reason::BadTransport);
    }
    // Read the bounds again: the old pointers depend on the length of the sum, and the verifier
    // would follow the rest once per length.
    let packet = Packet::of(ctx);
    let message = packet
        .view::<{ icmp::LEN }>(l4)
        .ok_or(Reason::BadTransport)?;
    let old = message.get::<u16>(icmp::TYPE);
    let reply = if headers.family == family::V4 {
        icmp::v4::ECHO_REPLY
    } else {
        icmp::v6::ECHO_REPLY
    };
    let new = u16::from_le_bytes([reply, 0]);
    message.set(icmp::TYPE, new);
    let sum = match checksum::update(message.get(icmp::CHECKSUM), checksum::replace_u16(old, new)) {
        // If all data of the reply is 0, the checksum must be the other form of zero, which is
        // equally valid otherwise. ICMPv6 also covers the addresses, so this cannot happen there.
        0 if headers.family == family::V4 => 0xffff,
        sum => sum,
    };
    message.set(icmp::CHECKSUM, sum);
    swap_addresses(packet, l3, headers)?;
    link.swapped().write(ctx)?;
    Ok(Verdict::sent(Reason::EchoAnswered, xdp_action::XDP_TX))
}

/// Swaps the addresses of the IP header and resets the TTL.
#[inline(always)]
fn swap_addresses(packet: Packet, l3: usize, headers: &Headers) -> Result<(), Reason> {
    if headers.family == family::V4 {
        let ip = packet.view::<{ ipv4::LEN }>(l3).ok_or(Reason::Internal)?;
        ip.set(ipv4::SOURCE, headers.dest[0] as u32);
        ip.set(ipv4::DEST, headers.source[0] as u32);
        let old = ip.get::<u16>(ipv4::TTL);
        let new = u16::from_le_bytes([TTL, proto::ICMP]);
        ip.set(ipv4::TTL, new);
        ip.set(
            ipv4::CHECKSUM,
            checksum::update(ip.get(ipv4::CHECKSUM), checksum::replace_u16(old, new)),
        );
        return Ok(());
    }
    let ip = packet.view::<{ ipv6::LEN }>(l3).ok_or(Reason::Internal)?;
    ip.set(ipv6::HOP_LIMIT, TTL);
    ip.set(ipv6::SOURCE, headers.dest[0]);
    ip.set(ipv6::SOURCE + 8, headers.dest[1]);
    ip.set(ipv6::DEST, headers.source[0]);
    ip.set(ipv6::DEST + 8, headers.source[1]);
    Ok(())
}
