//! Sessions: found, begun, confirmed, kept.

use aya_ebpf::bindings::xdp_md;
use lb_common::{
    member::control,
    nat::{NatFlow, NatKey, NatRecord, REPLACE_IDLE_S, REPLY, kept, silent_s, state},
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

/// After this, in [`kept`] units (28 seconds), the client's packets keep the entry of the replies; less than
/// what lets another session take its cell. When that was last done, and the way that the packets came
/// then ([`ingress_hash`]), is in `link` of the client's entry, which has no other use for it.
const REFRESH_AFTER: u8 = 7;
const _: () = assert!(4 * (REFRESH_AFTER as u16 + 1) < REPLACE_IDLE_S - TOUCH_S);

/// Seconds by which an entry may be younger than it says.
const TOUCH_S: u16 = 4;

/// Copies the entry of a session, established or not, to `flow`, which is in the scratch: the stack is small.
#[inline(always)]
pub(super) fn look_up(key: &NatKey, flow: &mut NatFlow) -> Option<()> {
    if key.scope & REPLY == 0 {
        if let Some(cell) = table::find_request_outlined(key) {
            // SAFETY: a cell that was just found.
            *flow = flow_of(maps::tables(), unsafe { &*cell });
            return Some(());
        }
    } else if let Some(cell) = table::find_reply_outlined(key) {
        // SAFETY: a cell that was just found.
        *flow = unsafe { (*cell).flow() };
        return Some(());
    }
    let entry = NAT_NEW.get_ptr_mut(key)?;
    // SAFETY: an entry that was just found.
    *flow = unsafe { *entry };
    Some(())
}

/// What is done with the client's packets of an established session.
#[inline(always)]
fn flow_of(tables: Tables, session: &NatRecord) -> NatFlow {
    let member = tables.member(session.member());
    let source = tables.nat_source(session.nat_source());
    // SAFETY: an entry of a mapped array; what is read is constant while a session names it.
    session.flow(unsafe { &*member }, source.address)
}

/// The entry of an established session, for a client's packet that changes nothing in it but its age.
#[inline(always)]
pub(super) fn find_established(
    ctx: *mut xdp_md,
    tables: Tables,
    headers: &Headers,
    key: &NatKey,
) -> Option<NatFlow> {
    // SAFETY: a cell that was just found, and is not given away while a packet is on its way.
    let session = unsafe { &mut *table::find_request(key)? };
    let now_s = clock::now_s() as u32;
    if is_refresh_due(ctx, session.kept, session.way_or_port, now_s)
        || headers.opens()
        || closing(headers) & !session.state() != 0
        || !is_current(tables, session.member(), session.generation)
    {
        return None;
    }
    touch(session, now_s);
    Some(flow_of(tables, session))
}

/// The entry of an established session, for a backend's packet.
#[inline(always)]
pub(super) fn match_reply(headers: &Headers, key: &NatKey) -> Result<Option<NatFlow>, Reason> {
    let Some(cell) = table::find_reply(key) else {
        return Ok(None);
    };
    if headers.ttl <= 1 {
        return Err(Reason::HopLimit);
    }
    // SAFETY: a cell that was just found, and is not given away while a packet is on its way.
    let reply = unsafe { &mut *cell };
    let seen = state::SEEN | closing(headers);
    if seen & !reply.session.state() != 0 {
        reply.session.member_and_state = reply.session.with_state(seen);
    }
    touch(&mut reply.session, clock::now_s() as u32);
    Ok(Some(reply.flow()))
}

/// The entry of an embryonic session, for a backend's packet.
#[inline(always)]
pub(super) fn match_embryonic_reply(
    headers: &Headers,
    key: &NatKey,
) -> Result<&'static NatFlow, Reason> {
    let flow = NAT_NEW.get_ptr_mut(key).ok_or(Reason::NatNoSession)?;
    if headers.ttl <= 1 {
        return Err(Reason::HopLimit);
    }
    // SAFETY: an entry that was just found; nothing is written to its table while it is used.
    let flow = unsafe { &mut *flow };
    flow.state |= state::SEEN | closing(headers);
    flow.seen_s = clock::now_s() as u32;
    Ok(flow)
}

