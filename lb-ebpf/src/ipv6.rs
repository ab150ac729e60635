//! IPv6 packets.

use core::hint::black_box;

use aya_ebpf::bindings::xdp_md;
use lb_common::{Address, family, proto, reason::Reason, vip::target};
use network_types::ip::Ipv6Hdr;

use crate::{
    fragments,
    headers::Headers,
    ipv4::{dispatch, find_service, hand_over, read_transport},
    maps::{self, Tables},
    packet::{Packet, View},
    scratch,
    services::{Service, address, foreign, service},
    stages::Stage,
    transport::{self, UDP_LEN},
    verdict::Verdict,
};

const LEN: usize = Ipv6Hdr::LEN;

/// Extension headers followed in one packet. RFC 8200 has six kinds, of which each occurs once, and
/// destination options twice at most.
const MAX_EXTENSIONS: usize = 7;
/// Bytes of extension headers followed in one packet.
const MAX_EXTENSION_BYTES: u32 = 512;
/// Offset and "more fragments" of a fragment header, as its bytes have them.
const FRAGMENT_BITS: u16 = 0xfff9_u16.to_be();
const OFFSET_BITS: u16 = 0xfff8_u16.to_be();

/// Takes a packet whose IPv6 header is at `l3`. Packets with extension headers, ICMPv6, which are rare, and what
/// is malformed, forged or `to_group` are handled by [`uncommon_v6`].
#[inline(always)]
pub(crate) fn receive(ctx: *mut xdp_md, packet: Packet, l3: usize, to_group: bool) -> Verdict {
    let uncommon = Verdict::next(Stage::UncommonV6, l3 as u32, 0);
    let Some(ip) = packet.view::<{ LEN + UDP_LEN }>(l3) else {
        return uncommon;
    };
    if ip.get::<u8>(0) >> 4 != 6 {
        return uncommon;
    }
    let tables = maps::tables();
    let headers = plain_headers(ip, l3);
    let protocol = headers.protocol;
    let found = service(tables, &headers.dest, family::V6, protocol, headers.dest_be);
    if !found.is_vip() {
        if protocol != proto::TCP && protocol != proto::UDP {
            return uncommon;
        }
        if found.is_foreign() {
            return foreign(tables, &headers.dest, family::V6);
        }
    }
    let room = headers.length - LEN as u32;
    // Asked only now, as in `ipv4`.
    if to_group
        || room < UDP_LEN as u32
        || !headers.is_from_a_host()
        || !packet.holds(headers.length + headers.l3)
    {
        return uncommon;
    }
    let Ok(tcp_flags) = transport::check(packet, l3 + LEN, protocol, room, false) else {
        return uncommon;
    };
    dispatch(
        ctx,
        tables,
        &Headers {
            tcp_flags,
            ..headers
        },
        found,
    )
}

/// What the headers of a packet without extension headers say, but for the TCP flags.
#[inline(always)]
pub(crate) fn plain_headers(ip: View<{ LEN + UDP_LEN }>, l3: usize) -> Headers {
    Headers {
        protocol: ip.get(6),
        source_be: ip.get(40),
        dest_be: ip.get(42),
        ..headers(ip, l3)
    }
}

#[inline(always)]
fn source<const N: usize>(ip: View<N>) -> Address {
    [ip.get(8), ip.get(16)]
}

#[inline(always)]
fn dest<const N: usize>(ip: View<N>) -> Address {
    [ip.get(24), ip.get(32)]
}

/// What the fixed header says.
#[inline(always)]
fn headers<const N: usize>(ip: View<N>, l3: usize) -> Headers {
    Headers {
        l3: l3 as u32,
        l4: (l3 + LEN) as u32,
        length: u32::from(ip.be16(4)) + LEN as u32,
        family: family::V6,
        protocol: 0,
        tcp_flags: 0,
        hops: ip.get(7),
        first_fragment: false,
        source_be: 0,
        dest_be: 0,
        fragment_id: 0,
        source: source(ip),
        dest: dest(ip),
    }
}

/// Extension headers, ICMPv6, and what is too short to tell.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn uncommon_v6(ctx: *mut xdp_md, l3: u32) -> u32 {
    let l3 = (l3 & 0x1f) as usize;
    let Some(ip) = Packet::of(ctx).view::<LEN>(l3) else {
        return Verdict::of(Reason::Truncated).0;
    };
    let tables = maps::tables();
    let target = address(tables, &dest(ip), family::V6);
    if target::kind(target) == 0 {
        return Verdict::of(Reason::NoVip).0;
    }
    match try_uncommon(ctx, tables, l3, target) {
        Ok(verdict) => verdict.0,
        Err(reason) => Verdict::refused(reason, target::kind(target) == target::NAT_SOURCE).0,
    }
}

