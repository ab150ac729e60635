//! Finds the sessions of packets, and updates their age and state.

use aya_ebpf::bindings::xdp_md;
use lb_common::{
    member::control,
    nat::{
        NatFlow, NatKey, NatRecord, NatReply, REPLACE_IDLE_S, REPLY, idle_s, refresh_time, state,
    },
    reason::Reason,
    ring::NO_MEMBER,
    vip::{Vip, affinity, limited},
};

use super::{embryonic, entries::write_reply_key, segment, table};
use crate::{
    clock,
    ethernet::Addresses,
    headers::{Headers, tcp},
    packet::ingress_ifindex,
    route::is_serving,
    scratch::Session,
    select::{SlotView, slot},
    tables,
};

/// Units of [`refresh_time`] (28 seconds) after which the client's packets refresh the reply entry; below
/// the idle time after which the cell may be evicted. The time of the last refresh, and the path
/// that the packets took then ([`ingress_hash`]), are in `link` of the client's entry, which does
/// not need it otherwise.
const REFRESH_AFTER: u8 = 7;
const _: () = assert!(4 * (REFRESH_AFTER as u16 + 1) < REPLACE_IDLE_S - TOUCH_S);

/// Seconds by which an entry may be older than it is marked, see [`touch`].
const TOUCH_S: u16 = 4;

/// Finds a session, established or embryonic, and sets `session.request` to how the packets with
/// this key are rewritten.
#[inline(always)]
pub(super) fn look_up(key: &NatKey, session: &mut Session) -> Option<()> {
    session.request = if key.scope & REPLY == 0 {
        if let Some(cell) = table::find_request_outlined(key) {
            // SAFETY: the cell was just found.
            flow_of(unsafe { &*cell })
        } else {
            session.request_key = *key;
            embryonic::find_request(session)?;
            flow_of(&session.reply.session)
        }
    } else if let Some(cell) = table::find_reply_outlined(key) {
        // SAFETY: the cell was just found.
        reply_flow(unsafe { &*cell })
    } else {
        embryonic::find_reply(key, &mut session.reply)?;
        reply_flow(&session.reply)
    };
    Some(())
}

/// Returns how the client's packets of a session are rewritten.
#[inline(always)]
fn flow_of(session: &NatRecord) -> NatFlow {
    let member = tables::member(session.member());
    let source = tables::nat_source(session.nat_source());
    // SAFETY: an entry of a mapped array; the fields read are constant while a session refers to
    // it.
    session.flow(unsafe { &*member }, source.address)
}

/// Returns how the backend's packets of a session are rewritten.
#[inline(always)]
pub(super) fn reply_flow(reply: &NatReply) -> NatFlow {
    // SAFETY: as in `flow_of`.
    reply.flow(unsafe { &*tables::member(reply.session.member()) })
}

/// Returns the entry of an established session if a client's packet changes nothing in it but its
/// age.
#[inline(always)]
pub(super) fn find_established(
    ctx: *mut xdp_md,
    headers: &Headers,
    key: &NatKey,
) -> Option<NatFlow> {
    // SAFETY: the cell was just found, and is not reused while a packet is in flight.
    let session = unsafe { &mut *table::find_request(key)? };
    let now_s = clock::now_s() as u32;
    if is_refresh_due(ctx, session.refreshed, session.path_or_port, now_s)
        || headers.tcp_flags & (tcp::SYN | tcp::FIN | tcp::RST) != 0
        || !is_current(session.member(), session.generation)
    {
        core::hint::cold_path();
        return None;
    }
    touch(session, now_s);
    Some(flow_of(session))
}

/// Returns the entry of an established session for a reply.
#[inline(always)]
pub(super) fn match_reply(
    ctx: *mut xdp_md,
    headers: &Headers,
    key: &NatKey,
) -> Result<Option<NatFlow>, Reason> {
    let Some(cell) = table::find_reply(key) else {
        core::hint::cold_path();
        return Ok(None);
    };
    if headers.ttl <= 1 {
        core::hint::cold_path();
        return Err(Reason::HopLimit);
    }
    // SAFETY: the cell was just found, and is not reused while a packet is in flight.
    let reply = unsafe { &mut *cell };
    segment::note_reply(ctx, headers, reply);
    touch(&mut reply.session, clock::now_s() as u32);
    Ok(Some(reply_flow(reply)))
}

