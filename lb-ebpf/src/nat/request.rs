//! Packets from clients to `nat` VIPs.

use aya_ebpf::bindings::xdp_md;
use lb_common::{nat::NatFlow, reason::Reason, trace::decision};

use super::{
    create,
    identify::{CLIENT, nat_identify},
    refresh, request_key, rewrite,
    session::{self, RequestMatch},
};
use crate::{
    bound,
    ethernet::{self, Addresses},
    headers::Headers,
    icmp::generate,
    limits,
    log::into_verdict,
    packet::Packet,
    route::route_to,
    samples,
    scratch::{Scratch, Session, scratch},
    select::Counted,
    tables, trace,
    transmit::count_forwarded,
    verdict::{Stage, Verdict},
};

/// A client's packet for a VIP. If its session is established and needs no update, it is
/// transmitted at once. The headers are in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn nat_request(ctx: *mut xdp_md, vip_index: u32) -> u32 {
    let Some(scratch) = scratch() else {
        return Verdict::of(Reason::Internal).0;
    };
    let vip = tables::vip(vip_index as u16);
    let headers = &scratch.headers;
    let saved = samples::is_sampled(vip, headers.flow_hash(vip));
    let key = request_key(headers, vip_index as u16);
    if !saved
        && !headers.first_fragment
        && let Some(flow) = session::find_established(ctx, headers, &key)
    {
        return into_verdict(send(ctx, headers, &flow, vip_index as u16, false)).0;
    }
    core::hint::cold_path();
    Verdict::next(Stage::NatSession, 0, vip_index).0
}

/// Finds the session of a client's packet. The headers are in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn nat_session(ctx: *mut xdp_md, vip_index: u32) -> u32 {
    let Some(scratch) = scratch() else {
        return Verdict::of(Reason::Internal).0;
    };
    let vip = tables::vip(vip_index as u16);
    let Scratch {
        headers, session, ..
    } = scratch;
    session.request_key = request_key(headers, vip_index as u16);
    let found = session::match_request(ctx, headers, vip, vip_index as u16, session);
    session.new = false;
    let stage = match found {
        // What begins no session is refused later, and needs no limit.
        RequestMatch::NoSession
            if vip.is_limited(limits::NEW_FLOWS) && (headers.opens() || !headers.is_tcp()) =>
        {
            return Verdict::next(Stage::Limit, limits::NAT_SESSION, vip_index).0;
        }
        RequestMatch::NoSession => Stage::NatCreate,
        RequestMatch::Reopened => {
            return Verdict::next(Stage::Bound, bound::NAT_REOPENED, vip_index).0;
        }
        RequestMatch::Current => Stage::NatSend,
        RequestMatch::RefreshDue => Stage::NatRefresh,
    };
    Verdict::next(stage, 0, vip_index).0
}

/// Creates a session for a client's packet, to the member in the scratch if that is
/// [decided](bound::DECIDED). The headers are in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn nat_create(ctx: *mut xdp_md, decided: u32, vip_index: u32) -> u32 {
    let Some(scratch) = scratch() else {
        return Verdict::of(Reason::Internal).0;
    };
    let vip = tables::vip(vip_index as u16);
    let decided = bound::decided(scratch, decided);
    let Scratch {
        headers, session, ..
    } = scratch;
    session.new = true;
    let created = create::create(ctx, headers, vip, vip_index as u16, session, decided);
    into_verdict(created.map(|()| Verdict::next(Stage::NatSend, 0, vip_index))).0
}

/// Confirms or refreshes the session of a client's packet. The headers and the session are in the
/// scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn nat_refresh(ctx: *mut xdp_md, vip_index: u32) -> u32 {
    if let Some(scratch) = scratch() {
        let Scratch {
            headers, session, ..
        } = scratch;
        refresh::refresh(ctx, headers, session);
    }
    Verdict::next(Stage::NatSend, 0, vip_index).0
}

/// Transmits a client's packet. The headers and the session are in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn nat_send(ctx: *mut xdp_md, vip_index: u32) -> u32 {
    let Some(scratch) = scratch() else {
        return Verdict::of(Reason::Internal).0;
    };
    let Scratch {
        headers, session, ..
    } = scratch;
    into_verdict(try_send(ctx, headers, session, vip_index as u16)).0
}

#[inline(always)]
fn try_send(
    ctx: *mut xdp_md,
    headers: &Headers,
    session: &Session,
    vip_index: u16,
) -> Result<Verdict, Reason> {
    let Session { request, new, .. } = session;
    let bytes = Packet::of(ctx).bytes();
    let verdict = send(ctx, headers, request, vip_index, *new)?;
    if !verdict.is_last() {
        return Ok(verdict);
    }
    let vip = tables::vip(vip_index);
    let hash = headers.flow_hash(vip);
    if samples::is_sampled(vip, hash) {
        let (vip, member) = (u32::from(vip_index), u32::from(request.member));
        samples::sample(vip, member, bytes, hash as u32);
    }
    Ok(verdict)
}

/// Rewrites a client's packet and transmits it.
#[inline(always)]
fn send(
    ctx: *mut xdp_md,
    headers: &Headers,
    flow: &NatFlow,
    vip_index: u16,
    new: bool,
) -> Result<Verdict, Reason> {
    trace::vip(vip_index);
    trace::member(flow.member, decision::SESSION);
    let route = route_to(flow.member, vip_index)?;
    if !route.fits(headers.length)? {
        core::hint::cold_path();
        return Ok(generate::reply_with(
            headers,
            generate::Message::TooBig(route.egress.mtu),
        ));
    }
    let packet = Packet::of(ctx);
    let bytes = packet.bytes();
    if rewrite::packet(packet, headers, flow)? {
        core::hint::cold_path();
        nat_identify(ctx, CLIENT, vip_index.into(), flow.member.into());
    }
    Addresses::new(route.next_hop, route.egress).write(ctx)?;
    let action = ethernet::transmit(ctx, route.egress.ifindex)?;
    let packet = Counted::new(flow.member, headers.tcp_flags).mark(Counted::NEW_FLOW, new);
    count_forwarded(packet, bytes);
    Ok(Verdict::counted(Reason::Forwarded, action))
}
