//! `nat`: destination and source are rewritten, replies come back through the node.
//!
//! Sessions and their two tables are described in [`lb_common::nat`].

use aya_ebpf::bindings::xdp_md;
use lb_common::{
    hash,
    nat::{NatFlow, NatKey, REPLY, state},
    reason::Reason,
    trace::decision,
    vip::Vip,
};

use crate::{
    clock,
    counters::count_member,
    forward::{note_packet, way},
    fragments,
    headers::{Headers, tcp},
    icmp,
    link::{self, Addresses},
    maps::SAMPLE_MASK,
    packet::Packet,
    samples, trace,
    verdict::Verdict,
};

pub(crate) mod error;
mod rewrite;
mod session;

use session::Found;

/// A client's packet for a VIP.
#[inline(never)]
pub(crate) fn request(
    ctx: *mut xdp_md,
    headers: &Headers,
    vip: &Vip,
    vip_index: u16,
) -> Verdict {
    match try_request(ctx, headers, vip, vip_index) {
        Ok(verdict) => verdict,
        Err(reason) => Verdict::of(reason),
    }
}

#[inline(always)]
fn try_request(
    ctx: *mut xdp_md,
    headers: &Headers,
    vip: &Vip,
    vip_index: u16,
) -> Result<Verdict, Reason> {
    let key = request_key(headers, vip_index);
    let (flow, new_flow) = match session::of_request(ctx, headers, &key) {
        Some(found) => (found, false),
        None => (session::begin(ctx, headers, vip, &key)?, true),
    };
    let flow = &flow;
    let way = way(flow.member, vip_index)?;
    trace::member(flow.member, decision::SESSION);
    if headers.length > way.egress.mtu {
        let answer = icmp::Answer::TooBig(way.egress.mtu);
        return Ok(icmp::answer(ctx, headers.l3, headers.family, answer));
    }
    let packet = Packet::of(ctx);
    let bytes = packet.len();
    rewrite::packet(packet, headers, flow)?;
    Addresses::new(way.next_hop, way.egress).write(ctx)?;
    let action = link::leave_by(ctx, way.egress.ifindex)?;
    note_packet(headers, flow.member, new_flow || headers.opens(), false, bytes);
    if hash::is_sampled(headers.flow_hash(vip), SAMPLE_MASK.load()) {
        samples::sample(headers, vip_index, flow.member, bytes);
    }
    if headers.first_fragment {
        fragments::remember_session(headers, &key, vip_index, flow.member);
    }
    Ok(Verdict::sent(Reason::Forwarded, action))
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
#[inline(never)]
pub(crate) fn reply(ctx: *mut xdp_md, headers: &Headers, source: u16) -> Verdict {
    match try_reply(ctx, headers, source) {
        Ok(verdict) => verdict,
        Err(reason) => Verdict::of(reason),
    }
}

#[inline(always)]
fn try_reply(ctx: *mut xdp_md, headers: &Headers, source: u16) -> Result<Verdict, Reason> {
    let key = reply_key(headers, source);
    let Found { flow, .. } = session::find(&key).ok_or(Reason::NatNoSession)?;
    if headers.hops <= 1 {
        return Err(Reason::HopLimit);
    }
    // SAFETY: an entry that was just found; nothing is written to its table while it is used.
    let flow = unsafe { &mut *flow };
    trace::vip(flow.vip);
    trace::member(flow.member, decision::SESSION);
    flow.state |= state::SEEN | closing(headers);
    session::touch_reply(flow, clock::now_s() as u32);
    if headers.first_fragment {
        fragments::remember_session(headers, &key, flow.vip, flow.member);
    }
    let packet = Packet::of(ctx);
    let bytes = packet.len();
    rewrite::packet(packet, headers, flow)?;
    send_reply(ctx, flow, bytes)
}

/// Sends a rewritten packet back the way that the client's packets come.
#[inline(always)]
fn send_reply(
    ctx: *mut xdp_md,
    flow: &NatFlow,
    bytes: u32,
) -> Result<Verdict, Reason> {
    Addresses::from_words(flow.link).write(ctx)?;
    let action = link::leave_by(ctx, flow.ifindex)?;
    count_member(flow.member, |counters| {
        counters.reply_packets += 1;
        counters.reply_bytes += u64::from(bytes);
    });
    Ok(Verdict::sent(Reason::NatReply, action))
}

/// The state bits that a packet's flags add.
#[inline(always)]
fn closing(headers: &Headers) -> u32 {
    let fin = if headers.tcp_flags & tcp::FIN != 0 { state::FIN } else { 0 };
    let rst = if headers.tcp_flags & tcp::RST != 0 { state::RST } else { 0 };
    fin | rst
}

/// A later fragment of a session's datagram.
#[inline(always)]
pub(crate) fn follow(
    ctx: *mut xdp_md,
    headers: &Headers,
    key: &NatKey,
) -> Result<Verdict, Reason> {
    let Found { flow, .. } = session::find(key).ok_or(Reason::FragmentOrphan)?;
    // SAFETY: an entry that was just found; nothing is written to its table while it is used.
    let flow = unsafe { &*flow };
    let packet = Packet::of(ctx);
    let bytes = packet.len();
    rewrite::addresses(packet, headers, flow)?;
    if key.scope & REPLY != 0 {
        return send_reply(ctx, flow, bytes);
    }
    let way = way(flow.member, flow.vip)?;
    Addresses::new(way.next_hop, way.egress).write(ctx)?;
    note_packet(headers, flow.member, false, false, bytes);
    Ok(Verdict::sent(Reason::Forwarded, link::leave_by(ctx, way.egress.ifindex)?))
}
