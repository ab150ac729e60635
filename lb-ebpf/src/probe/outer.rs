//! The outer header of `ipip`, as the balancer writes it. VIP and backend have the same address
//! family: a socket of one family cannot probe the other.

use aya_ebpf::helpers::generated;
use lb_common::{checksum, family, member::Member, probe::ProbeFlow, proto};

use crate::{
    frame::{Frame, HelperError, L3, V4, V6, done},
    wire::{ipv4, ipv6},
};

/// TTL of the outer header.
const TTL: u8 = 64;

/// `BPF_ADJ_ROOM_MAC`: insert room between the link header and the IP header.
const BEHIND_LINK: u32 = 1;
const ENCAPSULATES_V4: u64 = 1 << 1;
const ENCAPSULATES_V6: u64 = 1 << 2;

/// Encapsulates the packet of `flow` for the member.
#[inline(always)]
pub(crate) fn push_outer_header(
    frame: Frame,
    flow: &ProbeFlow,
    member: &Member,
) -> Result<(), HelperError> {
    // Like the balancer, varies the source per flow within the configured prefix.
    let spread = u32::from(flow.node_port_be).wrapping_mul(0x9e37_79b1);
    let varied = spread & member.vary_mask;
    if flow.family == family::V4 {
        let length = u16::from_be(
            frame
                .load(L3 + ipv4::TOTAL_LENGTH as u32)
                .ok_or(HelperError)?,
        );
        make_room(frame, V4, ENCAPSULATES_V4)?;
        frame.store(L3, &header_v4(length, member, varied))
    } else {
        let length = u16::from_be(
            frame
                .load(L3 + ipv6::PAYLOAD_LENGTH as u32)
                .ok_or(HelperError)?,
        );
        make_room(frame, V6, ENCAPSULATES_V6)?;
        frame.store(L3, &header_v6(length, member, varied))
    }
}

#[inline(always)]
fn make_room(frame: Frame, bytes: u32, flags: u64) -> Result<(), HelperError> {
    // SAFETY: a helper call on the program's own context.
    done(unsafe { generated::bpf_skb_adjust_room(frame.0, bytes as i32, BEHIND_LINK, flags) })
}

#[inline(always)]
fn header_v4(inner_length: u16, member: &Member, varied: u32) -> [u32; 5] {
    let length_be = inner_length.wrapping_add(V4 as u16).to_be();
    let first = u32::from(ipv4::NO_OPTIONS) | u32::from(length_be) << 16;
    let ttl_and_protocol = u32::from(TTL) | u32::from(proto::IPIP) << 8;
    let source = member.source[0] as u32 | varied;
    let dest = member.address[0] as u32;
    let sum = u64::from(first)
        + u64::from(ipv4::DONT_FRAGMENT)
        + u64::from(ttl_and_protocol)
        + u64::from(source)
        + u64::from(dest);
    let last = ttl_and_protocol | u32::from(checksum::finish(sum)) << 16;
    [first, ipv4::DONT_FRAGMENT, last, source, dest]
}

#[inline(always)]
fn header_v6(inner_payload: u16, member: &Member, varied: u32) -> [u64; 5] {
    let length_be = inner_payload.wrapping_add(V6 as u16).to_be();
    let second = u32::from(length_be) | u32::from(proto::IPV6) << 16 | u32::from(TTL) << 24;
    [
        u64::from((6_u32 << 28).to_be()) | u64::from(second) << 32,
        member.source[0],
        member.source[1] | u64::from(varied) << 32,
        member.address[0],
        member.address[1],
    ]
}
