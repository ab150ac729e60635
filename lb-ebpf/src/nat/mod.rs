//! `nat`: destination and source are rewritten, replies come back through the node.
//!
//! Sessions and their two tables are described in [`lb_common::nat`].

use aya_ebpf::bindings::xdp_md;
use lb_common::{
    nat::{NatFlow, NatKey, REPLY},
    reason::Reason,
    trace::decision,
};

use crate::{
    counters::count_sent,
    forward::{count_packet, way},
    fragments,
    headers::Headers,
    icmp,
    link::{self, Addresses},
    maps::{Tables, tables},
    packet::Packet,
    samples,
    scratch::{Scratch, Session, scratch},
    select::Marks,
    stages::Stage,
    trace,
    verdict::{Verdict, settle},
};

pub(crate) mod error;
mod rewrite;
mod session;
mod table;

use session::Belongs;

/// A client's packet for a VIP. One of an established session is sent at once, unless there is
/// something to write down about it. The headers are in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn nat_request(ctx: *mut xdp_md, vip_index: u32) -> u32 {
    let Some(scratch) = scratch() else {
        return Verdict::of(Reason::Internal).0;
    };
    let tables = tables();
    let vip = tables.vip(vip_index as u16);
    let headers = &scratch.headers;
    let noted = samples::is_sampled(vip, headers.flow_hash(vip));
    let key = request_key(headers, vip_index as u16);
    if !noted
        && !headers.first_fragment
        && let Some(flow) = session::established(ctx, tables, headers, &key)
    {
        return settle(send(ctx, tables, headers, &flow, vip_index as u16, false)).0;
    }
    Verdict::next(Stage::NatSession, 0, vip_index).0
}

/// Finds the session of a client's packet. The headers are in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn nat_session(ctx: *mut xdp_md, vip_index: u32) -> u32 {
    let Some(scratch) = scratch() else {
        return Verdict::of(Reason::Internal).0;
    };
    let tables = tables();
    let Scratch {
        headers, session, ..
    } = scratch;
    session.request_key = request_key(headers, vip_index as u16);
    let stage = match session::of_request(ctx, tables, headers, session) {
        Belongs::Nothing => Stage::NatBegin,
        Belongs::Session => Stage::NatSend,
        Belongs::Due => Stage::NatKeep,
    };
    session.new = false;
    Verdict::next(stage, 0, vip_index).0
}

/// Begins a session with a client's packet. The headers are in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn nat_begin(ctx: *mut xdp_md, vip_index: u32) -> u32 {
    let Some(scratch) = scratch() else {
        return Verdict::of(Reason::Internal).0;
    };
    let tables = tables();
    let vip = tables.vip(vip_index as u16);
    let Scratch {
        headers, session, ..
    } = scratch;
    session.new = true;
    let begun = session::begin(ctx, tables, headers, vip, vip_index as u16, session);
    settle(begun.map(|()| Verdict::next(Stage::NatSend, 0, vip_index))).0
}

/// Confirms the session of a client's packet, or keeps its entries. The headers and the session are in
/// the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn nat_keep(ctx: *mut xdp_md, vip_index: u32) -> u32 {
    if let Some(scratch) = scratch() {
        let Scratch {
            headers, session, ..
        } = scratch;
        session::keep(ctx, headers, session);
    }
    Verdict::next(Stage::NatSend, 0, vip_index).0
}

/// Sends a client's packet, whose session is in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn nat_send(ctx: *mut xdp_md, vip_index: u32) -> u32 {
    let Some(scratch) = scratch() else {
        return Verdict::of(Reason::Internal).0;
    };
    let tables = tables();
    let Scratch {
        headers, session, ..
    } = scratch;
    settle(try_send(ctx, tables, headers, session, vip_index as u16)).0
}

#[inline(always)]
fn try_send(
    ctx: *mut xdp_md,
    tables: Tables,
    headers: &Headers,
    session: &Session,
    vip_index: u16,
) -> Result<Verdict, Reason> {
    let Session { request, new, .. } = session;
    let bytes = Packet::of(ctx).bytes();
    let verdict = send(ctx, tables, headers, request, vip_index, *new)?;
    if !verdict.is_last() {
        return Ok(verdict);
    }
    let vip = tables.vip(vip_index);
    let hash = headers.flow_hash(vip);
    if samples::is_sampled(vip, hash) {
        let (vip, member) = (u32::from(vip_index), u32::from(request.member));
        samples::sample(vip, member, bytes, hash as u32);
    }
    if headers.first_fragment {
        fragments::remember_session(headers, &session.request_key, vip_index, request.member);
    }
    Ok(verdict)
}