/// What a client's packet belongs to.
pub(super) enum RequestMatch {
    /// No session.
    NoSession,
    /// A session, about which there is nothing to write down.
    Current,
    /// A session that is to be confirmed, or whose entry of the replies is to be kept.
    RefreshDue,
}

/// The session that a client's packet belongs to. A packet that opens a flow does not belong to a
/// session that is closed or whose member is gone.
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
        // SAFETY: a cell that was just found.
        Some(cell) => Some(flow_of(tables, unsafe { &*cell })),
        None => NAT_NEW
            .get_ptr_mut(&session.request_key)
            // SAFETY: an entry that was just found.
            .map(|flow| unsafe { *flow }),
    };
    session.ended = false;
    // From here on a copy: what is written to the tables later could take the entry's place.
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
        flow.link[0] = u32::from(kept(now_s));
        flow.link[1] = u32::from(ingress_hash(ctx));
    }
    write_back(session, cell);
    if session.refresh_due || session.embryonic && !headers.opens() {
        RequestMatch::RefreshDue
    } else {
        RequestMatch::Current
    }
}

/// Writes what a client's packet changes in the entry of its session, `cell` or the embryonic one.
#[inline(always)]
fn write_back(session: &Session, cell: Option<*mut NatRecord>) {
    let flow = &session.request;
    if let Some(cell) = cell {
        // SAFETY: a cell that was just found.
        let cell = unsafe { &mut *cell };
        cell.member_and_state = cell.with_state(flow.state);
        cell.seen_s = flow.seen_s as u16;
        cell.kept = flow.link[0] as u8;
        cell.way_or_port = flow.link[1] as u16;
    } else if let Some(entry) = NAT_NEW.get_ptr_mut(&session.request_key) {
        // SAFETY: an entry that was just found; nothing was written to its table since.
        let entry = unsafe { &mut *entry };
        entry.state |= flow.state;
        entry.seen_s = flow.seen_s;
        entry.link = flow.link;
    }
}

/// The state bits that a packet's flags add.
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

/// Whether a client's packet is to keep the entry of the replies: it was not for some time, or the packets
/// come another way since.
#[inline(always)]
fn is_refresh_due(ctx: *mut xdp_md, kept_last: u8, way: u16, now_s: u32) -> bool {
    kept(now_s).wrapping_sub(kept_last) >= REFRESH_AFTER || way != ingress_hash(ctx)
}

/// A hash of the way that a packet came: both link addresses and the interface.
#[inline(always)]
fn ingress_hash(ctx: *mut xdp_md) -> u16 {
    let [low, middle, high] = Addresses::read(ctx).map_or([0; 3], Addresses::words);
    // Multiplied, so that what two addresses have in common does not cancel out.
    let sum = u64::from(low) | u64::from(middle) << 32;
    let sum = sum.wrapping_mul(HASH_FACTOR) ^ u64::from(high);
    let sum = (sum ^ u64::from(ingress_ifindex(ctx)) << 32).wrapping_mul(HASH_FACTOR);
    (sum >> 48) as u16
}

/// An odd number without a pattern.
const HASH_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Whether the session's member still is who it was.
#[inline(always)]
fn is_current(tables: Tables, member: u16, generation: u8) -> bool {
    // SAFETY: a word of a mapped array that the controller replaces in one step.
    let word = unsafe { (&raw const (*tables.member(member)).control).read_volatile() };
    control::generation(word) as u8 == generation && control::state(word) != control::ABSENT
}

/// Whether a packet that opens a flow finds the old one, a copy of which is the session's request, closed by
/// the client or reset by the backend, or its member gone. Then it is noted whether the old session still
/// has its port.
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
    // If its entry has expired, the port may be another client's by now.
    session.ended = has_ended
        && replied
        && session.reply.dest == headers.source
        && session.reply.dest_be == headers.source_be;
    has_ended
}

/// Keeps the age of an entry, to within a few seconds: what is written must be taken from the memory and
/// brought back to it.
#[inline(always)]
fn touch(session: &mut NatRecord, now_s: u32) {
    if silent_s(session.seen_s, now_s) >= TOUCH_S {
        session.seen_s = now_s as u16;
    }
}
