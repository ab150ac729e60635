//! Packets to NAT sources: replies from backends.

use aya_ebpf::bindings::xdp_md;
use lb_common::{nat::NatFlow, reason::Reason, trace::decision};

use super::{identify::nat_identify, reply_key, rewrite, session};
use crate::{
    counters::count_sent,
    ethernet::{self, Addresses},
    headers::Headers,
    log::into_verdict,
    packet::Packet,
    scratch::{Scratch, Session, scratch},
    trace,
    verdict::Verdict,
};

/// A packet to a NAT source: a reply from a backend, or the host's own traffic. The headers are in
/// the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn nat_reply(ctx: *mut xdp_md, source: u32) -> u32 {
    let Some(scratch) = scratch() else {
        return Verdict::of(Reason::Internal).0;
    };
    let Scratch {
        headers, session, ..
    } = scratch;
    into_verdict(try_reply(ctx, headers, session, source as u16)).0
}

#[inline(always)]
fn try_reply(
    ctx: *mut xdp_md,
    headers: &Headers,
    session: &mut Session,
    source: u16,
) -> Result<Verdict, Reason> {
    let key = reply_key(headers, source);
    if let Some(flow) = session::match_reply(ctx, headers, &key)? {
        return reply(ctx, headers, source, &flow);
    }
    session::match_embryonic_reply(ctx, headers, &key, session)?;
    reply(ctx, headers, source, &session.request)
}

/// Rewrites a reply and transmits it to the client.
#[inline(always)]
fn reply(
    ctx: *mut xdp_md,
    headers: &Headers,
    source: u16,
    flow: &NatFlow,
) -> Result<Verdict, Reason> {
    trace::vip(flow.vip);
    trace::member(flow.member, decision::SESSION);
    let packet = Packet::of(ctx);
    let bytes = packet.bytes();
    if rewrite::packet(packet, headers, flow)? {
        core::hint::cold_path();
        let (vip, member) = (u32::from(flow.vip), u32::from(flow.member));
        nat_identify(ctx, source.into(), vip, member);
    }
    send_reply(ctx, flow, bytes)
}

/// Writes the link header for the client's side and returns the XDP action.
#[inline(always)]
pub(super) fn send_back(ctx: *mut xdp_md, flow: &NatFlow) -> Result<u32, Reason> {
    Addresses::from_words(flow.link).write(ctx)?;
    ethernet::transmit(ctx, flow.ifindex)
}

/// Transmits a rewritten reply and counts it.
#[inline(always)]
pub(super) fn send_reply(ctx: *mut xdp_md, flow: &NatFlow, bytes: u64) -> Result<Verdict, Reason> {
    let action = send_back(ctx, flow)?;
    count_sent(Reason::NatReply, flow.member, |counters| {
        counters.reply_packets += 1;
        counters.reply_bytes += bytes;
    });
    Ok(Verdict::counted(Reason::NatReply, action))
}
