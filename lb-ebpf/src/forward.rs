//! Forwards packets of a VIP with `l2` or `ipip`; hands those of `nat` to their stage.

use aya_ebpf::bindings::xdp_md;
use lb_common::{reason::Reason, vip::forward};

use crate::{
    fragments,
    headers::Headers,
    icmp::generate,
    log::{self, into_verdict},
    maps::{self, Tables},
    route::route_to,
    samples, scratch,
    select::{Choice, choose},
    trace,
    transmit::{Outcome, count_forwarded, send},
    verdict::{Stage, Verdict},
};

/// Forwards a packet without options, extension headers and fragments.
#[inline(always)]
pub(crate) fn forward_fast_path(
    ctx: *mut xdp_md,
    tables: Tables,
    headers: &Headers,
    vip_index: u16,
) -> Verdict {
    let save_headers = || {
        scratch::save_plain_headers(ctx, headers.l3, headers.family.into());
    };
    match try_forward(ctx, tables, headers, vip_index, save_headers) {
        Ok(verdict) => verdict,
        Err(reason) => {
            save_headers();
            log::refuse(reason)
        }
    }
}

/// Forwards a packet from the slow path, whose headers are in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn forward_slow_path(ctx: *mut xdp_md, vip_index: u32) -> u32 {
    let Some(scratch) = scratch::scratch() else {
        return Verdict::of(Reason::Internal).0;
    };
    let headers = &scratch.headers;
    let done = try_forward(ctx, maps::tables(), headers, vip_index as u16, || {});
    into_verdict(done).0
}

/// `save_headers` copies the headers to the scratch unless they are there already.
#[inline(always)]
fn try_forward(
    ctx: *mut xdp_md,
    tables: Tables,
    headers: &Headers,
    vip_index: u16,
    save_headers: impl Fn(),
) -> Result<Verdict, Reason> {
    let vip = tables.vip(vip_index);
    if headers.ttl <= 1 {
        trace::vip(vip_index);
        return Ok(generate::reply_with(
            headers,
            generate::Message::TimeExceeded,
        ));
    }
    if vip.forward == forward::NAT {
        // All fields were read to get here, so this copy is cheap.
        scratch::save_headers(headers);
        return Ok(Verdict::next(Stage::NatRequest, 0, u32::from(vip_index)));
    }
    let choice = choose(tables, vip, vip_index, headers, true)?;
    let route = route_to(tables, choice.member, vip_index)?;
    let sampled = samples::is_sampled(vip, choice.flow_hash);
    let saved = sampled || headers.first_fragment;
    if saved {
        // Save the headers now: encapsulation moves them.
        save_headers();
    }
    let tcp_flags = headers.tcp_flags;
    let first_fragment = headers.first_fragment;
    let (action, bytes) = match send(ctx, headers, vip, &route, choice.flow_hash)? {
        Outcome::Sent { action, bytes } => (action, bytes),
        Outcome::TooBig { mtu } => {
            return Ok(generate::reply_with(
                headers,
                generate::Message::TooBig(mtu),
            ));
        }
    };
    count_forwarded(choice.member, choice.marks, tcp_flags, bytes);
    if saved {
        record_packet(vip_index, &choice, sampled, first_fragment, bytes);
    }
    Ok(Verdict::counted(Reason::Forwarded, action))
}

/// Records what later packets and the controller need. The headers are in the scratch.
#[inline(always)]
fn record_packet(vip_index: u16, choice: &Choice, sampled: bool, first_fragment: bool, bytes: u64) {
    let (vip, member) = (u32::from(vip_index), u32::from(choice.member));
    if sampled {
        samples::sample(vip, member, bytes, choice.flow_hash as u32);
    }
    if first_fragment {
        fragments::remember_first(vip, member, choice.flow_hash);
    }
}
