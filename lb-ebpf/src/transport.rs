//! TCP and UDP headers.

use lb_common::{proto, reason::Reason};

use crate::{
    headers::Headers,
    packet::Packet,
    wire::{tcp, udp},
};

/// Validates the TCP or UDP header at `l4` and returns the TCP flags (0 for UDP).
///
/// `length` is the number of bytes of the IP packet from `BEFORE` bytes before `l4` on. If `fragmented`,
/// the datagram continues in other fragments, so its length may be greater.
#[inline(always)]
pub(crate) fn check<const BEFORE: usize>(
    packet: Packet,
    l4: usize,
    protocol: u8,
    length: u32,
    fragmented: bool,
) -> Result<u8, Reason> {
    if protocol == proto::TCP {
        let header = packet
            .view::<{ tcp::LEN }>(l4)
            .ok_or(Reason::BadTransport)?;
        let header_len = u32::from(header.get::<u8>(tcp::DATA_OFFSET) >> 4) * 4;
        let least = if fragmented {
            tcp::LEN as u32
        } else {
            header_len
        };
        if header_len < tcp::LEN as u32 || length < least + BEFORE as u32 {
            return Err(Reason::BadTransport);
        }
        return Ok(header.get(tcp::FLAGS));
    }
    let header = packet
        .view::<{ udp::LEN }>(l4)
        .ok_or(Reason::BadTransport)?;
    let datagram = u32::from(header.be16(udp::LENGTH));
    let least = if fragmented {
        udp::LEN as u32
    } else {
        datagram
    };
    if datagram < udp::LEN as u32 || length < least + BEFORE as u32 {
        return Err(Reason::BadTransport);
    }
    Ok(0)
}

/// Validates the transport header, and stores the TCP flags in `headers`.
#[inline(always)]
pub(crate) fn read_transport(packet: Packet, headers: &mut Headers) -> Result<(), Reason> {
    let room = headers.length - (headers.l4 - headers.l3);
    let fragmented = headers.first_fragment;
    let checked = check::<0>(packet, headers.l4(), headers.protocol, room, fragmented);
    headers.tcp_flags = checked.map_err(|reason| {
        if fragmented {
            Reason::FragmentTiny
        } else {
            reason
        }
    })?;
    Ok(())
}
