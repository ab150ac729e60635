//! TCP and UDP headers.

use lb_common::{proto, reason::Reason};

use crate::{headers::Headers, packet::Packet};

/// Length of a TCP header without options.
pub(crate) const TCP_LEN: usize = 20;
/// Length of a UDP header.
pub(crate) const UDP_LEN: usize = 8;
/// Length of the ports, with which both begin.
pub(crate) const PORTS_LEN: usize = 4;

/// Checks the header at `l4` against the `room` that the IP packet has from there on, and gives the
/// TCP flags (0 for UDP).
///
/// `fragmented`: the rest of the datagram follows in other fragments, so a length may exceed `room`.
#[inline(always)]
pub(crate) fn check(
    packet: Packet,
    l4: usize,
    protocol: u8,
    room: u32,
    fragmented: bool,
) -> Result<u8, Reason> {
    if protocol == proto::TCP {
        let tcp = packet.view::<TCP_LEN>(l4).ok_or(Reason::BadTransport)?;
        let header_len = u32::from(tcp.get::<u8>(12) >> 4) * 4;
        let least = if fragmented {
            TCP_LEN as u32
        } else {
            header_len
        };
        if header_len < TCP_LEN as u32 || room < least {
            return Err(Reason::BadTransport);
        }
        return Ok(tcp.get(13));
    }
    let udp = packet.view::<UDP_LEN>(l4).ok_or(Reason::BadTransport)?;
    let length = u32::from(udp.be16(4));
    let least = if fragmented { UDP_LEN as u32 } else { length };
    if length < UDP_LEN as u32 || room < least {
        return Err(Reason::BadTransport);
    }
    Ok(0)
}

/// Checks the transport header, and writes the TCP flags to the packet's headers.
#[inline(always)]
pub(crate) fn read_transport(packet: Packet, headers: &mut Headers) -> Result<(), Reason> {
    let room = headers.length - (headers.l4 - headers.l3);
    let fragmented = headers.first_fragment;
    let checked = check(packet, headers.l4(), headers.protocol, room, fragmented);
    headers.tcp_flags = checked.map_err(|reason| {
        if fragmented {
            Reason::FragmentTiny
        } else {
            reason
        }
    })?;
    Ok(())
}
