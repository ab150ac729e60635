//! Rewrites addresses and ports, and updates the checksums that cover them (RFC 1624, RFC 3022).

use lb_common::{Address, checksum, family, nat::NatFlow, proto, reason::Reason};

use crate::{
    headers::Headers,
    ip::decrement_ttl,
    packet::{Packet, View},
    wire::{extension, ipv4, ipv6, ports, tcp, udp},
};

/// A packet whose addresses were rewritten.
pub(super) struct Rewritten {
    /// What that adds to the sum of a transport checksum.
    delta: u64,
    /// Whether it is IPv4 without DF: routers may fragment it.
    may_be_fragmented: bool,
}

/// Rewrites a packet with its transport header, and decrements the TTL. Returns whether the datagram
/// needs an identification of its own: it can be fragmented, or was.
#[inline(always)]
pub(super) fn packet(packet: Packet, headers: &Headers, flow: &NatFlow) -> Result<bool, Reason> {
    let Rewritten {
        delta,
        may_be_fragmented,
    } = addresses(packet, headers, flow)?;
    let delta = delta
        + checksum::replace_u16(headers.source_be, flow.source_be)
        + checksum::replace_u16(headers.dest_be, flow.dest_be);
    let l4 = headers.l4();
    if headers.protocol == proto::TCP {
        let header = packet
            .view::<{ tcp::LEN }>(l4)
            .ok_or(Reason::BadTransport)?;
        set_ports(header, flow.source_be, flow.dest_be);
        let old = header.get(tcp::CHECKSUM);
        header.set(tcp::CHECKSUM, checksum::update(old, delta));
    } else {
        let header = packet
            .view::<{ udp::LEN }>(l4)
            .ok_or(Reason::BadTransport)?;
        set_ports(header, flow.source_be, flow.dest_be);
        let old = header.get(udp::CHECKSUM);
        header.set(udp::CHECKSUM, udp_checksum(old, delta));
    }
    Ok(may_be_fragmented || headers.first_fragment)
}

#[inline(always)]
pub(super) fn set_ports<const N: usize>(view: View<N>, source_be: u16, dest_be: u16) {
    view.set(ports::SOURCE, source_be);
    view.set(ports::DEST, dest_be);
}

/// Updates a UDP checksum. 0 means "no checksum" and stays; a result of 0 is written as 0xffff (RFC
/// 768).
#[inline(always)]
pub(super) fn udp_checksum(old: u16, delta: u64) -> u16 {
    if old == 0 {
        return 0;
    }
    let new = checksum::update(old, delta);
    if new == 0 { 0xffff } else { new }
}

/// Rewrites the addresses in the IP header, and decrements the TTL.
#[inline(always)]
pub(super) fn addresses(
    packet: Packet,
    headers: &Headers,
    flow: &NatFlow,
) -> Result<Rewritten, Reason> {
    let l3 = headers.l3();
    let delta;
    let mut may_be_fragmented = false;
    if headers.family == family::V4 {
        let (source, dest) = (flow.source[0] as u32, flow.dest[0] as u32);
        delta = checksum::replace_u32(headers.source[0] as u32, source)
            + checksum::replace_u32(headers.dest[0] as u32, dest);
        let ip = packet.view::<{ ipv4::LEN }>(l3).ok_or(Reason::Internal)?;
        may_be_fragmented = ip.get::<u16>(ipv4::FRAGMENT) & ipv4::DF == 0;
        ip.set(ipv4::SOURCE, source);
        ip.set(ipv4::DEST, dest);
        ip.set(
            ipv4::CHECKSUM,
            checksum::update(ip.get(ipv4::CHECKSUM), delta),
        );
    } else {
        delta =
            address_delta(&headers.source, &flow.source) + address_delta(&headers.dest, &flow.dest);
        let ip = packet.view::<{ ipv6::LEN }>(l3).ok_or(Reason::Internal)?;
        write_v6(ip, ipv6::SOURCE, &flow.source, &flow.dest);
    }
    decrement_ttl(packet, l3, headers.family)?;
    Ok(Rewritten {
        delta,
        may_be_fragmented,
    })
}

/// Writes the identification of a datagram or fragment.
#[inline(always)]
pub(super) fn identification(packet: Packet, headers: &Headers, id: u32) -> Result<(), Reason> {
    let l3 = headers.l3();
    if headers.family == family::V4 {
        let ip = packet.view::<{ ipv4::LEN }>(l3).ok_or(Reason::Internal)?;
        let (old, new) = (ip.get::<u16>(ipv4::ID), id as u16);
        let sum = ip.get(ipv4::CHECKSUM);
        ip.set(ipv4::ID, new);
        ip.set(
            ipv4::CHECKSUM,
            checksum::update(sum, checksum::replace_u16(old, new)),
        );
    } else if headers.fragment_header != 0 {
        let distance = usize::from((headers.fragment_header - 1) & 0x3f) * 8;
        let header = packet
            .view::<{ extension::MIN_LEN }>(l3 + ipv6::LEN + distance)
            .ok_or(Reason::Internal)?;
        header.set(extension::FRAGMENT_ID, id);
    }
    Ok(())
}

/// Writes two IPv6 addresses from `offset` on.
#[inline(always)]
pub(super) fn write_v6<const N: usize>(
    view: View<N>,
    offset: usize,
    source: &Address,
    dest: &Address,
) {
    view.set(offset, source[0]);
    view.set(offset + 8, source[1]);
    view.set(offset + 16, dest[0]);
    view.set(offset + 24, dest[1]);
}

/// Returns what replacing an address adds to a sum.
#[inline(always)]
pub(super) fn address_delta(old: &Address, new: &Address) -> u64 {
    checksum::replace_u64(old[0], new[0]) + checksum::replace_u64(old[1], new[1])
}