/// Sets `session.request` to the entry of an embryonic session for a reply.
#[inline(always)]
pub(super) fn match_embryonic_reply(
    ctx: *mut xdp_md,
    headers: &Headers,
    key: &NatKey,
    session: &mut Session,
) -> Result<(), Reason> {
    let cell = embryonic::find_reply(key, &mut session.reply).ok_or(Reason::NatNoSession)?;
    if headers.ttl <= 1 {
        core::hint::cold_path();
        return Err(Reason::HopLimit);
    }
    session.request = reply_flow(&session.reply);
    // SAFETY: a cell of a mapped array. If another session has replaced this one meanwhile, that
    // session's handshake is repeated.
    let reply = unsafe { &mut *cell };
    reply.session.seen_s = clock::now_s() as u16;
    if segment::note_first_reply(ctx, headers, reply) {
        table::free(cell.cast(), clock::now_s() as u32);
    }
    Ok(())
}

/// How a client's packet relates to the sessions.
pub(super) enum RequestMatch {
    /// It belongs to no session.
    NoSession,
    /// It belongs to a session that needs no further update.
    Current,
    /// It belongs to a session that must be confirmed, or whose reply entry must be refreshed.
    RefreshDue,
    /// It starts a flow after a session that is over, with a member whose load is bounded.
    Reopened,
}

/// Finds the session of a client's packet. A packet that starts a flow does not match a session
/// whose member is gone, or which is over while the ring has another member for the flow.
///
/// It matches any other session, even one that is over: the backend decides what a SYN means, by its
/// sequence number and timestamp, and sees the port that it knows from this client.
#[inline(always)]
pub(super) fn match_request(
    ctx: *mut xdp_md,
    headers: &Headers,
    vip: &Vip,
    vip_index: u16,
    session: &mut Session,
) -> RequestMatch {
    let Some((cell, reply)) = find_both(headers, session) else {
        return RequestMatch::NoSession;
    };
    let NatFlow {
        member, generation, ..
    } = session.request;
    let is_gone = !is_current(member, generation as u8) || headers.opens() && !is_serving(member);
    if is_gone {
        session.ended = reply.is_some();
        session.ended_key = session.reply_key;
        return RequestMatch::NoSession;
    }
    let mut is_over = false;
    if let Some(reply) = reply {
        // SAFETY: the cell was just found.
        let reply = unsafe { &mut *reply };
        note_request(ctx, headers, reply, session.embryonic);
        is_over = headers.opens() && !session.embryonic && state::is_over(reply.session.state());
        if is_over && has_moved(headers, vip, vip_index, member) {
            return RequestMatch::NoSession;
        }
    }
    let now_s = clock::now_s() as u32;
    let flow = &mut session.request;
    flow.seen_s = now_s;
    session.refresh_due = session.embryonic
        || reply.is_none()
        || is_refresh_due(ctx, flow.link[0] as u8, flow.link[1] as u16, now_s);
    if session.refresh_due {
        flow.link[0] = u32::from(refresh_time(now_s));
        flow.link[1] = u32::from(ingress_hash(ctx));
    }
    if let Some(cell) = cell {
        // SAFETY: the cell was just found.
        let cell = unsafe { &mut *cell };
        cell.seen_s = flow.seen_s as u16;
        cell.refreshed = flow.link[0] as u8;
        cell.path_or_port = flow.link[1] as u16;
    }
    if is_over && vip.is_limited(limited::BOUND) {
        RequestMatch::Reopened
    } else if session.refresh_due {
        RequestMatch::RefreshDue
    } else {
        RequestMatch::Current
    }
}

/// The cells of a session: of an established one for the client's packets, and for the replies.
type Cells = (Option<*mut NatRecord>, Option<*mut NatReply>);

