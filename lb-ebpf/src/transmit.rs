//! Transmits packets to members with `l2` and `ipip`.

use aya_ebpf::bindings::xdp_md;
use lb_common::{
    reason::Reason,
    tunnel::ALWAYS_FITS,
    vip::{Vip, forward},
};

use crate::{
    counters::count_sent,
    encap,
    ethernet::{self, Addresses},
    headers::Headers,
    icmp::tunnel,
    ip::decrement_ttl,
    maps,
    packet::Packet,
    route::Route,
    select::Marks,
};

/// Result of [`send`].
pub(crate) enum Outcome {
    /// The packet is transmitted by this XDP action; it had `bytes` bytes when received.
    Sent { action: u32, bytes: u64 },
    /// The packet does not fit; `mtu` is the largest IP packet in bytes that does.
    TooBig { mtu: u32 },
}

/// Rewrites the packet for the member, as the VIP's forwarding mode requires.
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
    // Last, so that small packets take a single comparison.
    if headers.length > ALWAYS_FITS && vip.forward == forward::IPIP {
        let mtu = tunnel::path_mtu(maps::tables(), route.index, route.member);
        if headers.length + overhead > mtu {
            let mtu = mtu - overhead;
            return Ok(Outcome::TooBig { mtu });
        }
    }
    // Before the packet is modified: if no interface takes it, the log reads the original headers.
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

/// Counts a packet forwarded to a member.
#[inline(always)]
pub(crate) fn count_forwarded(member: u16, marks: Marks, tcp_flags: u8, bytes: u64) {
    count_sent(Reason::Forwarded, member, |counters| {
        counters.packets += 1;
        counters.bytes += bytes;
        marks.count(tcp_flags, counters);
    });
}
