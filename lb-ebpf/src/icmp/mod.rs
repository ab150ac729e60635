//! ICMP and ICMPv6: echo requests are answered, errors go to the member that has the flow.

use aya_ebpf::bindings::{xdp_action, xdp_md};
use lb_common::{
    address_v4, checksum, family,
    nat::{NatKey, REPLY},
    proto,
    reason::Reason,
    vip::{forward, target},
};

use crate::{
    counters::count_sent,
    forward::{Sending, send, way},
    headers::Headers,
    ipv6::Chain,
    link::{self, Addresses},
    maps, nat,
    packet::Packet,
    scratch::scratch,
    select::choose,
    services::{address, service},
    stages::Stage,
    trace,
    verdict::{Verdict, settle},
};

mod answer;

pub(crate) use answer::{Answer, answer, answer_v4, answer_v6};

/// Hop count of answers.
const HOPS: u8 = 64;
/// Length of an ICMP header.
const LEN: usize = 8;

/// Message types of ICMP (RFC 792).
mod v4 {
    pub(super) const ECHO_REPLY: u8 = 0;
    pub(super) const ECHO_REQUEST: u8 = 8;

    /// Destination unreachable, time exceeded, parameter problem.
    pub(super) const fn is_error(kind: u8) -> bool {
        matches!(kind, 3 | 11 | 12)
    }
}

/// Message types of ICMPv6 (RFC 4443).
mod v6 {
    pub(super) const ECHO_REQUEST: u8 = 128;
    pub(super) const ECHO_REPLY: u8 = 129;

    /// Destination unreachable, packet too big, time exceeded, parameter problem.
    pub(super) const fn is_error(kind: u8) -> bool {
        matches!(kind, 1..=4)
    }
}

/// An ICMP or ICMPv6 packet to one of our addresses. The headers are in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn receive_icmp(ctx: *mut xdp_md) -> u32 {
    let Some(scratch) = scratch() else {
        return Verdict::of(Reason::Internal).0;
    };
    conclude(&scratch.headers, receive(ctx, &scratch.headers)).0
}

/// Whether a packet's destination is a NAT source.
#[inline(always)]
fn is_to_nat_source(headers: &Headers) -> bool {
    let found = address(maps::tables(), &headers.dest, headers.family);
    target::kind(found) == target::NAT_SOURCE
}

/// The verdict of a stage that may have given up on a packet to one of our addresses.
#[inline(always)]
fn conclude(headers: &Headers, result: Result<Verdict, Reason>) -> Verdict {
    match result {
        Ok(verdict) => verdict,
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
    let icmp = packet.view::<LEN>(l4).ok_or(Reason::BadTransport)?;
    if room < LEN as u32 {
        return Err(Reason::BadTransport);
    }
    let kind = icmp.get::<u8>(0);
    let is_v4 = headers.family == family::V4;
    let echo_request = if is_v4 {
        v4::ECHO_REQUEST
    } else {
        v6::ECHO_REQUEST
    };
    if kind == echo_request && icmp.get::<u8>(1) == 0 {
        return Ok(Verdict::next(Stage::Echo, 0, 0));
    }
    let is_error = if is_v4 {
        v4::is_error(kind)
    } else {
        v6::is_error(kind)
    };
    if is_error && link::is_to_group(ctx) {
        return Err(Reason::LinkGroup);
    }
    if is_error && !headers.is_from_a_host() {
        return Err(Reason::MartianSource);
    }
    if is_v4 && is_error {
        return Ok(Verdict::next(Stage::ErrorV4, 0, 0));
    }
    if is_error {
        return about_v6(ctx, headers);
    }
    Err(Reason::IcmpOther)
}

/// Finds the transport header of the packet that an ICMPv6 error quotes, behind extension headers as anywhere else. Here, and
/// not in the stage that is next, because both together would need too much stack.
#[inline(always)]
fn about_v6(ctx: *mut xdp_md, headers: &Headers) -> Result<Verdict, Reason> {
    let at = headers.l4() + LEN;
    let quoted = Packet::of(ctx).view::<40>(at).ok_or(Reason::IcmpNoFlow)?;
    if quoted.get::<u8>(0) >> 4 != 6 {
        return Err(Reason::IcmpNoFlow);
    }
    let chain = Chain::follow(ctx, (at + 40) as u32, quoted.get(6));
    // A quoted later fragment has no ports.
    if chain.is_broken() || chain.has(Chain::LATER) {
        return Err(Reason::IcmpNoFlow);
    }
    let (l4, protocol) = (chain.offset() as u32, chain.protocol());
    Ok(Verdict::next(Stage::ErrorV6, u32::from(protocol), l4))
}

/// Answers an echo request. The headers are in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn answer_echo(ctx: *mut xdp_md) -> u32 {
    let Some(scratch) = scratch() else {
        return Verdict::of(Reason::Internal).0;
    };
    settle(echo(ctx, &scratch.headers)).0
}

