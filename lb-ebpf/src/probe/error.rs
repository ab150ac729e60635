//! Rewrites ICMP errors about probes, so that they reach the socket, which is connected to the
//! backend.

use lb_common::{Address, family, probe::ProbeFlow, proto};

use crate::{
    count,
    frame::{Field, Frame, HelperError, L3, V4, V6},
    out::{backend_of, source},
    wire::{icmp, ipv4, ipv6},
};

/// Bytes of the ICMP header, before the quoted packet.
const ICMP: u32 = icmp::LEN as u32;
/// Offset of the checksum of an ICMPv6 message.
const SUM_V6: u32 = L3 + V6 + icmp::CHECKSUM as u32;

/// Rewrites an ICMP message if it is an error about a probe.
#[inline(always)]
pub(crate) fn receive(frame: Frame, family: u8) {
    let Some((flow, backend)) = find(frame, family) else {
        return;
    };
    let changed = if family == family::V4 {
        change_v4(frame, &flow, &backend)
    } else {
        change_v6(frame, &flow, &backend)
    };
    count(|counters| match changed {
        Ok(()) => counters.errors += 1,
        Err(HelperError) => counters.failed += 1,
    });
}

/// Offset of the quoted packet.
#[inline(always)]
fn inner(family: u8) -> u32 {
    L3 + ICMP + if family == family::V4 { V4 } else { V6 }
}

/// The destination address of the quoted packet.
#[inline(always)]
fn inner_destination(family: u8) -> Field {
    let at = inner(family)
        + (if family == family::V4 {
            ipv4::DEST
        } else {
            ipv6::DEST
        }) as u32;
    Field { family, at }
}

#[inline(always)]
fn find(frame: Frame, family: u8) -> Option<(ProbeFlow, Address)> {
    let inner = inner(family);
    let (protocol, node, l4) = if family == family::V4 {
        // Destination unreachable or time exceeded, about a packet without options.
        let kind = frame.load::<u8>(L3 + V4)?;
        if (kind != icmp::v4::UNREACHABLE && kind != icmp::v4::TIME_EXCEEDED)
            || frame.load::<u8>(inner)? != ipv4::NO_OPTIONS
        {
            return None;
        }
        (
            frame.load(inner + ipv4::PROTOCOL as u32)?,
            inner + ipv4::SOURCE as u32,
            inner + V4,
        )
    } else {
        let kind = frame.load::<u8>(L3 + V6)?;
        if kind != icmp::v6::UNREACHABLE && kind != icmp::v6::TIME_EXCEEDED {
            return None;
        }
        (
            frame.load(inner + ipv6::NEXT_HEADER as u32)?,
            inner + ipv6::SOURCE as u32,
            inner + V6,
        )
    };
    if protocol != proto::TCP && protocol != proto::UDP {
        return None;
    }
    let [node_port_be, vip_port_be] = frame.load::<[u16; 2]>(l4)?;
    let flow = ProbeFlow {
        vip: frame.address(inner_destination(family))?,
        node: frame.address(Field { family, at: node })?,
        vip_port_be,
        node_port_be,
        protocol,
        family,
        _pad: 0,
    };
    Some((flow, backend_of(&flow)?))
}

/// The ICMP checksum does not change: the quoted header's own checksum compensates for the address.
#[inline(always)]
fn change_v4(frame: Frame, flow: &ProbeFlow, backend: &Address) -> Result<(), HelperError> {
    let field = inner_destination(family::V4);
    frame.replace_in_header(inner(family::V4), field, &flow.vip, backend)?;
    let source = source(family::V4);
    if frame.address(source) == Some(flow.vip) {
        frame.replace_in_header(L3, source, &flow.vip, backend)?;
    }
    Ok(())
}

#[inline(always)]
fn change_v6(frame: Frame, flow: &ProbeFlow, backend: &Address) -> Result<(), HelperError> {
    frame.replace_in_payload(SUM_V6, &flow.vip, backend)?;
    let field = inner_destination(family::V6);
    frame.replace_in_header(inner(family::V6), field, &flow.vip, backend)?;
    let source = source(family::V6);
    if frame.address(source) == Some(flow.vip) {
        let sum = crate::frame::Sum {
            at: SUM_V6,
            is_udp: false,
        };
        frame.replace_in_pseudo_header(family::V6, sum, &flow.vip, backend)?;
        frame.replace_in_header(L3, source, &flow.vip, backend)?;
    }
    Ok(())
}
