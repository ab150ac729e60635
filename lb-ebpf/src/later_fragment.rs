//! Forwards later fragments to where the first fragment of their datagram was sent. One that
//! arrives before the first is dropped: its destination is unknown, and the sender retransmits the
//! datagram.

use aya_ebpf::bindings::xdp_md;
use lb_common::{
    fragment::{LIFETIME_S, PASSED},
    reason::Reason,
    trace::decision,
    vip::{forward, target},
};

use crate::{
    clock, ethernet, fragments,
    headers::Headers,
    icmp::generate,
    maps::FRAGMENTS,
    nat,
    route::route_to,
    scratch::{Session, scratch},
    select::Counted,
    services::address,
    tables, trace,
    transmit::{Outcome, count_forwarded, send},
    verdict::Verdict,
};

/// Forwards a later fragment. The headers are in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn forward_later_fragment(ctx: *mut xdp_md) -> u32 {
    let Some(scratch) = scratch() else {
        return Verdict::of(Reason::Internal).0;
    };
    match try_forward(ctx, &scratch.headers, &mut scratch.session) {
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
    if vip.forward == forward::NAT {
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