/// Answers an echo request by turning the packet round.
#[inline(always)]
fn echo(ctx: *mut xdp_md, headers: &Headers) -> Result<Verdict, Reason> {
    let room = headers.length - (headers.l4 - headers.l3);
    if is_to_nat_source(headers) {
        // An address of the host as well: the host answers.
        return Err(Reason::IcmpOther);
    }
    let (l3, l4) = (headers.l3(), headers.l4());
    let link = Addresses::read(ctx)?;
    if room > MAX_ECHO || !answer::can_be_told(&headers.source, &headers.dest, headers.family, link)
    {
        return Err(Reason::IcmpOther);
    }
    let mut sum = match sum_of(ctx, l4 as u32, room) {
        NO_SUM => return Err(Reason::BadTransport),
        sum => u64::from(sum),
    };
    if headers.family == family::V6 {
        sum += pseudo_header(headers, room);
    }
    if checksum::fold(sum) != 0xffff {
        return Err(Reason::BadTransport);
    }
    // Read anew: pointers from before know how far the sum went, and would make the verifier follow
    // what comes next once for every length.
    let packet = Packet::of(ctx);
    let icmp = packet.view::<LEN>(l4).ok_or(Reason::BadTransport)?;
    let old = icmp.get::<u16>(0);
    let reply = if headers.family == family::V4 {
        v4::ECHO_REPLY
    } else {
        v6::ECHO_REPLY
    };
    let new = u16::from_le_bytes([reply, 0]);
    icmp.set(0, new);
    let sum = match checksum::update(icmp.get(2), checksum::replace_u16(old, new)) {
        // Of a reply without a bit in it the checksum is the other zero, which is right for all others, too.
        // ICMPv6 sums addresses as well.
        0 if headers.family == family::V4 => 0xffff,
        sum => sum,
    };
    icmp.set(2, sum);
    turn_round(packet, l3, headers)?;
    link.swapped().write(ctx)?;
    Ok(Verdict::sent(Reason::EchoAnswered, xdp_action::XDP_TX))
}

/// Exchanges the addresses of the IP header and starts its hop count anew.
#[inline(always)]
fn turn_round(packet: Packet, l3: usize, headers: &Headers) -> Result<(), Reason> {
    if headers.family == family::V4 {
        let ip = packet.view::<20>(l3).ok_or(Reason::Internal)?;
        ip.set(12, headers.dest[0] as u32);
        ip.set(16, headers.source[0] as u32);
        let old = ip.get::<u16>(8);
        let new = u16::from_le_bytes([HOPS, proto::ICMP]);
        ip.set(8, new);
        ip.set(
            10,
            checksum::update(ip.get(10), checksum::replace_u16(old, new)),
        );
        return Ok(());
    }
    let ip = packet.view::<40>(l3).ok_or(Reason::Internal)?;
    ip.set(7, HOPS);
    ip.set(8, headers.dest[0]);
    ip.set(16, headers.dest[1]);
    ip.set(24, headers.source[0]);
    ip.set(32, headers.source[1]);
    Ok(())
}

