//! Parses IPv4 packets.

use aya_ebpf::bindings::xdp_md;
use lb_common::{address_v4, checksum, family, proto, reason::Reason, vip::target};

use crate::{
    dispatch::{dispatch_fast_path, dispatch_slow_path},
    ethernet::{is_for_other_host, is_own_frame},
    fragments,
    headers::{Headers, is_valid_source},
    icmp::tunnel,
    packet::{Packet, View},
    scratch,
    services::{Service, address, find_service, service},
    transport::{self, read_transport},
    verdict::{FastPath, Stage, Verdict},
    wire::{ethernet, ipv4, ports, udp},
};

const LEN: usize = ipv4::LEN;

/// Parses a packet whose IPv4 header is at `l3`.
///
/// TCP and UDP without options and fragments stay on this fast path. Everything else goes to
/// [`slow_path_v4`], as does every malformed or forged packet and every frame for other hosts: the slow
/// path determines the reason.
#[inline(always)]
pub(crate) fn receive(
    ctx: *mut xdp_md,
    packet: Packet,
    l3: usize,
    frame: View<{ ethernet::LEN }>,
) -> FastPath {
    let slow_path = FastPath::Other(Verdict::next(Stage::SlowPathV4, l3 as u32, 0));
    let Some(ip) = packet.view::<{ LEN + udp::LEN }>(l3) else {
        core::hint::cold_path();
        return slow_path;
    };
    if ip.get::<u8>(ipv4::VERSION_IHL) != ipv4::NO_OPTIONS
        || ip.get::<u16>(ipv4::FRAGMENT) & ipv4::FRAGMENT_BITS != 0
    {
        core::hint::cold_path();
        return slow_path;
    }
    let protocol = ip.get(ipv4::PROTOCOL);
    let dest = address_v4(ip.get(ipv4::DEST));
    let dest_be = ip.get(LEN + ports::DEST);
    let found = service(&dest, family::V4, protocol, dest_be);
    if found.is_none() {
        return if protocol == proto::TCP || protocol == proto::UDP {
            found.unknown().into()
        } else {
            slow_path
        };
    }
    let source = address_v4(ip.get(ipv4::SOURCE));
    let length = u32::from(ip.be16(ipv4::TOTAL_LENGTH));
    // Checked this late on purpose: before the first byte is read, the compiler would merge the
    // check of the MAC address with the bounds check, which the verifiers of Linux 5.10 and 6.1
    // don't accept.
    if !is_own_frame(ctx, frame)
        || !checksum::is_valid_sum(ip.sum_v4())
        || !is_valid_source(&source, &dest, family::V4)
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
        ..Headers::plain_v4(ip, l3)
    };
    dispatch_fast_path(ctx, headers, found).unwrap_or(slow_path)
}

/// Parses packets with options, fragments, ICMP, and truncated packets.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn slow_path_v4(ctx: *mut xdp_md, l3: u32) -> u32 {
    let l3 = (l3 & 0x1f) as usize;
    let Some(ip) = Packet::of(ctx).view::<LEN>(l3) else {
        return Verdict::of(Reason::Truncated).0;
    };
    let target = address(&address_v4(ip.get(ipv4::DEST)), family::V4);
    if target::kind(target) == 0 {
        return tunnel::report_v4(Packet::of(ctx), l3, Reason::NoVip).0;
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
    let first = ip.get::<u8>(ipv4::VERSION_IHL);
    let header_len = usize::from(first & 0xf) * 4;
    if first >> 4 != 4 || header_len < LEN {
        return Err(Reason::BadHeader);
    }
    let fragment = ip.get::<u16>(ipv4::FRAGMENT) & ipv4::FRAGMENT_BITS;
    let later = fragment & ipv4::OFFSET_BITS != 0;
    let mut headers = Headers {
        l3: l3 as u32,
        l4: (l3 + header_len) as u32,
        length: u32::from(ip.be16(ipv4::TOTAL_LENGTH)),
        family: family::V4,
        protocol: ip.get(ipv4::PROTOCOL),
        tcp_flags: 0,
        ttl: ip.get(ipv4::TTL),
        first_fragment: fragment != 0,
        fragment_header: 0,
        source_be: 0,
        dest_be: 0,
        fragment_id: u32::from(ip.get::<u16>(ipv4::ID)),
        source: address_v4(ip.get(ipv4::SOURCE)),
        dest: address_v4(ip.get(ipv4::DEST)),
    };
    let is_icmp = headers.protocol == proto::ICMP && !later;
    if !is_icmp && !target::may_serve(target, headers.protocol) {
        return Err(Reason::NoService);
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
    if headers.length < header_len as u32 || headers.length + headers.l3 > packet.len() {
        return Err(Reason::BadHeader);
    }
    if sum_with_options(ctx, l3 as u32, header_len as u32) != 0xffff {
        return Err(Reason::BadChecksum);
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

/// Returns the folded sum of a header with options; 0 if the frame ends within it.
///
/// Loops are functions of their own: the verifier follows every loop exit separately.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sum_with_options(ctx: *mut xdp_md, l3: u32, header_len: u32) -> u32 {
    let packet = Packet::of(ctx);
    let mut total = 0_u64;
    for word in 0..15_u32 {
        if word * 4 >= header_len {
            break;
        }
        let Some(view) = packet.view::<4>((l3 & 0x1f) as usize + word as usize * 4) else {
            return 0;
        };
        total += u64::from(view.get::<u32>(0));
    }
    u32::from(checksum::fold(total))
}
