//! `ipip` encapsulation in all four combinations of address families (RFC 2003, RFC 2473, RFC
//! 4213).
//!
//! The outer source varies per flow within a prefix, so that the backend's NIC spreads the flows
//! over its queues. The traffic class is copied, ECN included (RFC 6040).

use aya_ebpf::bindings::xdp_md;
use lb_common::{checksum, family, reason::Reason};

use crate::{
    ethernet::{Addresses, tags, write_into},
    headers::Headers,
    ip::{decrement_ttl_at, inner_protocol},
    packet::{Packet, View, adjust_head},
    route::Route,
    wire::{ether, ethernet, ipv4, ipv6},
};

const V4: usize = ipv4::LEN;
const V6: usize = ipv6::LEN;

/// TTL of the outer header.
const TTL: u8 = 64;

/// Bytes that the outer header adds.
#[inline(always)]
pub(crate) const fn overhead(family: u8) -> u32 {
    if family == family::V4 {
        V4 as u32
    } else {
        V6 as u32
    }
}

/// Encapsulates the packet for the route's member, in an outer header of the family `OUTER`, and
/// decrements its TTL. Returns the bytes of the frame as it was received.
///
/// A single bounds check covers the link header, the outer header and the first 20 bytes of the
/// inner IP header.
#[inline(always)]
pub(crate) fn encapsulate<const OUTER: u8>(
    ctx: *mut xdp_md,
    headers: &Headers,
    route: &Route<'_>,
    flow_hash: u64,
) -> Result<u64, Reason> {
    let outer = Outer {
        headers,
        route,
        flow_hash,
        tags: tags(ctx, headers.l3()),
    };
    if !adjust_head(ctx, -(overhead(OUTER) as i32)) {
        core::hint::cold_path();
        return Err(Reason::NoRoom);
    }
    let packet = Packet::of(ctx);
    let frame = Frame(packet);
    match (OUTER, headers.l3 as usize) {
        (family::V4, ethernet::LEN) => {
            outer.write_v4(frame.view::<{ ethernet::LEN + V4 + ipv4::LEN }>()?);
        }
        (family::V4, ethernet::TAGGED_LEN) => {
            outer.write_v4(frame.view::<{ ethernet::TAGGED_LEN + V4 + ipv4::LEN }>()?);
        }
        (family::V4, ethernet::DOUBLE_TAGGED_LEN) => {
            outer.write_v4(frame.view::<{ ethernet::DOUBLE_TAGGED_LEN + V4 + ipv4::LEN }>()?);
        }
        (_, ethernet::LEN) => {
            outer.write_v6(frame.view::<{ ethernet::LEN + V6 + ipv4::LEN }>()?);
        }
        (_, ethernet::TAGGED_LEN) => {
            outer.write_v6(frame.view::<{ ethernet::TAGGED_LEN + V6 + ipv4::LEN }>()?);
        }
        (_, ethernet::DOUBLE_TAGGED_LEN) => {
            outer.write_v6(frame.view::<{ ethernet::DOUBLE_TAGGED_LEN + V6 + ipv4::LEN }>()?);
        }
        _ => return Err(Reason::Internal),
    }
    Ok(packet.bytes() - u64::from(overhead(OUTER)))
}

/// A frame with room for an outer header.
struct Frame(Packet);

impl Frame {
    #[inline(always)]
    fn view<const LEN: usize>(&self) -> Result<View<LEN>, Reason> {
        self.0.view::<LEN>(0).ok_or(Reason::NoRoom)
    }
}

/// Inputs of an outer header.
struct Outer<'a> {
    headers: &'a Headers,
    route: &'a Route<'a>,
    flow_hash: u64,
    tags: u64,
}

impl Outer<'_> {
    #[inline(always)]
    fn write_link<const LEN: usize>(&self, frame: View<LEN>, l3: usize, ether_type: u16) {
        let addresses = Addresses::new(self.route.next_hop, self.route.egress);
        write_into(frame, l3, addresses, self.tags, ether_type);
    }

    /// Type of service or traffic class of the IP header at `at`.
    #[inline(always)]
    fn class<const LEN: usize>(&self, frame: View<LEN>, at: usize) -> u8 {
        if self.headers.family == family::V4 {
            frame.get(at + ipv4::TOS)
        } else {
            (frame.be16(at) >> 4) as u8
        }
    }

    #[inline(always)]
    fn write_v4<const LEN: usize>(&self, frame: View<LEN>) {
        let Self { headers, route, .. } = self;
        let l3 = const { LEN - ipv4::LEN - V4 };
        self.write_link(frame, l3, ether::IPV4);
        let length_be = ((headers.length + V4 as u32) as u16).to_be();
        let first = u32::from(ipv4::NO_OPTIONS)
            | u32::from(self.class(frame, l3 + V4)) << 8
            | u32::from(length_be) << 16;
        let ttl_and_protocol = u32::from(TTL) | u32::from(inner_protocol(headers.family)) << 8;
        let varied = self.flow_hash as u32 & route.member.vary_mask;
        // `outer_sum` covers the words that are the same for every packet to the member: both
        // addresses and the flags.
        let sum = u64::from(route.member.outer_sum)
            + u64::from(first)
            + u64::from(ttl_and_protocol)
            + u64::from(varied);
        frame.set(l3 + ipv4::VERSION_IHL, first);
        frame.set(l3 + ipv4::ID, ipv4::DONT_FRAGMENT);
        frame.set(
            l3 + ipv4::TTL,
            ttl_and_protocol | u32::from(checksum::finish(sum)) << 16,
        );
        frame.set(l3 + ipv4::SOURCE, route.member.source[0] as u32 | varied);
        frame.set(l3 + ipv4::DEST, route.member.address[0] as u32);
        decrement_ttl_at(frame, l3 + V4, headers.family);
    }

    #[inline(always)]
    fn write_v6<const LEN: usize>(&self, frame: View<LEN>) {
        let Self {
            headers,
            route,
            flow_hash,
            ..
        } = self;
        let l3 = const { LEN - ipv4::LEN - V6 };
        self.write_link(frame, l3, ether::IPV6);
        // Version, traffic class, and 20 bits of the hash as flow label (RFC 6438).
        let first = 6 << 28
            | u32::from(self.class(frame, l3 + V6)) << 20
            | (flow_hash >> 12) as u32 & 0xf_ffff;
        let length_be = (headers.length as u16).to_be();
        let second = u32::from(length_be)
            | u32::from(inner_protocol(headers.family)) << 16
            | u32::from(TTL) << 24;
        let (source, dest) = (&route.member.source, &route.member.address);
        frame.set(l3 + ipv6::VERSION, first.to_be());
        frame.set(l3 + ipv6::PAYLOAD_LENGTH, second);
        frame.set(l3 + ipv6::SOURCE, source[0]);
        frame.set(
            l3 + ipv6::SOURCE + 8,
            source[1] | (flow_hash << 32) & u64::from(route.member.vary_mask) << 32,
        );
        frame.set(l3 + ipv6::DEST, dest[0]);
        frame.set(l3 + ipv6::DEST + 8, dest[1]);
        decrement_ttl_at(frame, l3 + V6, headers.family);
    }
}