/// Chunks summed by one helper call.
const CHUNK: usize = 64;
/// The longest echo request that is answered: what fits a jumbo frame.
const MAX_ECHO: u32 = 9_216;
/// [`sum_of`] found less than it was to sum.
const NO_SUM: u32 = u32::MAX;

/// Folded sum of `room` bytes from `l4` on, at most [`MAX_ECHO`]; [`NO_SUM`] when the frame ends before.
///
/// A function of its own because of its loops, as in `ipv4`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sum_of(ctx: *mut xdp_md, l4: u32, room: u32) -> u32 {
    let l4 = (l4 & 0x3ff) as usize;
    let (mut sum, mut done) = (0, 0_u32);
    for _ in 0..MAX_ECHO / CHUNK as u32 {
        if done + CHUNK as u32 > room {
            break;
        }
        let Some(chunk) = Packet::of(ctx).view::<CHUNK>(l4 + (done & 0x3fff) as usize) else {
            return NO_SUM;
        };
        sum += chunk.sum();
        done += CHUNK as u32;
    }
    for _ in 0..CHUNK / 2 {
        if done + 2 > room {
            break;
        }
        let Some(word) = Packet::of(ctx).view::<2>(l4 + (done & 0x3fff) as usize) else {
            return NO_SUM;
        };
        sum += u64::from(word.get::<u16>(0));
        done += 2;
    }
    if done < room {
        // The last odd byte counts as the first of a word. It is read with the one before it: a check
        // of a single byte tells the verifier nothing.
        let at = (l4 + done as usize - 1) & 0x3fff;
        let Some(last) = Packet::of(ctx).view::<2>(at) else {
            return NO_SUM;
        };
        sum += u64::from(last.get_whole::<u16>(0).to_le_bytes()[1]);
    }
    u32::from(checksum::fold(sum))
}

/// Sum of the pseudo-header that the ICMPv6 checksum covers.
#[inline(always)]
fn pseudo_header(headers: &Headers, length: u32) -> u64 {
    let mut sum = u64::from(length.to_be()) + u64::from(u32::from(proto::ICMPV6).to_be());
    for address in [headers.source, headers.dest] {
        for word in address {
            sum += (word & 0xffff_ffff) + (word >> 32);
        }
    }
    sum
}

/// An ICMP error: about a packet that a backend or the node has sent. The headers are in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn forward_error_v4(ctx: *mut xdp_md) -> u32 {
    let Some(scratch) = scratch() else {
        return Verdict::of(Reason::Internal).0;
    };
    conclude(&scratch.headers, error_v4(ctx, &scratch.headers)).0
}

/// The same for ICMPv6. The quoted packet has a header of this protocol at `l4`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn forward_error_v6(ctx: *mut xdp_md, protocol: u32, l4: u32) -> u32 {
    let Some(scratch) = scratch() else {
        return Verdict::of(Reason::Internal).0;
    };
    let headers = &scratch.headers;
    conclude(headers, error_v6(ctx, headers, protocol as u8, l4)).0
}

