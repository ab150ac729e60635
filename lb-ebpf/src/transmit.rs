//! Sends packets to members by `l2` and `ipip`.

use aya_ebpf::bindings::xdp_md;
use lb_common::{
    reason::Reason,
    vip::{Vip, forward},
};

use crate::{
    counters::count_sent,
    encap,
    ethernet::{self, Addresses},
    headers::Headers,
    ip::decrement_ttl,
    packet::Packet,
    route::Route,
    select::Marks,
};

/// What became of a packet that was to be sent to a member.
pub(crate) enum Outcome {
    /// It goes, by this action; so many bytes came in.
    Sent { action: u32, bytes: u64 },
    /// It does not fit: the largest IP packet that does, bytes.
    TooBig { mtu: u32 },
}

/// Sends the packet to the member as the VIP says (`l2`, `ipip`).
#[inline(always)]
pub(crate) fn send(
    ctx: *mut xdp_md,
    headers: &Headers,
    vip: &Vip,
    route: &Route<'_>,
    flow_hash: u64,
) -> Result<Outcome, Reason> {
    let overhead = if vip.forward == forward::IPIP {
        encap::overhead(route.family)
    } else {
        0
    };
    if !route.fits(headers.length + overhead)? {
        let mtu = route.egress.mtu - overhead;
        return Ok(Outcome::TooBig { mtu });
    }
    // Before anything is changed: the packet of which the log tells that no interface takes it is whole.
    let action = ethernet::transmit(ctx, route.egress.ifindex)?;
    let bytes = Packet::of(ctx).bytes();
    if vip.forward == forward::IPIP {
        encap::encapsulate(ctx, headers, route, flow_hash)?;
    } else {
        decrement_ttl(Packet::of(ctx), headers.l3(), headers.family)?;
        Addresses::new(route.next_hop, route.egress).write(ctx)?;
    }
    Ok(Outcome::Sent { action, bytes })
}

/// Counts a packet that was sent to a member, and that it was forwarded.
#[inline(always)]
pub(crate) fn count_forwarded(member: u16, marks: Marks, tcp_flags: u8, bytes: u64) {
    count_sent(Reason::Forwarded, member, |counters| {
        counters.packets += 1;
        counters.bytes += bytes;
        marks.count(tcp_flags, counters);
    });
}
