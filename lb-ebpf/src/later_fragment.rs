//! Later fragments go where the first one of their datagram went.

use aya_ebpf::bindings::xdp_md;
use lb_common::{
    fragment::{LIFETIME_S, PASSED},
    nat::NatFlow,
    reason::Reason,
    trace::decision,
    vip::{forward, target},
};

use crate::{
    clock, fragments,
    headers::Headers,
    icmp::generate,
    maps::{self, FRAGMENTS, Tables},
    nat,
    route::way,
    scratch::scratch,
    select::Marks,
    services::address,
    trace,
    transmit::{Sending, count_packet, send},
    verdict::Verdict,
};

/// Sends a later fragment after the first. The headers are in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn follow_first(ctx: *mut xdp_md) -> u32 {
    let Some(scratch) = scratch() else {
        return Verdict::of(Reason::Internal).0;
    };
    let tables = maps::tables();
    match try_follow(ctx, tables, &scratch.headers, &mut scratch.session.request) {
        Ok(verdict) => verdict.0,
        Err(Reason::FragmentOrphan) => {
            let kind = address(tables, &scratch.headers.dest, scratch.headers.family);
            let to_nat_source = target::kind(kind) == target::NAT_SOURCE;
            Verdict::refused(Reason::FragmentOrphan, to_nat_source).0
        }
        Err(reason) => Verdict::of(reason).0,
    }
}

#[inline(always)]
fn try_follow(
    ctx: *mut xdp_md,
    tables: Tables,
    headers: &Headers,
    flow: &mut NatFlow,
) -> Result<Verdict, Reason> {
    let target = FRAGMENTS
        .get_ptr(&fragments::key(headers))
        .ok_or(Reason::FragmentOrphan)?;
    // SAFETY: an entry that was just found, copied before anything else happens to the map.
    let target = unsafe { *target };
    if (clock::now_s() as u32).wrapping_sub(target.seen_s) > LIFETIME_S {
        return Err(Reason::FragmentOrphan);
    }
    if target.vip == PASSED {
        return Err(Reason::NoService);
    }
    trace::vip(target.vip);
    trace::member(target.member, decision::FRAGMENT);
    if headers.hops <= 1 {
        return Err(Reason::HopLimit);
    }
    let vip = tables.vip(target.vip);
    if vip.forward == forward::NAT {
        return nat::fragment::follow_session(ctx, headers, &target.nat, flow);
    }
    let way = way(tables, target.member, target.vip)?;
    match send(ctx, headers, vip, &way, target.flow_hash)? {
        Sending::TooBig { mtu } => Ok(generate::answer(headers, generate::Answer::TooBig(mtu))),
        Sending::Sent { action, bytes } => {
            count_packet(target.member, Marks::none(), 0, bytes);
            Ok(Verdict::counted(Reason::Forwarded, action))
        }
    }
}
