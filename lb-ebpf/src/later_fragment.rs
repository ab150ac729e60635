//! Forwards later fragments to where the first fragment of their datagram was sent. One that
//! arrives before the first is dropped: its destination is unknown, and the sender retransmits the
//! datagram.

use aya_ebpf::bindings::xdp_md;
use lb_common::{
    fragment::{LIFETIME_S, PASSED},
    reason::Reason,
    trace::decision,
    vip::{forward, limited, target},
};

use crate::{
    clock, ethernet, fragments,
    headers::Headers,
    icmp::generate,
    limits,
    maps::FRAGMENTS,
    nat,
    route::route_to,
    scratch::{Scratch, Session, scratch},
    select::Counted,
    services::address,
    tables, trace,
    transmit::{Outcome, count_forwarded, send},
    verdict::{Stage, Verdict},
};

/// Forwards a later fragment. The headers are in the scratch. `is_admitted` 1: limits have admitted it.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn forward_later_fragment(ctx: *mut xdp_md, is_admitted: u32) -> u32 {
    let Some(scratch) = scratch() else {
        return Verdict::of(Reason::Internal).0;
    };
    let Scratch {
        headers, session, ..
    } = scratch;
    match try_forward(ctx, headers, session, is_admitted != 0) {
        Ok(verdict) => verdict.0,
        Err(Reason::FragmentOrphan) => {
            let kind = address(&scratch.headers.dest, scratch.headers.family);
            let to_nat_source = target::kind(kind) == target::NAT_SOURCE;
            Verdict::refused(Reason::FragmentOrphan, to_nat_source).0
        }
        Err(reason) => Verdict::of(reason).0,
    }
}

#[inline(always)]
fn try_forward(
    ctx: *mut xdp_md,
    headers: &Headers,
    session: &mut Session,
    is_admitted: bool,
) -> Result<Verdict, Reason> {
    // As in `dispatch_slow_path`.
    if ethernet::is_multicast(ctx) {
        return Err(Reason::LinkGroup);
    }
    let target = FRAGMENTS
        .get_ptr(&fragments::key(headers))
        .ok_or(Reason::FragmentOrphan)?;
    // SAFETY: the entry was just found, and is copied before the map changes.
    let target = unsafe { *target };
    if (clock::now_s() as u32).wrapping_sub(target.seen_s) > LIFETIME_S {
        return Err(Reason::FragmentOrphan);
    }
    if target.vip == PASSED {
        return Err(Reason::NoService);
    }
    trace::vip(target.vip);
    trace::member(target.member, decision::FRAGMENT);
    if headers.ttl <= 1 {
        return Err(Reason::HopLimit);
    }
    let vip = tables::vip(target.vip);
    if !is_admitted && vip.is_limited(limited::PACKETS | limited::DENY) {
        return Ok(Verdict::next(
            Stage::Limit,
            limits::FRAGMENT,
            target.vip.into(),
        ));
    }
    if vip.mode() == forward::NAT {
        return nat::fragment::forward_fragment(ctx, headers, &target, session);
    }
    let route = route_to(target.member, target.vip)?;
    match send(ctx, headers, vip, &route, target.flow_hash)? {
        Outcome::TooBig { mtu } => Ok(generate::reply_with(
            headers,
            generate::Message::TooBig(mtu),
        )),
        Outcome::Sent { action, bytes } => {
            count_forwarded(Counted::new(target.member, 0), bytes);
            Ok(Verdict::counted(Reason::Forwarded, action))
        }
    }
}
