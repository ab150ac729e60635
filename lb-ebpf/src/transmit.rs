//! Transmits packets to members with `l2` and `ipip`.

use aya_ebpf::bindings::xdp_md;
use lb_common::{
    family,
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
    packet::Packet,
    route::Route,
    select::Counted,
};

/// Result of [`send`].
pub(crate) enum Outcome {
    /// The packet is transmitted by this XDP action; it had `bytes` bytes when received.
    Sent { action: u32, bytes: u64 },
    /// The packet does not fit; `mtu` is the largest IP packet in bytes that does.
    TooBig { mtu: u32 },
}

/// Rewrites the packet for the member, as the VIP's forwarding mode requires.
///
/// Each mode and family is a path of its own: what is constant on it needs no register.
#[inline(always)]
pub(crate) fn send(
    ctx: *mut xdp_md,
    headers: &Headers,
    vip: &Vip,
    route: &Route<'_>,
    flow_hash: u64,
) -> Result<Outcome, Reason> {
    // A bit, whatever limits the VIP has; `nat` is not sent here.
    if vip.forward & forward::IPIP == 0 {
        return send_l2(ctx, headers, route);
    }
    if route.family == family::V4 {
        send_ipip::<{ family::V4 }>(ctx, headers, route, flow_hash)
    } else {
        send_ipip::<{ family::V6 }>(ctx, headers, route, flow_hash)
    }
}

#[inline(always)]
fn send_l2(ctx: *mut xdp_md, headers: &Headers, route: &Route<'_>) -> Result<Outcome, Reason> {
    if !route.fits(headers.length)? {
        let mtu = route.egress.mtu;
        return Ok(Outcome::TooBig { mtu });
    }
    // Before the packet is modified: if no interface takes it, the log reads the original headers.
    let action = ethernet::transmit(ctx, route.egress.ifindex)?;
    decrement_ttl(Packet::of(ctx), headers.l3(), headers.family)?;
    Addresses::new(route.next_hop, route.egress).write(ctx)?;
    let bytes = Packet::of(ctx).bytes();
    Ok(Outcome::Sent { action, bytes })
}

/// Encapsulates the packet in an outer header of the family `OUTER`.
#[inline(always)]
fn send_ipip<const OUTER: u8>(
    ctx: *mut xdp_md,
    headers: &Headers,
    route: &Route<'_>,
    flow_hash: u64,
) -> Result<Outcome, Reason> {
    let overhead = encap::overhead(OUTER);
    if !route.fits(headers.length + overhead)? {
        let mtu = route.egress.mtu - overhead;
        return Ok(Outcome::TooBig { mtu });
    }
    // Last, so that small packets take a single comparison.
    if headers.length > ALWAYS_FITS {
        core::hint::cold_path();
        let mtu = tunnel::path_mtu(route.index, route.member);
        if headers.length + overhead > mtu {
            let mtu = mtu - overhead;
            return Ok(Outcome::TooBig { mtu });
        }
    }
    // As in `send_l2`.
    let action = ethernet::transmit(ctx, route.egress.ifindex)?;
    let bytes = encap::encapsulate::<OUTER>(ctx, headers, route, flow_hash)?;
    Ok(Outcome::Sent { action, bytes })
}

/// Counts a packet forwarded to a member. Returns whether it is plain.
#[inline(always)]
pub(crate) fn count_forwarded(packet: Counted, bytes: u64) -> bool {
    count_sent(Reason::Forwarded, packet.member(), |counters| {
        counters.packets += 1;
        counters.bytes += bytes;
        if !packet.is_plain() {
            core::hint::cold_path();
            packet.count(counters);
        }
    });
    packet.is_plain()
}
