//! Forwards packets of a VIP with `l2` or `ipip`; hands those of `nat` to their stage.

use aya_ebpf::bindings::xdp_md;
use lb_common::{
    reason::Reason,
    vip::{Vip, forward},
};

use crate::{
    bound, fragments,
    headers::Headers,
    icmp::generate,
    limits, log,
    route::route_to,
    samples, scratch,
    select::{Asked, Counted, choose},
    tables, trace,
    tracking::{ASK_LIMITS, ASK_PROOF},
    transmit::{Outcome, count_forwarded, send},
    verdict::{FastPath, Stage, Verdict},
};

/// Forwards a packet without options, extension headers and fragments. `headers` parses them.
#[inline(always)]
pub(crate) fn forward_fast_path(
    ctx: *mut xdp_md,
    headers: impl Fn() -> Headers,
    vip_index: u16,
) -> FastPath {
    let vip = tables::vip(vip_index);
    // One comparison for two questions: is it `nat`, and has it limits?
    if vip.forward >= forward::NAT {
        core::hint::cold_path();
        // Parsed for these branches alone: the other one needs fewer fields.
        if limits::may_apply(vip, &headers()) {
            scratch::save_headers(&headers());
            return Verdict::next(Stage::Limit, 0, u32::from(vip_index)).into();
        }
        if vip.mode() == forward::NAT {
            return to_nat(&headers(), vip_index).into();
        }
    }
    let headers = &headers();
    let save_headers = || {
        scratch::save_plain_headers(ctx, headers.l3, headers.family.into());
    };
    match try_forward(ctx, headers, vip, vip_index, Asked::ALL, save_headers) {
        Ok(done) => done,
        Err(reason) => {
            save_headers();
            refuse(reason, vip_index).into()
        }
    }
}

/// Drops a packet whose headers are in the scratch, or asks limits of new flows first.
#[inline(always)]
fn refuse(reason: Reason, vip_index: u16) -> Verdict {
    if reason as u32 == ASK_LIMITS as u32 {
        return Verdict::next(Stage::Limit, limits::UDP_FLOW, vip_index.into());
    }
    if reason as u32 == ASK_PROOF as u32 {
        return Verdict::next(Stage::Bound, bound::PROOF, vip_index.into());
    }
    log::refuse(reason)
}

/// Forwards a packet from the slow path, whose headers are in the scratch. `admitted`: the
/// limits that have admitted it ([`lb_common::vip::limited`]), with [`bound::DECIDED`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn forward_slow_path(ctx: *mut xdp_md, admitted: u32, vip_index: u32) -> u32 {
    let Some(scratch) = scratch::scratch() else {
        return Verdict::of(Reason::Internal).0;
    };
    let (headers, vip_index) = (&scratch.headers, vip_index as u16);
    let vip = tables::vip(vip_index);
    if vip.mode() == forward::NAT {
        return to_nat(headers, vip_index).0;
    }
    let asked = Asked {
        limits: limits::NEW_FLOWS & !(admitted as u8),
        decided: bound::decided(scratch, admitted),
    };
    let done = try_forward(ctx, headers, vip, vip_index, asked, || {}).map(FastPath::verdict);
    done.unwrap_or_else(|reason| refuse(reason, vip_index)).0
}

#[inline(always)]
fn time_exceeded(headers: &Headers, vip_index: u16) -> Verdict {
    trace::vip(vip_index);
    generate::reply_with(headers, generate::Message::TimeExceeded)
}

/// Hands a packet to the stages of `nat`.
#[inline(always)]
fn to_nat(headers: &Headers, vip_index: u16) -> Verdict {
    if headers.ttl <= 1 {
        return time_exceeded(headers, vip_index);
    }
    scratch::save_headers(headers);
    Verdict::next(Stage::NatRequest, 0, u32::from(vip_index))
}

/// Forwards a packet of a VIP without `nat`. `save_headers` copies the headers to the scratch unless
/// they are there already.
#[inline(always)]
fn try_forward(
    ctx: *mut xdp_md,
    headers: &Headers,
    vip: &Vip,
    vip_index: u16,
    asked: Asked,
    save_headers: impl Fn(),
) -> Result<FastPath, Reason> {
    if headers.ttl <= 1 {
        core::hint::cold_path();
        return Ok(time_exceeded(headers, vip_index).into());
    }
    let choice = choose(vip, vip_index, headers, true, asked)?;
    let route = route_to(choice.member(), vip_index)?;
    let mut packet = choice.packet;
    let sampled = samples::is_sampled(vip, choice.flow_hash);
    if sampled || headers.first_fragment {
        core::hint::cold_path();
        packet = packet
            .mark(Counted::SAMPLED, sampled)
            .mark(Counted::FIRST_FRAGMENT, headers.first_fragment);
        // Save the headers now: encapsulation moves them.
        save_headers();
    }
    let (action, bytes) = match send(ctx, headers, vip, &route, choice.flow_hash)? {
        Outcome::Sent { action, bytes } => (action, bytes),
        Outcome::TooBig { mtu } => {
            return Ok(generate::reply_with(headers, generate::Message::TooBig(mtu)).into());
        }
    };
    if !count_forwarded(packet, bytes) {
        core::hint::cold_path();
        record_packet(vip_index, packet, choice.flow_hash, bytes);
    }
    Ok(FastPath::Sent(action))
}

/// Records what later packets and the controller need. The headers are in the scratch if there is
/// something to record.
#[inline(always)]
fn record_packet(vip_index: u16, packet: Counted, flow_hash: u64, bytes: u64) {
    let (vip, member) = (u32::from(vip_index), u32::from(packet.member()));
    if packet.has(Counted::SAMPLED) {
        samples::sample(vip, member, bytes, flow_hash as u32);
    }
    if packet.has(Counted::FIRST_FRAGMENT) {
        fragments::remember_first(vip, member, flow_hash);
    }
}
