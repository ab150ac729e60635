//! Receives ICMP to addresses of VIPs and NAT sources, and selects the stage for it.

use aya_ebpf::bindings::xdp_md;
use lb_common::{family, reason::Reason, vip::target};

use super::tunnel;
use crate::{
    ethernet,
    extensions::{Chain, is_extension},
    headers::Headers,
    packet::Packet,
    scratch::scratch,
    services::address,
    verdict::{Stage, Verdict},
    wire::{icmp, ipv6},
};

/// Receives an ICMP or ICMPv6 packet. The headers are in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn receive_icmp(ctx: *mut xdp_md) -> u32 {
    let Some(scratch) = scratch() else {
        return Verdict::of(Reason::Internal).0;
    };
    icmp_verdict(&scratch.headers, receive(ctx, &scratch.headers)).0
}

/// Whether a quoted packet of this protocol may belong to a service of the destination. If not, the
/// error is passed like packets of that protocol: they are the host's, or of a host behind it.
#[inline(always)]
pub(super) fn may_serve(headers: &Headers, protocol: u8) -> bool {
    let found = address(&headers.dest, headers.family);
    target::may_serve(found, protocol)
}

/// Whether the destination is a NAT source.
#[inline(always)]
pub(super) fn is_to_nat_source(headers: &Headers) -> bool {
    let found = address(&headers.dest, headers.family);
    target::kind(found) == target::NAT_SOURCE
}

/// Returns the verdict, or that of the reason for the packet's destination.
#[inline(always)]
pub(super) fn icmp_verdict(headers: &Headers, result: Result<Verdict, Reason>) -> Verdict {
    match result {
        Ok(verdict) => verdict,
        // About a packet of another protocol; the outer source of `ipip` may be a NAT source, too.
        Err(Reason::NoService) if is_to_nat_source(headers) => {
            tunnel::report(headers, Reason::NatNoSession)
        }
        Err(Reason::NoService) => tunnel::report(headers, Reason::NoService),
        Err(reason) => Verdict::refused(reason, is_to_nat_source(headers)),
    }
}

#[inline(always)]
fn receive(ctx: *mut xdp_md, headers: &Headers) -> Result<Verdict, Reason> {
    let packet = Packet::of(ctx);
    let l4 = headers.l4();
    let room = headers.length - (headers.l4 - headers.l3);
    if headers.first_fragment {
        return Err(Reason::IcmpOther);
    }
    let message = packet
        .view::<{ icmp::LEN }>(l4)
        .ok_or(Reason::BadTransport)?;
    if room < icmp::LEN as u32 {
        return Err(Reason::BadTransport);
    }
    let kind = message.get::<u8>(icmp::TYPE);
    let is_v4 = headers.family == family::V4;
    let echo_request = if is_v4 {
        icmp::v4::ECHO_REQUEST
    } else {
        icmp::v6::ECHO_REQUEST
    };
    if kind == echo_request && message.get::<u8>(icmp::CODE) == 0 {
        return Ok(Verdict::next(Stage::Echo, 0, 0));
    }
    let is_error = if is_v4 {
        icmp::v4::is_error(kind)
    } else {
        icmp::v6::is_error(kind)
    };
    if is_error && ethernet::is_multicast(ctx) {
        return Err(Reason::LinkGroup);
    }
    if is_error && !headers.has_valid_source() {
        return Err(Reason::MartianSource);
    }
    if is_v4 && is_error {
        return Ok(Verdict::next(Stage::ErrorV4, 0, 0));
    }
    if is_error {
        return find_quoted_v6(ctx, headers);
    }
    Err(Reason::IcmpOther)
}

/// Finds the transport header that an ICMPv6 error quotes, behind extension headers. Done here and
/// not in the next stage: together they would need too much stack.
#[inline(always)]
fn find_quoted_v6(ctx: *mut xdp_md, headers: &Headers) -> Result<Verdict, Reason> {
    let at = headers.l4() + icmp::LEN;
    let quoted = Packet::of(ctx)
        .view::<{ ipv6::LEN }>(at)
        .ok_or(Reason::IcmpNoFlow)?;
    if quoted.get::<u8>(ipv6::VERSION) >> 4 != 6 {
        return Err(Reason::IcmpNoFlow);
    }
    let chain = Chain::follow(ctx, (at + ipv6::LEN) as u32, quoted.get(ipv6::NEXT_HEADER));
    if chain.is_broken() {
        return Err(Reason::IcmpNoFlow);
    }
    let (l4, protocol) = (chain.offset() as u32, chain.protocol());
    let is_later = chain.has(Chain::LATER);
    // Anything may follow the extension header of a later fragment.
    if !(may_serve(headers, protocol) || is_later && is_extension(protocol)) {
        return Err(Reason::NoService);
    }
    // A quoted later fragment has no ports.
    if is_later {
        return Err(Reason::IcmpNoFlow);
    }
    Ok(Verdict::next(Stage::ErrorV6, u32::from(protocol), l4))
}