#[inline(always)]
fn try_uncommon(
    ctx: *mut xdp_md,
    tables: Tables,
    l3: usize,
    target: u64,
) -> Result<Verdict, Reason> {
    let packet = Packet::of(ctx);
    let ip = packet.view::<LEN>(l3).ok_or(Reason::Truncated)?;
    if ip.get::<u8>(0) >> 4 != 6 {
        return Err(Reason::BadHeader);
    }
    let mut headers = headers(ip, l3);
    let chain = Chain::follow(ctx, (l3 + LEN) as u32, ip.get(6));
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
    let later = chain.has(Chain::LATER);
    let is_icmp = headers.protocol == proto::ICMPV6 && !later;
    // Behind the extension header of a later fragment may be anything: only the first one tells.
    let is_hidden = later && is_extension(headers.protocol);
    if !is_icmp && !is_hidden && !target::may_serve(target, headers.protocol) {
        if later {
            // Its first fragment was passed, too.
            return Err(Reason::NoService);
        }
        return Ok(fragments::pass(&headers, Reason::NoService));
    }
    // What is for no service is passed, whatever else is wrong with it; so that is found out first.
    let found = if is_icmp || later {
        None
    } else {
        find_service(packet, tables, &mut headers)
    };
    if found.is_some_and(Service::is_foreign) {
        return Ok(fragments::pass(&headers, Reason::NoService));
    }
    if headers.length + headers.l3 > packet.len() {
        return Err(Reason::BadHeader);
    }
    if is_icmp && headers.first_fragment {
        return Ok(fragments::pass(&headers, Reason::IcmpOther));
    }
    if is_icmp || later {
        scratch::leave(&headers);
        let stage = if later { Stage::Fragment } else { Stage::Icmp };
        return Ok(Verdict::next(stage, 0, 0));
    }
    read_transport(packet, &mut headers)?;
    // Where there is a transport header, there were ports.
    let found = found.ok_or(Reason::Internal)?;
    Ok(hand_over(ctx, tables, &headers, found))
}

/// Where a chain of extension headers leads, in one word: offset of what follows in bits 0–15, its
/// protocol in 16–23, "more fragments" in bit 24, "not the first fragment" in bit 25, and the
/// identification of the datagram in 32–63. 0: the chain is malformed.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Chain(u64);

impl Chain {
    const MALFORMED: Self = Self(0);
    /// More headers than are followed, or a routing header that is not yet at its end.
    const REFUSED: Self = Self(1);
    const MORE: u64 = 1 << 24;
    pub(crate) const LATER: u64 = 1 << 25;

    /// Follows the chain that begins at `offset` with a header of kind `protocol`.
    #[inline(always)]
    pub(crate) fn follow(ctx: *mut xdp_md, offset: u32, protocol: u8) -> Self {
        Self(black_box(follow_chain(ctx, offset, u32::from(protocol))))
    }

    /// Whether it does not lead to its end.
    #[inline(always)]
    pub(crate) fn is_broken(self) -> bool {
        self == Self::MALFORMED || self == Self::REFUSED
    }

    /// The bits that a fragment header adds.
    #[inline(always)]
    fn fragment(bits: u16, id: u32) -> u64 {
        let more = if bits & FRAGMENT_BITS != 0 {
            Self::MORE
        } else {
            0
        };
        let later = if bits & OFFSET_BITS != 0 {
            Self::LATER
        } else {
            0
        };
        more | later | u64::from(id) << 32
    }

    #[inline(always)]
    fn new(offset: u32, protocol: u8, fragment: u64) -> Self {
        Self(u64::from(offset) | u64::from(protocol) << 16 | fragment)
    }

    #[inline(always)]
    pub(crate) fn offset(self) -> usize {
        (self.0 & 0x7ff) as usize
    }

    #[inline(always)]
    pub(crate) fn protocol(self) -> u8 {
        (self.0 >> 16) as u8
    }

    #[inline(always)]
    pub(crate) fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }

    #[inline(always)]
    fn id(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Follows the chain of extension headers that begins at `offset` with a header of kind `protocol`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn follow_chain(ctx: *mut xdp_md, start: u32, first: u32) -> u64 {
    let packet = Packet::of(ctx);
    let start = start & 0x3ff;
    let (mut offset, mut protocol) = (start, first as u8);
    let mut fragment = 0_u64;
    for _ in 0..MAX_EXTENSIONS {
        if !is_extension(protocol) || fragment & Chain::LATER != 0 {
            // After the header of a later fragment comes the middle of the datagram.
            return Chain::new(offset, protocol, fragment).0;
        }
        let Some(header) = packet.view::<8>((offset & 0x7ff) as usize) else {
            return Chain::MALFORMED.0;
        };
        let units = u32::from(header.get::<u8>(1));
        let length = match protocol {
            proto::FRAGMENT => {
                fragment = Chain::fragment(header.get(2), header.get(4));
                8
            }
            proto::AUTH => units * 4 + 8,
            proto::ROUTING if header.get::<u8>(3) != 0 => return Chain::REFUSED.0,
            _ => units * 8 + 8,
        };
        protocol = header.get(0);
        offset += length;
        if offset > start + MAX_EXTENSION_BYTES {
            return Chain::REFUSED.0;
        }
    }
    if is_extension(protocol) {
        return Chain::REFUSED.0;
    }
    Chain::new(offset, protocol, fragment).0
}

/// The protocol numbers that are extension headers, one bit each.
const EXTENSIONS: u64 = 1 << proto::HOP_BY_HOP
    | 1 << proto::ROUTING
    | 1 << proto::FRAGMENT
    | 1 << proto::AUTH
    | 1 << proto::DEST_OPTIONS;

#[inline(always)]
fn is_extension(protocol: u8) -> bool {
    protocol < 64 && EXTENSIONS >> protocol & 1 == 1
}
