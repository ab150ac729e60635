//! Functions for both IPv4 and IPv6.

use lb_common::{checksum, family, proto, reason::Reason};

use crate::{
    packet::{Packet, View},
    wire::{ipv4, ipv6},
};

/// Decrements the TTL or hop limit, and updates the IPv4 checksum.
#[inline(always)]
pub(crate) fn decrement_ttl(packet: Packet, l3: usize, family: u8) -> Result<(), Reason> {
    let ip = packet.view::<{ ipv4::LEN }>(l3).ok_or(Reason::Internal)?;
    decrement_ttl_at(ip, 0, family);
    Ok(())
}

/// Like [`decrement_ttl`], for an IP header at `l3` of a view.
#[inline(always)]
pub(crate) fn decrement_ttl_at<const LEN: usize>(view: View<LEN>, l3: usize, family: u8) {
    if family == family::V4 {
        view.set(
            l3 + ipv4::TTL,
            checksum::decrement_ttl(view.get(l3 + ipv4::TTL)),
        );
    } else {
        view.set(
            l3 + ipv6::HOP_LIMIT,
            view.get::<u8>(l3 + ipv6::HOP_LIMIT).wrapping_sub(1),
        );
    }
}

/// Returns the protocol number that an outer header has for an inner packet of `family`.
#[inline(always)]
pub(crate) const fn inner_protocol(family: u8) -> u8 {
    if family == family::V4 {
        proto::IPIP
    } else {
        proto::IPV6
    }
}
