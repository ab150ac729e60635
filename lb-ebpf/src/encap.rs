//! `ipip`: an outer header in front of the packet, in all four combinations of families (RFC 2003,
//! RFC 2473, RFC 4213).
//!
//! The outer source varies with the flow inside a prefix, so that the NIC of the backend spreads the
//! packets over its queues; the class is copied, congestion marks included (RFC 6040).

use aya_ebpf::bindings::xdp_md;
use lb_common::{checksum, family, reason::Reason};

use crate::{
    forward::{Way, encapsulated},
    headers::Headers,
    link::{self, Addresses, ether},
    packet::{Packet, adjust_head},
};

const V4: usize = 20;
const V6: usize = 40;

/// Hop count of the outer header.
const HOPS: u8 = 64;

/// "Don't fragment" as the bytes of the header have it: the packet was found to fit.
const DONT_FRAGMENT: u32 = 0x0040 << 16;

/// Bytes that the outer header adds.
#[inline(always)]
pub(crate) const fn overhead(family: u8) -> u32 {
    if family == family::V4 {
        V4 as u32
    } else {
        V6 as u32
    }
}

/// Puts the outer header for the way's member in front.
#[inline(always)]
pub(crate) fn encapsulate(
    ctx: *mut xdp_md,
    headers: &Headers,
    way: &Way<'_>,
    flow_hash: u64,
) -> Result<(), Reason> {
    let l3 = headers.l3();
    let tags = link::tags(ctx, l3);
    let addresses = Addresses::new(way.next_hop, way.egress);
    if way.family == family::V4 {
        if !adjust_head(ctx, -(V4 as i32)) {
            return Err(Reason::NoRoom);
        }
        link::write(ctx, l3, addresses, tags, ether::IPV4)?;
        write_v4(Packet::of(ctx), l3, headers, way, flow_hash)
    } else {
        if !adjust_head(ctx, -(V6 as i32)) {
            return Err(Reason::NoRoom);
        }
        link::write(ctx, l3, addresses, tags, ether::IPV6)?;
        write_v6(Packet::of(ctx), l3, headers, way, flow_hash)
    }
}

#[inline(always)]
fn write_v4(
    packet: Packet,
    l3: usize,
    headers: &Headers,
    way: &Way<'_>,
    flow_hash: u64,
) -> Result<(), Reason> {
    let outer = packet.view::<V4>(l3).ok_or(Reason::NoRoom)?;
    let length_be = ((headers.length + V4 as u32) as u16).to_be();
    let first = 0x45 | u32::from(headers.class) << 8 | u32::from(length_be) << 16;
    let hops_and_protocol = u32::from(HOPS) | u32::from(encapsulated(headers.family)) << 8;
    let varied = flow_hash as u32 & way.member.vary_mask;
    let source = way.member.source[0] as u32 | varied;
    // `outer_sum` covers what is the same in every packet to the member: both addresses, flags.
    let sum = u64::from(way.member.outer_sum)
        + u64::from(first)
        + u64::from(hops_and_protocol)
        + u64::from(varied);
    outer.set(0, first);
    outer.set(4, DONT_FRAGMENT);
    outer.set(
        8,
        hops_and_protocol | u32::from(checksum::finish(sum)) << 16,
    );
    outer.set(12, source);
    outer.set(16, way.member.address[0] as u32);
    Ok(())
}

#[inline(always)]
fn write_v6(
    packet: Packet,
    l3: usize,
    headers: &Headers,
    way: &Way<'_>,
    flow_hash: u64,
) -> Result<(), Reason> {
    let outer = packet.view::<V6>(l3).ok_or(Reason::NoRoom)?;
    // Version, class, and 20 bits of the hash as flow label (RFC 6438).
    let first = 6 << 28 | u32::from(headers.class) << 20 | (flow_hash >> 12) as u32 & 0xf_ffff;
    let length_be = (headers.length as u16).to_be();
    let second = u32::from(length_be)
        | u32::from(encapsulated(headers.family)) << 16
        | u32::from(HOPS) << 24;
    let source = &way.member.source;
    let dest = &way.member.address;
    outer.set(0, first.to_be());
    outer.set(4, second);
    outer.set(8, source[0]);
    outer.set(
        16,
        source[1] | (flow_hash << 32) & u64::from(way.member.vary_mask) << 32,
    );
    outer.set(24, dest[0]);
    outer.set(32, dest[1]);
    Ok(())
}
