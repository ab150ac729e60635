//! Egress: packets with a probe's mark are sent to the VIP.

use aya_ebpf::{bindings::__sk_buff, helpers::generated};
use lb_common::{
    Address, family,
    member::{Egress, Member, NextHop},
    probe::{ProbeFlow, ProbePath, ProbedBackend, mark},
    proto,
    vip::forward,
};

use crate::{
    DROP, NEXT, PROBE_FLOWS, PROBE_PATHS, count,
    frame::{Field, Frame, HelperError, L3, Sum, V4, V6},
    outer, tables,
    wire::{ipv4, ipv6, tcp, udp},
};

/// Processes an egress packet and returns the action.
#[inline(always)]
pub(crate) fn send(skb: *mut __sk_buff) -> i32 {
    // SAFETY: the kernel passes a valid context to the program.
    let Some(index) = mark::member(unsafe { (*skb).mark }) else {
        remove_stale_flow(Frame(skb));
        return NEXT;
    };
    let Some(path) = PROBE_PATHS.get(index) else {
        return NEXT;
    };
    // SAFETY: an element of a mapped array. The word that may change is read once; the rest is
    // constant while the member exists.
    let member = unsafe { &*tables::member(index as u16) };
    let frame = Frame(skb);
    let Some(flow) = read_flow(frame) else {
        // Neither TCP nor UDP.
        return NEXT;
    };
    if path.forward == 0 {
        count(|counters| counters.direct += 1);
        return NEXT;
    }
    // SAFETY: the controller stores the word atomically.
    let next_hop = unsafe { (&raw const member.next_hop).read_volatile() };
    let route = NextHop::unpack(next_hop)
        .map(|hop| (hop, tables::egress(hop.egress)))
        .filter(|(_, egress)| egress.ifindex != 0);
    let Some((hop, egress)) = route else {
        count(|counters| counters.no_next_hop += 1);
        return DROP;
    };
    match redirect(frame, &flow, path, member, hop, egress) {
        Ok(verdict) => {
            count(|counters| counters.sent += 1);
            verdict
        }
        Err(HelperError) => {
            count(|counters| counters.failed += 1);
            DROP
        }
    }
}

/// Removes a probe's flow whose port is reused by a connection from the host itself to the VIP:
/// replies to that connection must not be rewritten.
#[inline(always)]
fn remove_stale_flow(frame: Frame) {
    let Some(flow) = read_flow(frame) else {
        return;
    };
    if PROBE_FLOWS.get_ptr(flow).is_some() {
        // Fails only if the entry is already gone.
        let _ = PROBE_FLOWS.remove(flow);
    }
}

/// Returns the flow of a packet from a local socket, which has no options and is not fragmented.
/// `vip` holds its destination, which is still the backend.
#[inline(always)]
fn read_flow(frame: Frame) -> Option<ProbeFlow> {
    let family = frame.family()?;
    let (protocol, l4) = if family == family::V4 {
        if frame.load::<u8>(L3)? != ipv4::NO_OPTIONS {
            return None;
        }
        (frame.load::<u8>(L3 + ipv4::PROTOCOL as u32)?, L3 + V4)
    } else {
        (frame.load::<u8>(L3 + ipv6::NEXT_HEADER as u32)?, L3 + V6)
    };
    if protocol != proto::TCP && protocol != proto::UDP {
        return None;
    }
    let [node_port_be, vip_port_be] = frame.load::<[u16; 2]>(l4)?;
    Some(ProbeFlow {
        vip: frame.address(destination(family))?,
        node: frame.address(source(family))?,
        vip_port_be,
        node_port_be,
        protocol,
        family,
        _pad: 0,
    })
}

#[inline(always)]
fn redirect(
    frame: Frame,
    flow: &ProbeFlow,
    path: &ProbePath,
    member: &Member,
    hop: NextHop,
    egress: &Egress,
) -> Result<i32, HelperError> {
    let backend = flow.vip;
    let through_vip = ProbeFlow {
        vip: path.vip,
        ..*flow
    };
    PROBE_FLOWS
        .insert(through_vip, ProbedBackend { address: backend }, 0)
        .map_err(|_| HelperError)?;
    set_destination(frame, flow, &backend, &path.vip)?;
    if path.forward == u32::from(forward::IPIP) {
        outer::push_outer_header(frame, flow, member)?;
    }
    frame.store(0, &hop.mac)?;
    frame.store(6, &egress.mac)?;
    // On the target interface, and on one below it, this program sees the packet again.
    // SAFETY: the kernel passes a valid context to the program, which may write its mark.
    let ifindex = unsafe {
        (*frame.0).mark = mark::SENT;
        (*frame.0).ifindex
    };
    if ifindex == egress.ifindex {
        return Ok(NEXT);
    }
    // SAFETY: a helper call with plain numbers.
    Ok(unsafe { generated::bpf_redirect(egress.ifindex, 0) } as i32)
}

#[inline(always)]
fn set_destination(
    frame: Frame,
    flow: &ProbeFlow,
    old: &Address,
    new: &Address,
) -> Result<(), HelperError> {
    let sum = transport_sum(flow.family, flow.protocol);
    frame.replace_in_pseudo_header(flow.family, sum, old, new)?;
    frame.replace_in_header(L3, destination(flow.family), old, new)
}

/// Position of the source address.
#[inline(always)]
pub(crate) fn source(family: u8) -> Field {
    let at = if family == family::V4 {
        L3 + ipv4::SOURCE as u32
    } else {
        L3 + ipv6::SOURCE as u32
    };
    Field { family, at }
}

/// Position of the destination address.
#[inline(always)]
pub(crate) fn destination(family: u8) -> Field {
    let at = if family == family::V4 {
        L3 + ipv4::DEST as u32
    } else {
        L3 + ipv6::DEST as u32
    };
    Field { family, at }
}

/// Position of the checksum of a TCP or UDP packet without options.
#[inline(always)]
pub(crate) fn transport_sum(family: u8, protocol: u8) -> Sum {
    let l4 = if family == family::V4 {
        L3 + V4
    } else {
        L3 + V6
    };
    let is_udp = protocol == proto::UDP;
    Sum {
        at: l4 + (if is_udp { udp::CHECKSUM } else { tcp::CHECKSUM }) as u32,
        is_udp,
    }
}

/// Returns the backend that a probe's flow was sent to.
#[inline(always)]
pub(crate) fn backend_of(flow: &ProbeFlow) -> Option<Address> {
    let probed = PROBE_FLOWS.get_ptr(flow)?;
    // SAFETY: an entry is only replaced by one of the same flow; it is copied at once.
    Some(unsafe { (*probed).address })
}
