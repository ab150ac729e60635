//! Ingress: replies of a VIP to probes become replies of the backend.

use aya_ebpf::bindings::__sk_buff;
use lb_common::{Address, family, probe::ProbeFlow, proto};

use crate::{
    count, error,
    frame::{Frame, HelperError, L3, V4, V6},
    out::{backend_of, destination, source, transport_sum},
    wire::{ipv4, ipv6},
};

/// Rewrites a packet if it is a reply to a probe.
#[inline(always)]
pub(crate) fn receive(skb: *mut __sk_buff) {
    let frame = Frame(skb);
    let Some((family, protocol)) = kind(frame) else {
        return;
    };
    match protocol {
        proto::TCP | proto::UDP => answer(frame, family, protocol),
        proto::ICMP | proto::ICMPV6 => error::receive(frame, family),
        _ => {}
    }
}

/// Returns family and protocol of an unfragmented packet without options.
#[inline(always)]
fn kind(frame: Frame) -> Option<(u8, u8)> {
    let family = frame.family()?;
    if family == family::V6 {
        return Some((family, frame.load(L3 + ipv6::NEXT_HEADER as u32)?));
    }
    let is_plain = frame.load::<u8>(L3)? == ipv4::NO_OPTIONS;
    let is_whole = frame.load::<u16>(L3 + ipv4::FRAGMENT as u32)? & ipv4::FRAGMENT_BITS == 0;
    (is_plain && is_whole).then_some((family, frame.load(L3 + ipv4::PROTOCOL as u32)?))
}

#[inline(always)]
fn answer(frame: Frame, family: u8, protocol: u8) {
    let Some((flow, backend)) = find(frame, family, protocol) else {
        return;
    };
    let sum = transport_sum(family, protocol);
    let changed = frame
        .replace_in_pseudo_header(family, sum, &flow.vip, &backend)
        .and_then(|()| frame.replace_in_header(L3, source(family), &flow.vip, &backend));
    count(|counters| match changed {
        Ok(()) => counters.answers += 1,
        Err(HelperError) => counters.failed += 1,
    });
}

#[inline(always)]
fn find(frame: Frame, family: u8, protocol: u8) -> Option<(ProbeFlow, Address)> {
    let l4 = if family == family::V4 {
        L3 + V4
    } else {
        L3 + V6
    };
    let [vip_port_be, node_port_be] = frame.load::<[u16; 2]>(l4)?;
    let flow = ProbeFlow {
        vip: frame.address(source(family))?,
        node: frame.address(destination(family))?,
        vip_port_be,
        node_port_be,
        protocol,
        family,
        _pad: 0,
    };
    Some((flow, backend_of(&flow)?))
}
