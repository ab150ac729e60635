//! Forwards later fragments of NAT sessions.

use aya_ebpf::bindings::xdp_md;
use lb_common::{
    nat::{NatKey, REPLY},
    reason::Reason,
};

use super::{reply::send_reply, rewrite, session};
use crate::{
    ethernet::{self, Addresses},
    headers::Headers,
    maps::tables,
    packet::Packet,
    route::route_to,
    scratch::Session,
    select::Marks,
    transmit::count_forwarded,
    verdict::Verdict,
};

/// Forwards a later fragment. `session` is in the scratch.
#[inline(always)]
pub(crate) fn forward_fragment(
    ctx: *mut xdp_md,
    headers: &Headers,
    key: &NatKey,
    session: &mut Session,
) -> Result<Verdict, Reason> {
    session::look_up(key, session).ok_or(Reason::FragmentOrphan)?;
    let flow = &session.request;
    let packet = Packet::of(ctx);
    let bytes = packet.bytes();
    if key.scope & REPLY != 0 {
        rewrite::addresses(packet, headers, flow)?;
        return send_reply(ctx, flow, bytes);
    }
    let tables = tables();
    let route = route_to(tables, flow.member, flow.vip)?;
    if !route.fits(headers.length)? {
        // Later fragments are not answered (RFC 1122 §3.2.2).
        return Err(Reason::TooBig);
    }
    rewrite::addresses(packet, headers, flow)?;
    Addresses::new(route.next_hop, route.egress).write(ctx)?;
    let action = ethernet::transmit(ctx, route.egress.ifindex)?;
    count_forwarded(flow.member, Marks::none(), 0, bytes);
    Ok(Verdict::counted(Reason::Forwarded, action))
}
