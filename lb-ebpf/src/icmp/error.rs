//! Forwards ICMP errors to the member that has the flow.

use aya_ebpf::bindings::xdp_md;
use lb_common::{
    address_v4,
    nat::{NatKey, REPLY},
    reason::Reason,
    vip::forward,
};

use super::receive::{icmp_verdict, may_serve};
use crate::{
    counters::count_sent,
    headers::{Headers, dest_v6, source_v6},
    nat,
    packet::Packet,
    route::route_to,
    scratch::scratch,
    select::{Asked, choose},
    services::service,
    tables, trace,
    transmit::{Outcome, send},
    verdict::{Stage, Verdict},
    wire::{icmp, ipv4, ipv6, ports},
};

/// Forwards an ICMP error about a packet of a backend or of the node. The headers are in the
/// scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn forward_error_v4(ctx: *mut xdp_md) -> u32 {
    let Some(scratch) = scratch() else {
        return Verdict::of(Reason::Internal).0;
    };
    icmp_verdict(&scratch.headers, error_v4(ctx, &scratch.headers)).0
}

/// Forwards an ICMPv6 error. The quoted packet has a header of `protocol` at `l4`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn forward_error_v6(ctx: *mut xdp_md, protocol: u32, l4: u32) -> u32 {
    let Some(scratch) = scratch() else {
        return Verdict::of(Reason::Internal).0;
    };
    let headers = &scratch.headers;
    icmp_verdict(headers, error_v6(ctx, headers, protocol as u8, l4)).0
}

#[inline(always)]
fn error_v4(ctx: *mut xdp_md, headers: &Headers) -> Result<Verdict, Reason> {
    let packet = Packet::of(ctx);
    let at = headers.l4() + icmp::LEN;
    let quoted = packet.view::<{ ipv4::LEN }>(at).ok_or(Reason::IcmpNoFlow)?;
    let header_len = usize::from(quoted.get::<u8>(ipv4::VERSION_IHL) & 0xf) * 4;
    if quoted.get::<u8>(ipv4::VERSION_IHL) >> 4 != 4 || header_len < ipv4::LEN {
        return Err(Reason::IcmpNoFlow);
    }
    if !may_serve(headers, quoted.get(ipv4::PROTOCOL)) {
        return Err(Reason::NoService);
    }
    // A quoted later fragment has no ports.
    if quoted.get::<u16>(ipv4::FRAGMENT) & ipv4::OFFSET_BITS != 0 {
        return Err(Reason::IcmpNoFlow);
    }
    // Bytes after the packet in the frame are not part of the quote: no checksum covers them.
    if headers.length + headers.l3 < (at + header_len + icmp::QUOTED_LEN) as u32 {
        return Err(Reason::IcmpNoFlow);
    }
    let transport = packet
        .view::<{ icmp::QUOTED_LEN }>(at + header_len)
        .ok_or(Reason::IcmpNoFlow)?;
    let reversed = Headers {
        l4: (at + header_len) as u32,
        protocol: quoted.get(ipv4::PROTOCOL),
        source: address_v4(quoted.get(ipv4::DEST)),
        dest: address_v4(quoted.get(ipv4::SOURCE)),
        source_be: transport.get(ports::DEST),
        dest_be: transport.get(ports::SOURCE),
        ..*headers
    };
    error(ctx, headers, &reversed)
}

#[inline(always)]
fn error_v6(ctx: *mut xdp_md, headers: &Headers, protocol: u8, l4: u32) -> Result<Verdict, Reason> {
    let packet = Packet::of(ctx);
    let at = headers.l4() + icmp::LEN;
    let quoted = packet.view::<{ ipv6::LEN }>(at).ok_or(Reason::IcmpNoFlow)?;
    // As in `error_v4`.
    if headers.length + headers.l3 < l4 + icmp::QUOTED_LEN as u32 {
        return Err(Reason::IcmpNoFlow);
    }
    let reversed = Headers {
        l4,
        protocol,
        source: dest_v6(quoted),
        dest: source_v6(quoted),
        ..*headers
    };
    let transport = packet
        .view::<{ icmp::QUOTED_LEN }>(reversed.l4())
        .ok_or(Reason::IcmpNoFlow)?;
    let reversed = Headers {
        source_be: transport.get(ports::DEST),
        dest_be: transport.get(ports::SOURCE),
        ..reversed
    };
    error(ctx, headers, &reversed)
}

/// Forwards an error to the member that has the flow. `reversed` is the quoted packet with source
/// and destination swapped: a packet of the flow as the client sends it.
#[inline(always)]
fn error(ctx: *mut xdp_md, outer: &Headers, reversed: &Headers) -> Result<Verdict, Reason> {
    if reversed.dest != outer.dest {
        return Err(Reason::IcmpNoFlow);
    }
    if outer.ttl <= 1 {
        return Err(Reason::HopLimit);
    }
    let reversed = &Headers {
        tcp_flags: 0,
        ..*reversed
    };
    let Headers {
        family, protocol, ..
    } = *reversed;
    let found = service(&reversed.dest, family, protocol, reversed.dest_be);
    if found.is_none() {
        return Err(Reason::NoService);
    }
    let vip_index = found.index();
    if !found.is_vip() {
        let key = nat::request_key(reversed, vip_index | REPLY);
        return Ok(forward_to_session(reversed, key));
    }
    trace::vip(vip_index);
    let vip = tables::vip(vip_index);
    if vip.mode() == forward::NAT {
        let key = nat::request_key(reversed, vip_index);
        return Ok(forward_to_session(reversed, key));
    }
    let choice = choose(vip, vip_index, reversed, false, Asked::NONE)?;
    let route = route_to(choice.member(), vip_index)?;
    match send(ctx, outer, vip, &route, choice.flow_hash)? {
        // ICMP errors are not answered (RFC 1122 §3.2.2, RFC 4443 §2.4).
        Outcome::TooBig { .. } => Err(Reason::TooBig),
        Outcome::Sent { action, .. } => {
            let reason = Reason::IcmpErrorForwarded;
            count_sent(reason, choice.member(), |counters| {
                counters.icmp_errors += 1;
            });
            Ok(Verdict::counted(reason, action))
        }
    }
}

/// Passes an error about a NAT session to its stage.
#[inline(always)]
fn forward_to_session(reversed: &Headers, key: NatKey) -> Verdict {
    let Some(scratch) = scratch() else {
        return Verdict::of(Reason::Internal);
    };
    scratch.reversed = *reversed;
    scratch.key = key;
    Verdict::next(Stage::NatError, 0, 0)
}