/// Finds the cells of a client's packet, and sets `session.request` and `session.reply_key`.
#[inline(always)]
fn find_both(headers: &Headers, session: &mut Session) -> Option<Cells> {
    session.ended = false;
    let cell = table::find_request_outlined(&session.request_key);
    session.embryonic = cell.is_none();
    let Some(cell) = cell else {
        let reply = embryonic::find_request(session)?;
        session.request = flow_of(&session.reply.session);
        return Some((None, Some(reply)));
    };
    // SAFETY: the cell was just found.
    session.request = flow_of(unsafe { &*cell });
    write_reply_key(headers, session);
    // If the entry has expired, another client may own the port now.
    let reply = table::find_reply_outlined(&session.reply_key)
        // SAFETY: the cell was just found.
        .filter(|&reply| unsafe { is_of_client(headers, &(*reply).session) });
    Some((Some(cell), reply))
}

#[inline(always)]
pub(super) fn is_of_client(headers: &Headers, session: &NatRecord) -> bool {
    session.client == headers.source && session.client_be == headers.source_be
}

/// Updates the state of a connection by a client's packet.
#[inline(always)]
fn note_request(ctx: *mut xdp_md, headers: &Headers, reply: &mut NatReply, embryonic: bool) {
    if segment::resets(ctx, headers, &reply.tcp) {
        if embryonic {
            table::free((&raw mut *reply).cast(), clock::now_s() as u32);
        } else {
            reply.session.member_and_state = reply.session.with_state(state::RST);
        }
    }
    if embryonic {
        reply.session.seen_s = clock::now_s() as u16;
    } else if headers.tcp_flags & tcp::FIN != 0 {
        segment::note_fin(ctx, headers, &mut reply.tcp);
    }
}

/// Whether the ring has another member for new flows than that of the session.
#[inline(always)]
fn has_moved(headers: &Headers, vip: &Vip, vip_index: u16, member: u16) -> bool {
    let hash = if vip.affinity == affinity::SOURCE {
        headers.source_hash(vip)
    } else {
        headers.flow_hash(vip)
    };
    let current = slot(vip, vip_index, hash).map_or(NO_MEMBER, SlotView::current);
    current != member && is_serving(current)
}

/// Whether a client's packet must refresh the reply entry: the last refresh was some time ago, or
/// the packets arrive on another path now.
#[inline(always)]
fn is_refresh_due(ctx: *mut xdp_md, refreshed_last: u8, path: u16, now_s: u32) -> bool {
    refresh_time(now_s).wrapping_sub(refreshed_last) >= REFRESH_AFTER || path != ingress_hash(ctx)
}

/// Returns a hash of the path that a packet arrived on: both MAC addresses and the interface.
#[inline(always)]
fn ingress_hash(ctx: *mut xdp_md) -> u16 {
    let [low, middle, high] = Addresses::read(ctx).map_or([0; 3], Addresses::words);
    // Multiplied, so that equal parts of the two addresses do not cancel out.
    let sum = u64::from(low) | u64::from(middle) << 32;
    let sum = sum.wrapping_mul(HASH_FACTOR) ^ u64::from(high);
    let sum = (sum ^ u64::from(ingress_ifindex(ctx)) << 32).wrapping_mul(HASH_FACTOR);
    (sum >> 48) as u16
}

/// An odd number without a pattern.
const HASH_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Whether the index still belongs to the session's member.
#[inline(always)]
fn is_current(member: u16, generation: u8) -> bool {
    // SAFETY: a word of a mapped array, stored atomically by the controller.
    let word = unsafe { (&raw const (*tables::member(member)).control).read_volatile() };
    control::generation(word) as u8 == generation && control::state(word) != control::ABSENT
}

/// Updates the age of an entry, but not more often than every few seconds: each write loads and
/// dirties a cache line.
#[inline(always)]
fn touch(session: &mut NatRecord, now_s: u32) {
    if idle_s(session.seen_s, now_s) >= TOUCH_S {
        session.seen_s = now_s as u16;
    }
}
