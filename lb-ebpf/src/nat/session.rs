//! Finds the sessions of packets, and updates their age and state.

use aya_ebpf::bindings::xdp_md;
use lb_common::{
    member::control,
    nat::{NatFlow, NatKey, NatRecord, REPLACE_IDLE_S, REPLY, idle_s, refresh_time, state},
    reason::Reason,
};

use super::{entries::write_reply_key, table};
use crate::{
    clock,
    ethernet::Addresses,
    headers::{Headers, tcp},
    maps::{self, NAT_NEW, Tables},
    packet::ingress_ifindex,
    route::is_serving,
    scratch::Session,
};

/// Units of [`refresh_time`] (28 seconds) after which the client's packets refresh the reply entry; below
/// the idle time after which the cell may be evicted. The time of the last refresh, and the path
/// that the packets took then ([`ingress_hash`]), are in `link` of the client's entry, which does
/// not need it otherwise.
const REFRESH_AFTER: u8 = 7;
const _: () = assert!(4 * (REFRESH_AFTER as u16 + 1) < REPLACE_IDLE_S - TOUCH_S);

/// Seconds by which an entry may be older than it is marked, see [`touch`].
const TOUCH_S: u16 = 4;

/// Copies the entry of a session, established or embryonic, to `flow`, which is in the scratch to
/// save stack.
#[inline(always)]
pub(super) fn look_up(key: &NatKey, flow: &mut NatFlow) -> Option<()> {
    if key.scope & REPLY == 0 {
        if let Some(cell) = table::find_request_outlined(key) {
            // SAFETY: the cell was just found.
            *flow = flow_of(maps::tables(), unsafe { &*cell });
            return Some(());
        }
    } else if let Some(cell) = table::find_reply_outlined(key) {
        // SAFETY: the cell was just found.
        *flow = unsafe { (*cell).flow() };
        return Some(());
    }
    let entry = NAT_NEW.get_ptr_mut(key)?;
    // SAFETY: the entry was just found.
    *flow = unsafe { *entry };
    Some(())
}

/// Returns how the client's packets of an established session are rewritten.
#[inline(always)]
fn flow_of(tables: Tables, session: &NatRecord) -> NatFlow {
    let member = tables.member(session.member());
    let source = tables.nat_source(session.nat_source());
    // SAFETY: an entry of a mapped array; the fields read are constant while a session refers to
    // it.
    session.flow(unsafe { &*member }, source.address)
}

/// Returns the entry of an established session if a client's packet changes nothing in it but its
/// age.
#[inline(always)]
pub(super) fn find_established(
    ctx: *mut xdp_md,
    tables: Tables,
    headers: &Headers,
    key: &NatKey,
) -> Option<NatFlow> {
    // SAFETY: the cell was just found, and is not reused while a packet is in flight.
    let session = unsafe { &mut *table::find_request(key)? };
    let now_s = clock::now_s() as u32;
    if is_refresh_due(ctx, session.refreshed, session.path_or_port, now_s)
        || headers.opens()
        || closing(headers) & !session.state() != 0
        || !is_current(tables, session.member(), session.generation)
    {
        return None;
    }
    touch(session, now_s);
    Some(flow_of(tables, session))
}

/// Returns the entry of an established session for a reply.
#[inline(always)]
pub(super) fn match_reply(headers: &Headers, key: &NatKey) -> Result<Option<NatFlow>, Reason> {
    let Some(cell) = table::find_reply(key) else {
        return Ok(None);
    };
    if headers.ttl <= 1 {
        return Err(Reason::HopLimit);
    }
    // SAFETY: the cell was just found, and is not reused while a packet is in flight.
    let reply = unsafe { &mut *cell };
    let seen = state::SEEN | closing(headers);
    if seen & !reply.session.state() != 0 {
        reply.session.member_and_state = reply.session.with_state(seen);
    }
    touch(&mut reply.session, clock::now_s() as u32);
    Ok(Some(reply.flow()))
}

/// Returns the entry of an embryonic session for a reply.
#[inline(always)]
pub(super) fn match_embryonic_reply(
    headers: &Headers,
    key: &NatKey,
) -> Result<&'static NatFlow, Reason> {
    let flow = NAT_NEW.get_ptr_mut(key).ok_or(Reason::NatNoSession)?;
    if headers.ttl <= 1 {
        return Err(Reason::HopLimit);
    }
    // SAFETY: the entry was just found; its table is not written while it is used.
    let flow = unsafe { &mut *flow };
    flow.state |= state::SEEN | closing(headers);
    flow.seen_s = clock::now_s() as u32;
    Ok(flow)
}

