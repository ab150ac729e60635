//! Later fragments of sessions.

use aya_ebpf::bindings::xdp_md;
use lb_common::{
    nat::{NatFlow, NatKey, REPLY},
    reason::Reason,
};

use super::{reply::send_reply, rewrite, session};
use crate::{
    ethernet::{self, Addresses},
    headers::Headers,
    maps::tables,
    packet::Packet,
    route::way,
    select::Marks,
    transmit::count_packet,
    verdict::Verdict,
};

/// A later fragment of a session's datagram. `flow` is a place in the scratch.
#[inline(always)]
pub(crate) fn follow_session(
    ctx: *mut xdp_md,
    headers: &Headers,
    key: &NatKey,
    flow: &mut NatFlow,
) -> Result<Verdict, Reason> {
    session::look_up(key, flow).ok_or(Reason::FragmentOrphan)?;
    let flow = &*flow;
    let packet = Packet::of(ctx);
    let bytes = packet.bytes();
    if key.scope & REPLY != 0 {
        rewrite::addresses(packet, headers, flow)?;
        return send_reply(ctx, flow, bytes);
    }
    let tables = tables();
    let way = way(tables, flow.member, flow.vip)?;
    if !way.fits(headers.length)? {
        // Of a later fragment nobody is told (RFC 1122 §3.2.2).
        return Err(Reason::TooBig);
    }
    rewrite::addresses(packet, headers, flow)?;
    Addresses::new(way.next_hop, way.egress).write(ctx)?;
    let action = ethernet::leave_by(ctx, way.egress.ifindex)?;
    count_packet(flow.member, Marks::none(), 0, bytes);
    Ok(Verdict::counted(Reason::Forwarded, action))
}
