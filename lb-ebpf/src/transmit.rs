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
    ip::pass_hop,
    packet::Packet,
    route::Way,
    select::Marks,
};

/// What became of a packet that was to be sent to a member.
pub(crate) enum Sending {
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
    way: &Way<'_>,
    flow_hash: u64,
) -> Result<Sending, Reason> {
    let overhead = if vip.forward == forward::IPIP {
        encap::overhead(way.family)
    } else {
        0
    };
    if !way.fits(headers.length + overhead)? {
        let mtu = way.egress.mtu - overhead;
        return Ok(Sending::TooBig { mtu });
    }
    // Before anything is changed: the packet of which the log tells that no interface takes it is whole.
    let action = ethernet::leave_by(ctx, way.egress.ifindex)?;
    let bytes = Packet::of(ctx).bytes();
    if vip.forward == forward::IPIP {
        encap::encapsulate(ctx, headers, way, flow_hash)?;
    } else {
        pass_hop(Packet::of(ctx), headers.l3(), headers.family)?;
        Addresses::new(way.next_hop, way.egress).write(ctx)?;
    }
    Ok(Sending::Sent { action, bytes })
}

/// Counts a packet that was sent to a member, and that it was forwarded.
#[inline(always)]
pub(crate) fn count_packet(member: u16, marks: Marks, tcp_flags: u8, bytes: u64) {
    count_sent(Reason::Forwarded, member, |counters| {
        counters.packets += 1;
        counters.bytes += bytes;
        marks.count(tcp_flags, counters);
    });
}
