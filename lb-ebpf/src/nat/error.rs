//! Forwards ICMP errors about packets of NAT sessions.
//!
//! The error quotes a packet as the node sent it. It is forwarded to the sender of the original
//! packet, and rewritten to quote that original.

use aya_ebpf::bindings::xdp_md;
use lb_common::{
    checksum, family,
    nat::{NatFlow, NatKey, REPLY},
    proto,
    reason::Reason,
};

use super::{
    reply::send_back,
    rewrite::{address_delta, udp_checksum, write_v6},
    session::look_up,
};
use crate::{
    counters::count_sent,
    ethernet::{self, Addresses},
    headers::Headers,
    ip::decrement_ttl,
    log::into_verdict,
    packet::Packet,
    route::route_to,
    scratch::{Scratch, Session, scratch},
    trace,
    verdict::Verdict,
    wire::{icmp, ipv4, ipv6, ports, tcp, udp},
};

/// Forwards an error. The scratch holds the headers of the error, those of the quoted packet,
/// reversed (as a packet of the other direction), and the key of the session's entry for the other
/// direction.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn nat_error(ctx: *mut xdp_md) -> u32 {
    let Some(scratch) = scratch() else {
        return Verdict::of(Reason::Internal).0;
    };
    let Scratch {
        headers,
        reversed,
        key,
        session,
        ..
    } = scratch;
    into_verdict(try_forward(ctx, headers, reversed, key, session)).0
}

#[inline(always)]
fn try_forward(
    ctx: *mut xdp_md,
    outer: &Headers,
    quoted: &Headers,
    key: &NatKey,
    session: &mut Session,
) -> Result<Verdict, Reason> {
    let is_reply = key.scope & REPLY != 0;
    let missing = if is_reply {
        Reason::NatNoSession
    } else {
        Reason::IcmpNoFlow
    };
    look_up(key, session).ok_or(missing)?;
    let flow = &session.request;
    trace::vip(flow.vip);
    trace::member_found(flow.member);
    let packet = Packet::of(ctx);
    let bytes = packet.bytes();
    let action = if is_reply {
        rewrite(packet, outer, quoted, flow)?;
        send_back(ctx, flow)?
    } else {
        let route = route_to(flow.member, flow.vip)?;
        if !route.fits(outer.length)? {
            return Err(Reason::TooBig);
        }
        rewrite(packet, outer, quoted, flow)?;
        Addresses::new(route.next_hop, route.egress).write(ctx)?;
        ethernet::transmit(ctx, route.egress.ifindex)?
    };
    let reason = Reason::IcmpErrorForwarded;
    count_sent(reason, flow.member, |counters| {
        counters.icmp_errors += 1;
        if is_reply {
            counters.reply_packets += 1;
            counters.reply_bytes += bytes;
        }
    });
    Ok(Verdict::counted(reason, action))
}

/// Rewrites the outer header and the quoted packet. `flow` rewrites packets of the other direction,
/// so the quoted packet becomes `flow.dest` → `flow.source`, and the error is sent to `flow.dest`.
/// An error from the other endpoint itself then comes from `flow.source`, like its packets; routers
/// on the path keep their addresses (RFC 5508 §4.2).
#[inline(always)]
fn rewrite(
    packet: Packet,
    outer: &Headers,
    quoted: &Headers,
    flow: &NatFlow,
) -> Result<(), Reason> {
    let (l3, l4) = (outer.l3(), outer.l4());
    let quoted_l4 = quoted.l4();
    let source = if outer.source == quoted.source {
        &flow.source
    } else {
        &outer.source
    };
    let addresses =
        address_delta(&quoted.dest, &flow.dest) + address_delta(&quoted.source, &flow.source);
    let ports = checksum::replace_u16(quoted.dest_be, flow.dest_be)
        + checksum::replace_u16(quoted.source_be, flow.source_be);

    let transport = packet
        .view::<{ icmp::QUOTED_LEN }>(quoted_l4)
        .ok_or(Reason::IcmpNoFlow)?;
    transport.set(ports::SOURCE, flow.dest_be);
    transport.set(ports::DEST, flow.source_be);
    let mut delta = addresses + ports;
    if quoted.protocol == proto::UDP {
        let old = transport.get::<u16>(udp::CHECKSUM);
        let new = udp_checksum(old, addresses + ports);
        transport.set(udp::CHECKSUM, new);
        delta += checksum::replace_u16(old, new);
    } else if quoted_l4 + tcp::CHECKSUM + 2 <= l3 + (outer.length & 0xffff) as usize
        && let Some(sum) = packet.view::<2>(quoted_l4 + tcp::CHECKSUM)
    {
        // Routers may quote more than the required eight bytes. Padding of the frame is not part of
        // the quote.
        let old = sum.get::<u16>(0);
        let new = checksum::update(old, u64::from(checksum::fold(addresses + ports)));
        sum.set(0, new);
        delta += checksum::replace_u16(old, new);
    }
    if outer.family == family::V4 {
        let inner = packet
            .view::<{ ipv4::LEN }>(l4 + icmp::LEN)
            .ok_or(Reason::IcmpNoFlow)?;
        inner.set(ipv4::SOURCE, flow.dest[0] as u32);
        inner.set(ipv4::DEST, flow.source[0] as u32);
        let old = inner.get::<u16>(ipv4::CHECKSUM);
        let new = checksum::update(old, u64::from(checksum::fold(addresses)));
        inner.set(ipv4::CHECKSUM, new);
        delta += checksum::replace_u16(old, new);
        let ip = packet.view::<{ ipv4::LEN }>(l3).ok_or(Reason::Internal)?;
        ip.set(ipv4::SOURCE, source[0] as u32);
        ip.set(ipv4::DEST, flow.dest[0] as u32);
        let header = checksum::replace_u32(outer.source[0] as u32, source[0] as u32)
            + checksum::replace_u32(outer.dest[0] as u32, flow.dest[0] as u32);
        ip.set(
            ipv4::CHECKSUM,
            checksum::update(ip.get(ipv4::CHECKSUM), header),
        );
    } else {
        let inner = packet
            .view::<{ ipv6::LEN }>(l4 + icmp::LEN)
            .ok_or(Reason::IcmpNoFlow)?;
        write_v6(inner, ipv6::SOURCE, &flow.dest, &flow.source);
        let ip = packet.view::<{ ipv6::LEN }>(l3).ok_or(Reason::Internal)?;
        write_v6(ip, ipv6::SOURCE, source, &flow.dest);
        delta += address_delta(&outer.source, source) + address_delta(&outer.dest, &flow.dest);
    }
    let message = packet.view::<{ icmp::LEN }>(l4).ok_or(Reason::Internal)?;
    message.set(
        icmp::CHECKSUM,
        checksum::update(
            message.get(icmp::CHECKSUM),
            u64::from(checksum::fold(delta)),
        ),
    );
    decrement_ttl(packet, l3, outer.family)
}