/// Rewrites a client's packet and sends it.
#[inline(always)]
fn send(
    ctx: *mut xdp_md,
    tables: Tables,
    headers: &Headers,
    flow: &NatFlow,
    vip_index: u16,
    new: bool,
) -> Result<Verdict, Reason> {
    trace::vip(vip_index);
    trace::member(flow.member, decision::SESSION);
    let way = way(tables, flow.member, vip_index)?;
    if !way.fits(headers.length)? {
        return Ok(icmp::answer(headers, icmp::Answer::TooBig(way.egress.mtu)));
    }
    let packet = Packet::of(ctx);
    let bytes = packet.bytes();
    rewrite::packet(packet, headers, flow)?;
    Addresses::new(way.next_hop, way.egress).write(ctx)?;
    let action = link::leave_by(ctx, way.egress.ifindex)?;
    count_packet(flow.member, Marks::of(new, false), headers.tcp_flags, bytes);
    Ok(Verdict::counted(Reason::Forwarded, action))
}

#[inline(always)]
pub(crate) fn request_key(headers: &Headers, vip_index: u16) -> NatKey {
    NatKey {
        address: headers.source,
        source_be: headers.source_be,
        dest_be: headers.dest_be,
        scope: vip_index,
        protocol: u16::from(headers.protocol),
    }
}

#[inline(always)]
fn reply_key(headers: &Headers, source: u16) -> NatKey {
    request_key(headers, source | REPLY)
}

/// A packet to one of the node's NAT addresses: a backend's reply, or the host's own traffic.
/// The headers are in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn nat_reply(ctx: *mut xdp_md, source: u32) -> u32 {
    let Some(scratch) = scratch() else {
        return Verdict::of(Reason::Internal).0;
    };
    settle(try_reply(ctx, &scratch.headers, source as u16)).0
}

#[inline(always)]
fn try_reply(ctx: *mut xdp_md, headers: &Headers, source: u16) -> Result<Verdict, Reason> {
    let key = reply_key(headers, source);
    if let Some(flow) = session::answered(headers, &key)? {
        return reply(ctx, headers, &key, &flow);
    }
    let flow = session::answered_first(headers, &key)?;
    reply(ctx, headers, &key, flow)
}

/// Rewrites a backend's packet and sends it back.
#[inline(always)]
fn reply(
    ctx: *mut xdp_md,
    headers: &Headers,
    key: &NatKey,
    flow: &NatFlow,
) -> Result<Verdict, Reason> {
    trace::vip(flow.vip);
    trace::member(flow.member, decision::SESSION);
    if headers.first_fragment {
        fragments::remember_session(headers, key, flow.vip, flow.member);
    }
    let packet = Packet::of(ctx);
    let bytes = packet.bytes();
    rewrite::packet(packet, headers, flow)?;
    send_reply(ctx, flow, bytes)
}

/// Sends a rewritten packet back the way that the client's packets come: the XDP action.
#[inline(always)]
fn send_back(ctx: *mut xdp_md, flow: &NatFlow) -> Result<u32, Reason> {
    Addresses::from_words(flow.link).write(ctx)?;
    link::leave_by(ctx, flow.ifindex)
}

/// The same for a packet of a backend, which is counted.
#[inline(always)]
fn send_reply(ctx: *mut xdp_md, flow: &NatFlow, bytes: u64) -> Result<Verdict, Reason> {
    let action = send_back(ctx, flow)?;
    count_sent(Reason::NatReply, flow.member, |counters| {
        counters.reply_packets += 1;
        counters.reply_bytes += bytes;
    });
    Ok(Verdict::counted(Reason::NatReply, action))
}

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
    let action = link::leave_by(ctx, way.egress.ifindex)?;
    count_packet(flow.member, Marks::none(), 0, bytes);
    Ok(Verdict::counted(Reason::Forwarded, action))
}
