//! Fragments: the later ones of a datagram go where the first one went.
//!
//! A later fragment that comes before the first is dropped: where it belongs is not known yet, and the
//! sender sends the datagram again.

use aya_ebpf::bindings::xdp_md;
use lb_common::{
    fragment::{FragmentTarget, LIFETIME_S, PASSED},
    nat::{NatFlow, NatKey},
    reason::Reason,
    trace::{NONE, decision},
    vip::{forward, target},
};

use crate::{
    clock,
    forward::{Sending, count_packet, send, way},
    headers::Headers,
    icmp,
    ipv4::fragment_key,
    maps::{self, FRAGMENTS, Tables},
    nat,
    scratch::{self, scratch},
    select::Marks,
    services::address,
    stages::Stage,
    trace,
    verdict::Verdict,
};

/// Key of no session.
pub(crate) const NO_SESSION: NatKey = NatKey {
    address: [0; 2],
    source_be: 0,
    dest_be: 0,
    scope: 0,
    protocol: 0,
};

/// Remembers where a first fragment went. The headers are in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn remember_first(vip: u32, member: u32, flow_hash: u64) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let seen_s = clock::now_s() as u32;
    let (vip, member) = (vip as u16, member as u16);
    remember_target(
        &scratch.headers,
        &FragmentTarget {
            flow_hash,
            nat: NO_SESSION,
            vip,
            member,
            seen_s,
        },
    );
    0
}

/// Passes a packet to an address of ours that is for no service; if it is a first fragment, the others
/// of its datagram will be passed as well.
#[inline(always)]
pub(crate) fn pass(headers: &Headers, reason: Reason) -> Verdict {
    if headers.first_fragment {
        scratch::leave(headers);
        return Verdict::next(Stage::PassFirst, 0, reason as u32);
    }
    Verdict::of(reason)
}

/// Passes such a first fragment, whose headers are in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn pass_first(reason: u32) -> u32 {
    remember_first(u32::from(PASSED), u32::from(NONE), 0);
    Verdict::passed(reason).0
}

/// Remembers that a first fragment belongs to a session.
#[inline(always)]
pub(crate) fn remember_session(headers: &Headers, session: &NatKey, vip: u16, member: u16) {
    let seen_s = clock::now_s() as u32;
    remember_target(
        headers,
        &FragmentTarget {
            flow_hash: 0,
            nat: *session,
            vip,
            member,
            seen_s,
        },
    );
}

#[inline(always)]
fn remember_target(headers: &Headers, target: &FragmentTarget) {
    // The least recently used entry makes room. If it fails all the same, the later fragments are
    // counted as orphans.
    let _lost = FRAGMENTS.insert(&fragment_key(headers), target, 0);
}

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
        .get_ptr(&fragment_key(headers))
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
        return nat::follow_session(ctx, headers, &target.nat, flow);
    }
    let way = way(tables, target.member, target.vip)?;
    match send(ctx, headers, vip, &way, target.flow_hash)? {
        Sending::TooBig { mtu } => Ok(icmp::answer(headers, icmp::Answer::TooBig(mtu))),
        Sending::Sent { action, bytes } => {
            count_packet(target.member, Marks::none(), 0, bytes);
            Ok(Verdict::counted(Reason::Forwarded, action))
        }
    }
}
