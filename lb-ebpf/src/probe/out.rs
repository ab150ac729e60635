//! Packets that leave: those with our mark become packets to the VIP.

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
    outer,
    table::tables,
    wire::{ipv4, ipv6, tcp, udp},
};

/// What becomes of a packet.
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
    let tables = tables();
    // SAFETY: an element of a mapped array. The word that changes is read in one step; the rest is constant
    // while the member is there.
    let member = unsafe { &*tables.member(index as u16) };
    let frame = Frame(skb);
    let Some(flow) = read_flow(frame) else {
        // Not TCP and not UDP.
        return NEXT;
    };
    if path.forward == 0 {
        count(|counters| counters.direct += 1);
        return NEXT;
    }
    // SAFETY: the controller writes the word in one step.
    let next_hop = unsafe { (&raw const member.next_hop).read_volatile() };
    let route = NextHop::unpack(next_hop)
        .map(|hop| (hop, tables.egress(hop.egress)))
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

/// A connection of the host itself to a VIP may get the port of a check that is over: its answers are to
/// stay as they are.
#[inline(always)]
fn remove_stale_flow(frame: Frame) {
    let Some(flow) = read_flow(frame) else {
        return;
    };
    if PROBE_FLOWS.get_ptr(flow).is_some() {
        // It fails only if it is gone.
        let _ = PROBE_FLOWS.remove(flow);
    }
}

/// The flow of a packet from a local socket: such packets have no options and are not in fragments.
/// `vip` is where it goes, which is the backend still.
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
    // On the interface that it is sent to, this program sees it again.
    // SAFETY: the kernel passes a valid context to the program, which may write its mark.
    let ifindex = unsafe {
        (*frame.0).mark = 0;
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

/// Where a packet's source address is.
#[inline(always)]
pub(crate) fn source(family: u8) -> Field {
    let at = if family == family::V4 {
        L3 + ipv4::SOURCE as u32
    } else {
        L3 + ipv6::SOURCE as u32
    };
    Field { family, at }
}

/// Where a packet's destination address is.
#[inline(always)]
pub(crate) fn destination(family: u8) -> Field {
    let at = if family == family::V4 {
        L3 + ipv4::DEST as u32
    } else {
        L3 + ipv6::DEST as u32
    };
    Field { family, at }
}

/// Where the checksum of a TCP or UDP packet without options is.
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