/// How a client's packet relates to the sessions.
pub(super) enum RequestMatch {
    /// It belongs to no session.
    NoSession,
    /// It belongs to a session that needs no further update.
    Current,
    /// It belongs to a session that must be confirmed, or whose reply entry must be refreshed.
    RefreshDue,
}

/// Finds the session of a client's packet. A packet that starts a flow does not match a session
/// that is closed or whose member is gone.
#[inline(always)]
pub(super) fn match_request(
    ctx: *mut xdp_md,
    tables: Tables,
    headers: &Headers,
    session: &mut Session,
) -> RequestMatch {
    let cell = table::find_request_outlined(&session.request_key);
    session.embryonic = cell.is_none();
    let found = match cell {
        // SAFETY: the cell was just found.
        Some(cell) => Some(flow_of(tables, unsafe { &*cell })),
        None => NAT_NEW
            .get_ptr_mut(&session.request_key)
            // SAFETY: the entry was just found.
            .map(|flow| unsafe { *flow }),
    };
    session.ended = false;
    // A copy from here on: later writes to the tables may replace the entry.
    let Some(flow) = found else {
        return RequestMatch::NoSession;
    };
    session.request = flow;
    let NatFlow {
        member, generation, ..
    } = session.request;
    let current = is_current(tables, member, generation as u8);
    if (headers.opens() || !current) && has_ended(tables, headers, session, current) {
        return RequestMatch::NoSession;
    }
    let flow = &mut session.request;
    let now_s = clock::now_s() as u32;
    let before = flow.state;
    flow.state |= closing(headers);
    flow.seen_s = now_s;
    session.refresh_due =
        is_refresh_due(ctx, flow.link[0] as u8, flow.link[1] as u16, now_s) || before != flow.state;
    if session.refresh_due {
        flow.link[0] = u32::from(refresh_time(now_s));
        flow.link[1] = u32::from(ingress_hash(ctx));
    }
    write_back(session, cell);
    if session.refresh_due || session.embryonic && !headers.opens() {
        RequestMatch::RefreshDue
    } else {
        RequestMatch::Current
    }
}

/// Stores what a client's packet changes in the entry of its session: `cell`, or the embryonic
/// entry.
#[inline(always)]
fn write_back(session: &Session, cell: Option<*mut NatRecord>) {
    let flow = &session.request;
    if let Some(cell) = cell {
        // SAFETY: the cell was just found.
        let cell = unsafe { &mut *cell };
        cell.member_and_state = cell.with_state(flow.state);
        cell.seen_s = flow.seen_s as u16;
        cell.refreshed = flow.link[0] as u8;
        cell.path_or_port = flow.link[1] as u16;
    } else if let Some(entry) = NAT_NEW.get_ptr_mut(&session.request_key) {
        // SAFETY: the entry was just found; nothing was written to its table since.
        let entry = unsafe { &mut *entry };
        entry.state |= flow.state;
        entry.seen_s = flow.seen_s;
        entry.link = flow.link;
    }
}

/// Returns the state bits that the packet's flags add.
#[inline(always)]
fn closing(headers: &Headers) -> u32 {
    let fin = if headers.tcp_flags & tcp::FIN != 0 {
        state::FIN
    } else {
        0
    };
    let rst = if headers.tcp_flags & tcp::RST != 0 {
        state::RST
    } else {
        0
    };
    fin | rst
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
fn is_current(tables: Tables, member: u16, generation: u8) -> bool {
    // SAFETY: a word of a mapped array, stored atomically by the controller.
    let word = unsafe { (&raw const (*tables.member(member)).control).read_volatile() };
    control::generation(word) as u8 == generation && control::state(word) != control::ABSENT
}

/// Whether the session found for a packet that starts a flow has ended: the client closed it, the
/// backend reset it, or its member is gone. If so, records whether the session still owns its port.
#[inline(always)]
fn has_ended(tables: Tables, headers: &Headers, session: &mut Session, current: bool) -> bool {
    write_reply_key(headers, session);
    session.ended_key = session.reply_key;
    let replied = look_up(&session.ended_key, &mut session.reply).is_some();
    let Session { request, reply, .. } = session;
    let has_ended = !current
        || request.state & (state::RST | state::FIN) != 0
        || !is_serving(tables, request.member)
        || replied && reply.state & state::RST != 0;
    // If the entry has expired, another client may own the port now.
    session.ended = has_ended
        && replied
        && session.reply.dest == headers.source
        && session.reply.dest_be == headers.source_be;
    has_ended
}

/// Updates the age of an entry, but not more often than every few seconds: each write loads and
/// dirties a cache line.
#[inline(always)]
fn touch(session: &mut NatRecord, now_s: u32) {
    if idle_s(session.seen_s, now_s) >= TOUCH_S {
        session.seen_s = now_s as u16;
    }
}
