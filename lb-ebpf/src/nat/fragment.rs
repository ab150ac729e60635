//! Datagrams of NAT sessions that are fragments, or may become ones. Clients behind one source
//! address choose the same identifications, so such datagrams get new ones (RFC 6864 §5.3).

use aya_ebpf::bindings::xdp_md;
use lb_common::{family, fragment::FragmentTarget, nat::REPLY, reason::Reason};

use super::{reply::send_reply, reply_key, rewrite, session};
use crate::{
    counters::cpu,
    ethernet::{self, Addresses},
    fragments,
    headers::Headers,
    maps::{CPUS, below},
    packet::Packet,
    route::route_to,
    scratch::{IDENTIFICATIONS, Identifications, Scratch, Session, scratch},
    select::Counted,
    transmit::count_forwarded,
    verdict::Verdict,
    wire::{ipv4, ipv6},
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

/// Where a datagram comes from, for [`nat_identify`].
pub(super) const CLIENT: u32 = u32::MAX;

/// Gives a rewritten datagram a new identification, and remembers a first fragment. The headers are
/// in the scratch; `from` is [`CLIENT`], whose session is there too, or the NAT source of a reply.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn nat_identify(ctx: *mut xdp_md, from: u32, vip: u32, member: u32) -> u32 {
    let Some(Scratch {
        headers,
        key,
        session,
        identifications,
        ..
    }) = scratch()
    else {
        return 0;
    };
    let packet = Packet::of(ctx);
    let Some(id) = next_id(packet, headers, identifications) else {
        return 0;
    };
    // Later fragments follow only an identification that was written.
    if rewrite::identification(packet, headers, id).is_ok() && headers.first_fragment {
        *key = if from == CLIENT {
            session.request_key
        } else {
            reply_key(headers, from as u16)
        };
        fragments::remember_session(headers, key, vip as u16, member as u16, id);
    }
    0
}

/// Returns an identification that this node uses again as late as possible for the destination: all
/// CPUs count, each in steps of their number.
#[inline(always)]
fn next_id(
    packet: Packet,
    headers: &Headers,
    identifications: &mut Identifications,
) -> Option<u32> {
    let end_of_dest = if headers.family == family::V4 {
        ipv4::DEST
    } else {
        ipv6::DEST + 12
    };
    let dest: u32 = packet.view::<4>(headers.l3() + end_of_dest)?.get(0);
    let counter = dest.wrapping_mul(0x9e37_79b1) >> 24;
    let counter = &mut identifications[below::<IDENTIFICATIONS>(counter as usize)];
    *counter = counter.wrapping_add(1);
    Some(counter.wrapping_mul(CPUS.load()).wrapping_add(cpu()))
}
