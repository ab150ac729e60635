//! Parses IPv6 packets.

use aya_ebpf::bindings::xdp_md;
use lb_common::{family, proto, reason::Reason, vip::target};

use crate::{
    dispatch::{dispatch_fast_path, dispatch_slow_path},
    ethernet::{is_for_other_host, is_own_frame},
    extensions::{Chain, is_extension},
    fragments,
    headers::{Headers, dest_v6, is_valid_source, source_v6},
    icmp::tunnel,
    packet::{Packet, View},
    scratch,
    services::{Service, address, find_service, service},
    transport::{self, read_transport},
    verdict::{FastPath, Stage, Verdict},
    wire::{ethernet, ipv6, ports, udp},
};

const LEN: usize = ipv6::LEN;

/// Parses a packet whose IPv6 header is at `l3`. Packets with extension headers, ICMPv6, and
/// malformed or forged packets and frames for other hosts go to [`slow_path_v6`].
#[inline(always)]
pub(crate) fn receive(
    ctx: *mut xdp_md,
    packet: Packet,
    l3: usize,
    frame: View<{ ethernet::LEN }>,
) -> FastPath {
    let slow_path = FastPath::Other(Verdict::next(Stage::SlowPathV6, l3 as u32, 0));
    let Some(ip) = packet.view::<{ LEN + udp::LEN }>(l3) else {
        core::hint::cold_path();
        return slow_path;
    };
    if ip.get::<u8>(ipv6::VERSION) >> 4 != 6 {
        core::hint::cold_path();
        return slow_path;
    }
    let protocol = ip.get(ipv6::NEXT_HEADER);
    let dest = dest_v6(ip);
    let dest_be = ip.get(LEN + ports::DEST);
    let found = service(&dest, family::V6, protocol, dest_be);
    if found.is_none() {
        return if protocol == proto::TCP || protocol == proto::UDP {
            found.unknown().into()
        } else {
            slow_path
        };
    }
    let length = u32::from(ip.be16(ipv6::PAYLOAD_LENGTH)) + LEN as u32;
    // Checked this late on purpose, see `ipv4`.
    if !is_own_frame(ctx, frame)
        || !is_valid_source(&source_v6(ip), &dest, family::V6)
        || !packet.holds(length + l3 as u32)
    {
        core::hint::cold_path();
        return slow_path;
    }
    let Ok(tcp_flags) = transport::check::<LEN>(packet, l3 + LEN, protocol, length, false) else {
        core::hint::cold_path();
        return slow_path;
    };
    let headers = || Headers {
        length,
        tcp_flags,
        ..Headers::plain_v6(ip, l3)
    };
    dispatch_fast_path(ctx, headers, found).unwrap_or(slow_path)
}

/// Parses packets with extension headers, ICMPv6, and truncated packets.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn slow_path_v6(ctx: *mut xdp_md, l3: u32) -> u32 {
    let l3 = (l3 & 0x1f) as usize;
    let Some(ip) = Packet::of(ctx).view::<LEN>(l3) else {
        return Verdict::of(Reason::Truncated).0;
    };
    let target = address(&dest_v6(ip), family::V6);
    if target::kind(target) == 0 {
        return tunnel::report_v6(Packet::of(ctx), l3, Reason::NoVip).0;
    }
    if is_for_other_host(ctx) {
        return Verdict::of(Reason::OtherHost).0;
    }
    match try_slow_path(ctx, l3, target) {
        Ok(verdict) => verdict.0,
        Err(reason) => Verdict::refused(reason, target::kind(target) == target::NAT_SOURCE).0,
    }
}

#[inline(always)]
fn try_slow_path(ctx: *mut xdp_md, l3: usize, target: u64) -> Result<Verdict, Reason> {
    let packet = Packet::of(ctx);
    let ip = packet.view::<LEN>(l3).ok_or(Reason::Truncated)?;
    if ip.get::<u8>(ipv6::VERSION) >> 4 != 6 {
        return Err(Reason::BadHeader);
    }
    let mut headers = Headers::fixed_v6(ip, l3);
    let chain = Chain::follow(ctx, (l3 + LEN) as u32, ip.get(ipv6::NEXT_HEADER));
    match chain {
        Chain::MALFORMED => return Err(Reason::BadHeader),
        Chain::REFUSED => return Err(Reason::ExtensionHeaders),
        _ => {}
    }
    headers.l4 = chain.offset() as u32;
    headers.protocol = chain.protocol();
    // What looks like an extension header may be padding behind the packet.
    if headers.l4 - headers.l3 > headers.length {
        return Err(Reason::BadHeader);
    }
    headers.first_fragment = chain.has(Chain::MORE);
    headers.fragment_id = chain.id();
    headers.fragment_header = chain.fragment_header();
    let later = chain.has(Chain::LATER);
    let is_icmp = headers.protocol == proto::ICMPV6 && !later;
    // Anything may follow the extension header of a later fragment: only the first fragment has the
    // real protocol.
    let is_hidden = later && is_extension(headers.protocol);
    if !is_icmp && !is_hidden && !target::may_serve(target, headers.protocol) {
        if later {
            // The first fragment was passed, too.
            return Err(Reason::NoService);
        }
        return Ok(fragments::pass(&headers, Reason::NoService));
    }
    // Packets that match no service are passed even if they are invalid, so the service is looked
    // up first.
    let found = if is_icmp || later {
        None
    } else {
        find_service(packet, &mut headers)
    };
    if found.is_some_and(Service::is_none) {
        return Ok(fragments::pass(&headers, Reason::NoService));
    }
    if headers.length + headers.l3 > packet.len() {
        return Err(Reason::BadHeader);
    }
    if is_icmp && headers.first_fragment {
        return Ok(fragments::pass(&headers, Reason::IcmpOther));
    }
    if is_icmp || later {
        scratch::save_headers(&headers);
        let stage = if later { Stage::Fragment } else { Stage::Icmp };
        return Ok(Verdict::next(stage, 0, 0));
    }
    read_transport(packet, &mut headers)?;
    // A packet with a transport header has ports, so the service was looked up.
    let found = found.ok_or(Reason::Internal)?;
    Ok(dispatch_slow_path(ctx, &headers, found))
}
