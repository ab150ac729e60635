//! The table of fragmented datagrams: where the first fragment was sent.

use lb_common::{
    family,
    fragment::{FragmentKey, FragmentTarget, PASSED},
    nat::NatKey,
    reason::Reason,
    trace::NONE,
};

use crate::{
    clock,
    headers::Headers,
    maps::FRAGMENTS,
    scratch::{self, scratch},
    verdict::{Stage, Verdict},
};

/// Placeholder for datagrams without a session.
pub(crate) const NO_SESSION: NatKey = NatKey {
    address: [0; 2],
    source_be: 0,
    dest_be: 0,
    scope: 0,
    protocol: 0,
};

/// Records where a first fragment was sent. The headers are in the scratch.
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

/// Passes a packet to one of our addresses that matches no service. If it is a first fragment, the
/// later fragments of its datagram will be passed, too.
#[inline(always)]
pub(crate) fn pass(headers: &Headers, reason: Reason) -> Verdict {
    if headers.first_fragment {
        scratch::save_headers(headers);
        return Verdict::next(Stage::PassFirst, 0, reason as u32);
    }
    Verdict::of(reason)
}

/// Passes such a first fragment. The headers are in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn pass_first(reason: u32) -> u32 {
    remember_first(u32::from(PASSED), u32::from(NONE), 0);
    Verdict::passed(reason).0
}

/// Records the session of a first fragment, and the identification that it was sent with.
#[inline(always)]
pub(crate) fn remember_session(
    headers: &Headers,
    session: &NatKey,
    vip: u16,
    member: u16,
    sent_id: u32,
) {
    let seen_s = clock::now_s() as u32;
    remember_target(
        headers,
        &FragmentTarget {
            flow_hash: u64::from(sent_id),
            nat: *session,
            vip,
            member,
            seen_s,
        },
    );
}

#[inline(always)]
fn remember_target(headers: &Headers, target: &FragmentTarget) {
    // A full table evicts the least recently used entry. If the insert still fails, the later
    // fragments are counted as orphans.
    let _lost = FRAGMENTS.insert(&key(headers), target, 0);
}

/// Returns the key that the fragments of the packet's datagram share.
#[inline(always)]
pub(crate) fn key(headers: &Headers) -> FragmentKey {
    FragmentKey {
        source: headers.source,
        dest: headers.dest,
        id: headers.fragment_id,
        protocol: if headers.family == family::V4 {
            headers.protocol
        } else {
            0
        },
        family: headers.family,
        _pad: 0,
    }
}