#[inline(always)]
fn error_v4(ctx: *mut xdp_md, headers: &Headers) -> Result<Verdict, Reason> {
    let packet = Packet::of(ctx);
    let at = headers.l4() + LEN;
    let quoted = packet.view::<20>(at).ok_or(Reason::IcmpNoFlow)?;
    let header_len = usize::from(quoted.get::<u8>(0) & 0xf) * 4;
    // A quoted later fragment has no ports.
    let is_later = quoted.get::<u16>(6) & 0x1fff_u16.to_be() != 0;
    if quoted.get::<u8>(0) >> 4 != 4 || header_len < 20 || is_later {
        return Err(Reason::IcmpNoFlow);
    }
    // What follows the packet in the frame is no quote: no checksum covers it.
    if headers.length + headers.l3 < (at + header_len + 8) as u32 {
        return Err(Reason::IcmpNoFlow);
    }
    let ports = packet
        .view::<8>(at + header_len)
        .ok_or(Reason::IcmpNoFlow)?;
    let turned = Headers {
        l4: (at + header_len) as u32,
        protocol: quoted.get(9),
        source: address_v4(quoted.get(16)),
        dest: address_v4(quoted.get(12)),
        source_be: ports.get(2),
        dest_be: ports.get(0),
        ..*headers
    };
    error(ctx, headers, &turned)
}

#[inline(always)]
fn error_v6(ctx: *mut xdp_md, headers: &Headers, protocol: u8, l4: u32) -> Result<Verdict, Reason> {
    let packet = Packet::of(ctx);
    let at = headers.l4() + LEN;
    let quoted = packet.view::<40>(at).ok_or(Reason::IcmpNoFlow)?;
    // What follows the packet in the frame is no quote, as above.
    if headers.length + headers.l3 < l4 + 8 {
        return Err(Reason::IcmpNoFlow);
    }
    let turned = Headers {
        l4,
        protocol,
        source: [quoted.get(24), quoted.get(32)],
        dest: [quoted.get(8), quoted.get(16)],
        ..*headers
    };
    let ports = packet.view::<8>(turned.l4()).ok_or(Reason::IcmpNoFlow)?;
    let turned = Headers {
        source_be: ports.get(2),
        dest_be: ports.get(0),
        ..turned
    };
    error(ctx, headers, &turned)
}

/// Sends an error to the member that has the flow. `turned` is the quoted packet turned round: a
/// packet of the flow as the client sends it.
#[inline(always)]
fn error(ctx: *mut xdp_md, outer: &Headers, turned: &Headers) -> Result<Verdict, Reason> {
    if turned.dest != outer.dest || turned.protocol != proto::TCP && turned.protocol != proto::UDP {
        return Err(Reason::IcmpNoFlow);
    }
    if outer.hops <= 1 {
        return Err(Reason::HopLimit);
    }
    let turned = &Headers {
        tcp_flags: 0,
        ..*turned
    };
    let tables = maps::tables();
    let Headers {
        family, protocol, ..
    } = *turned;
    let found = service(tables, &turned.dest, family, protocol, turned.dest_be);
    if found.is_foreign() {
        return Err(Reason::NoService);
    }
    let vip_index = found.index();
    if !found.is_vip() {
        let key = nat::request_key(turned, vip_index | REPLY);
        return Ok(about_session(turned, key));
    }
    trace::vip(vip_index);
    let vip = tables.vip(vip_index);
    if vip.forward == forward::NAT {
        let key = nat::request_key(turned, vip_index);
        return Ok(about_session(turned, key));
    }
    let choice = choose(tables, vip, vip_index, turned, false)?;
    let way = way(tables, choice.member, vip_index)?;
    match send(ctx, outer, vip, &way, choice.flow_hash)? {
        // Nothing is said about an error (RFC 1122 §3.2.2, RFC 4443 §2.4).
        Sending::TooBig { .. } => Err(Reason::TooBig),
        Sending::Sent { action, .. } => {
            let reason = Reason::IcmpErrorForwarded;
            count_sent(reason, choice.member, |counters| counters.icmp_errors += 1);
            Ok(Verdict::counted(reason, action))
        }
    }
}

/// Hands an error about a session to the stage for it.
#[inline(always)]
fn about_session(turned: &Headers, key: NatKey) -> Verdict {
    let Some(scratch) = scratch() else {
        return Verdict::of(Reason::Internal);
    };
    scratch.turned = *turned;
    scratch.key = key;
    Verdict::next(Stage::NatError, 0, 0)
}
