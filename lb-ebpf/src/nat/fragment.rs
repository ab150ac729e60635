//! Later fragments of datagrams of NAT sessions.

use aya_ebpf::bindings::xdp_md;
use lb_common::{fragment::FragmentTarget, nat::REPLY, reason::Reason};

use super::{reply::send_reply, rewrite, session};
use crate::{
    ethernet::{self, Addresses},
    headers::Headers,
    packet::Packet,
    route::route_to,
    scratch::Session,
    select::Counted,
    transmit::count_forwarded,
    verdict::Verdict,
};

/// Forwards a later fragment. `session` is in the scratch.
#[inline(always)]
pub(crate) fn forward_fragment(
    ctx: *mut xdp_md,
    headers: &Headers,
    target: &FragmentTarget,
    session: &mut Session,
) -> Result<Verdict, Reason> {
    let (key, id) = (&target.nat, target.flow_hash as u32);
    session::look_up(key, session).ok_or(Reason::FragmentOrphan)?;
    let flow = &session.request;
    let packet = Packet::of(ctx);
    let bytes = packet.bytes();
    if key.scope & REPLY != 0 {
        rewrite::addresses(packet, headers, flow)?;
        rewrite::identification(packet, headers, id)?;
        return send_reply(ctx, flow, bytes);
    }
    let route = route_to(flow.member, flow.vip)?;
    if !route.fits(headers.length)? {
        // Later fragments are not answered (RFC 1122 §3.2.2).
        return Err(Reason::TooBig);
    }
    rewrite::addresses(packet, headers, flow)?;
    rewrite::identification(packet, headers, id)?;
    Addresses::new(route.next_hop, route.egress).write(ctx)?;
    let action = ethernet::transmit(ctx, route.egress.ifindex)?;
    count_forwarded(Counted::new(flow.member, 0), bytes);
    Ok(Verdict::counted(Reason::Forwarded, action))
}
