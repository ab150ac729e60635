//! Sessions: found, begun, confirmed, kept.

use core::hint::black_box;

use aya_ebpf::bindings::{BPF_NOEXIST, xdp_md};
use lb_common::{
    checksum, family,
    member::control,
    nat::{NatFlow, NatKey, NatSource, PORT_TRIES, REPLACE_IDLE_S, REPLY, state},
    reason::Reason,
    ring::NO_MEMBER,
    vip::{Vip, affinity},
};

use super::{closing, rewrite::address_delta, table};
use crate::{
    clock,
    counters::count_vip,
    headers::Headers,
    link::Addresses,
    maps::{Elements as _, MEMBERS, NAT_NEW, NAT_SOURCES},
    packet::ingress_ifindex,
    scratch::Session,
    select::{none_serves, serves, slot},
    trace,
};

/// Seconds after which the client's packets keep the entry of the replies; less than what lets another
/// session take its cell. When that was last done is in the first word of `link` of the client's entry,
/// which has no other use for it; the way that the packets came then is in the second ([`way_in`]).
const KEEP_S: u32 = REPLACE_IDLE_S / 2;

/// Seconds by which an entry may be younger than it says.
const TOUCH_S: u32 = 4;

/// An entry of a session.
pub(super) struct Found {
    pub(super) flow: *mut NatFlow,
    /// Whether it is in the table of embryonic sessions.
    pub(super) embryonic: bool,
}

/// Finds the entry of a session, embryonic or not.
#[inline(always)]
pub(super) fn find(key: &NatKey) -> Option<Found> {
    if let Some(flow) = table::find(key) {
        return Some(Found {
            flow,
            embryonic: false,
        });
    }
    NAT_NEW.get_ptr_mut(key).map(|flow| Found {
        flow,
        embryonic: true,
    })
}

/// The entry of an established session, for a packet that changes nothing in it but its age.
#[inline(always)]
pub(super) fn established(
    ctx: *mut xdp_md,
    headers: &Headers,
    key: &NatKey,
) -> Option<&'static NatFlow> {
    // SAFETY: an entry that was just found, and is not given away while a packet is on its way.
    let flow = unsafe { &mut *table::find(key)? };
    let now_s = clock::now_s() as u32;
    if is_due(ctx, flow, now_s)
        || headers.opens()
        || closing(headers) & !flow.state != 0
        || !is_current(flow)
    {
        return None;
    }
    touch(flow, now_s);
    Some(flow)
}

/// What a client's packet belongs to.
pub(super) enum Belongs {
    /// No session.
    Nothing,
    /// A session, about which there is nothing to write down.
    Session,
    /// A session that is to be confirmed, or whose entry of the replies is to be kept.
    Due,
}

/// The session that a client's packet belongs to. A packet that opens a flow does not belong to a
/// session that is closed or whose member is gone.
#[inline(always)]
pub(super) fn of_request(ctx: *mut xdp_md, headers: &Headers, session: &mut Session) -> Belongs {
    let Some(found) = find(&session.request_key) else {
        return Belongs::Nothing;
    };
    // SAFETY: an entry that was just found; nothing was written to its table since.
    let flow = unsafe { &mut *found.flow };
    if !is_current(flow) || headers.opens() && is_over(headers, flow, session) {
        return Belongs::Nothing;
    }
    let now_s = clock::now_s() as u32;
    let before = flow.state;
    flow.state |= closing(headers);
    flow.seen_s = now_s;
    let due = is_due(ctx, flow, now_s) || before != flow.state;
    if due {
        flow.link[0] = now_s;
        flow.link[1] = way_in(ctx);
    }
    // From here on a copy: what is written to the tables below could take the entry's place.
    session.request = *flow;
    session.embryonic = found.embryonic;
    session.due = due;
    if due || found.embryonic && !headers.opens() {
        Belongs::Due
    } else {
        Belongs::Session
    }
}

/// Whether a client's packet is to keep the entry of the replies: it was not for some time, or the packets
/// come another way since.
#[inline(always)]
fn is_due(ctx: *mut xdp_md, flow: &NatFlow, now_s: u32) -> bool {
    now_s.wrapping_sub(flow.link[0]) >= KEEP_S || flow.link[1] != way_in(ctx)
}

/// The way that a packet came, in one word: both link addresses and the interface.
#[inline(always)]
fn way_in(ctx: *mut xdp_md) -> u32 {
    let [low, middle, high] = Addresses::read(ctx).map_or([0; 3], Addresses::words);
    // Multiplied, so that what two addresses have in common does not cancel out.
    let sum = u64::from(low) | u64::from(middle) << 32;
    let sum = sum.wrapping_mul(WAY_FACTOR) ^ u64::from(high);
    let sum = (sum ^ u64::from(ingress_ifindex(ctx)) << 32).wrapping_mul(WAY_FACTOR);
    (sum >> 32) as u32
}

/// An odd number without a pattern.
const WAY_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Confirms the session if it is time to, or else keeps its entry of the replies if that is due.
#[inline(always)]
pub(super) fn keep(ctx: *mut xdp_md, headers: &Headers, session: &mut Session) {
    let confirmed = session.embryonic && !headers.opens() && confirm(ctx, headers, session);
    if session.due && !confirmed {
        keep_reply(ctx, headers, session);
    }
}

/// Whether the session's member still is who it was.
#[inline(always)]
fn is_current(flow: &NatFlow) -> bool {
    match MEMBERS.at(u32::from(flow.member)) {
        Some(member) => {
            // SAFETY: a word of a mapped array that the controller replaces in one step.
            let word = unsafe { (&raw const (*member).control).read_volatile() };
            control::generation(word) == flow.generation && control::state(word) != control::ABSENT
        }
        None => false,
    }
}

/// Whether a packet that opens a flow finds the old one closed by the client or reset by the backend, or
/// its member gone.
#[inline(always)]
fn is_over(headers: &Headers, flow: &NatFlow, session: &mut Session) -> bool {
    if flow.state & (state::RST | state::FIN) != 0 || !serves(flow.member) {
        return true;
    }
    session.request = *flow;
    write_reply_key(headers, session);
    // SAFETY: an entry that was just found.
    find_reply(session).is_some_and(|entry| unsafe { (*entry).state } & state::RST != 0)
}

/// Moves a session that was answered and followed to the table where no flood reaches it; whether it did.
#[inline(always)]
fn confirm(ctx: *mut xdp_md, headers: &Headers, session: &mut Session) -> bool {
    write_reply_key(headers, session);
    let answered = find_reply(session)
        // SAFETY: an entry that was just found.
        .is_some_and(|entry| unsafe { (*entry).state } & state::SEEN != 0);
    if !answered {
        return false;
    }
    session.request.state |= state::SEEN;
    write_reply(ctx, headers, session, state::SEEN);
    if black_box(table::enter_session(1)) == 0 || black_box(table::enter_session(0)) == 0 {
        // It stays embryonic; the next packet tries again, and finds the entry that there is by then.
        return false;
    }
    // Entries that are left behind are found second, and age out.
    let _gone = NAT_NEW.remove(&session.request_key);
    let _gone = NAT_NEW.remove(&session.reply_key);
    true
}

/// The entry of the replies, in whichever table: it is moved first.
#[inline(always)]
fn find_reply(session: &Session) -> Option<*mut NatFlow> {
    let established = table::find_rarely(&session.reply_key);
    if established.is_null() {
        NAT_NEW.get_ptr_mut(&session.reply_key)
    } else {
        Some(established)
    }
}

/// Every few seconds, the client's packets keep the entry of the replies: its age, and the way back.
#[inline(always)]
fn keep_reply(ctx: *mut xdp_md, headers: &Headers, session: &mut Session) {
    write_reply_key(headers, session);
    let entry = find_reply(session);
    // Not the FIN: the backend may go on sending, and the session is closed when it has sent its own.
    let closing = session.request.state & state::RST;
    let link = Addresses::read(ctx).map_or([0; 3], |link| link.swapped().words());
    if let Some(entry) = entry {
        // SAFETY: an entry that was just found; nothing was written to its table since.
        let entry = unsafe { &mut *entry };
        if entry.member == session.request.member && entry.dest == headers.source {
            // In place: an insert takes a new element, and several hundred nanoseconds.
            entry.state |= closing;
            entry.seen_s = session.request.seen_s;
            entry.link = link;
            entry.ifindex = ingress_ifindex(ctx);
            return;
        }
    }
    write_reply(ctx, headers, session, closing);
    // If that fails, a later packet tries again.
    if session.embryonic {
        let _kept = NAT_NEW.insert(&session.reply_key, &session.reply, 0);
    } else {
        table::enter_session(1);
    }
}

/// Keeps the age of an entry, to within a few seconds: what is written must be taken from the memory and
/// brought back to it.
#[inline(always)]
pub(super) fn touch(flow: &mut NatFlow, now_s: u32) {
    if now_s.wrapping_sub(flow.seen_s) >= TOUCH_S {
        flow.seen_s = now_s;
    }
}

#[inline(always)]
fn write_reply_key(headers: &Headers, session: &mut Session) {
    let flow = &session.request;
    session.reply_key = NatKey {
        address: flow.dest,
        source_be: flow.dest_be,
        dest_be: flow.nat_port_be,
        scope: flow.nat_source | REPLY,
        protocol: u16::from(headers.protocol),
    };
}

/// Writes the entry of the replies to a client's packet.
#[inline(always)]
fn write_reply(ctx: *mut xdp_md, headers: &Headers, session: &mut Session, bits: u32) {
    let Session { request, reply, .. } = session;
    let link = Addresses::read(ctx).map_or([0; 3], |link| link.swapped().words());
    *reply = NatFlow {
        source: headers.dest,
        dest: headers.source,
        source_be: headers.dest_be,
        dest_be: headers.source_be,
        header_delta: negated(request.header_delta),
        payload_delta: negated(request.payload_delta),
        state: bits,
        link,
        ifindex: ingress_ifindex(ctx),
        ..*request
    };
}

/// What undoes a folded delta: its complement.
#[inline(always)]
const fn negated(delta: u32) -> u32 {
    !(delta as u16) as u32
}

/// Begins a session: chooses the member by the ring, and a port that no other session to the same
/// backend has.
#[inline(always)]
pub(super) fn begin(
    ctx: *mut xdp_md,
    headers: &Headers,
    vip: &Vip,
    vip_index: u16,
    session: &mut Session,
) -> Result<(), Reason> {
    if headers.is_tcp() && !headers.opens() {
        return Err(Reason::NatNoFlow);
    }
    let flow_hash = headers.flow_hash(vip);
    let slot_hash = if vip.affinity == affinity::SOURCE {
        headers.source_hash(vip)
    } else {
        flow_hash
    };
    let slot = slot(vip, vip_index, slot_hash)?;
    trace::slot(slot_hash, flow_hash, slot.slot);
    if slot.current() == NO_MEMBER {
        return Err(none_serves(vip_index));
    }
    if !serves(slot.current()) {
        // Before a port is taken for a session that nobody answers.
        return Err(Reason::MemberDown);
    }
    let over = find_over(headers, session);
    write_request(headers, slot.current(), vip_index, &mut session.request)?;
    let source = u32::from(session.request.nat_source);
    let source = NAT_SOURCES.at(source).ok_or(Reason::Internal)?;
    // SAFETY: an element of a mapped array, constant while members name it.
    let source = unsafe { &*source };
    take_port(ctx, headers, source, flow_hash, session).inspect_err(|_| {
        count_vip(vip_index, |counters| counters.nat_no_port += 1);
    })?;
    // The flow's session before is over: nothing of it counts any more. Its port goes back only now, so that
    // the backend does not see the same connection again at once.
    table::remove(&session.request_key);
    if over {
        table::remove(&session.over_key);
        let _gone = NAT_NEW.remove(&session.over_key);
    }
    if NAT_NEW
        .insert(&session.request_key, &session.request, 0)
        .is_err()
    {
        return Err(Reason::NatNoPort);
    }
    count_vip(vip_index, |counters| counters.nat_sessions += 1);
    Ok(())
}

/// Finds the session before of the flow, which is over: whether it still has its port. Its entry of the
/// replies is then `over_key`.
///
/// A client that uses its port again and again would else take one port of the node after the other, until
/// its sessions before expire; the ports that a flow may have are few.
#[inline(always)]
fn find_over(headers: &Headers, session: &mut Session) -> bool {
    let Some(found) = find(&session.request_key) else {
        return false;
    };
    // SAFETY: an entry that was just found; nothing was written to its table since.
    session.request = unsafe { *found.flow };
    write_reply_key(headers, session);
    session.over_key = session.reply_key;
    // If its entry has expired, the port may be another client's by now.
    find_reply(session).is_some_and(|entry| {
        // SAFETY: as above.
        let entry = unsafe { &*entry };
        entry.dest == headers.source && entry.dest_be == headers.source_be
    })
}

/// Writes the entry of the client's packets, but for the port.
#[inline(always)]
fn write_request(
    headers: &Headers,
    member: u16,
    vip: u16,
    request: &mut NatFlow,
) -> Result<(), Reason> {
    let entry = MEMBERS.at(u32::from(member)).ok_or(Reason::Internal)?;
    // SAFETY: an entry of a mapped array; the control word is replaced in one step, the rest is
    // constant while a ring names the member.
    let (word, entry) = unsafe { ((&raw const (*entry).control).read_volatile(), &*entry) };
    *request = NatFlow {
        source: entry.source,
        dest: entry.address,
        source_be: 0,
        dest_be: if entry.port_be == 0 {
            headers.dest_be
        } else {
            entry.port_be
        },
        header_delta: 0,
        payload_delta: 0,
        member,
        vip,
        generation: control::generation(word),
        seen_s: clock::now_s() as u32,
        state: 0,
        link: [0; 3],
        ifindex: 0,
        nat_port_be: 0,
        nat_source: entry.nat_source,
    };
    Ok(())
}

/// Finds a free port, and writes the entry of the replies with it.
#[inline(always)]
fn take_port(
    ctx: *mut xdp_md,
    headers: &Headers,
    source: &NatSource,
    flow_hash: u64,
    session: &mut Session,
) -> Result<(), Reason> {
    let request = &mut session.request;
    let ports = u32::from(source.ports);
    if ports == 0 {
        return Err(Reason::NatNoPort);
    }
    let addresses = address_delta(&headers.source, &request.source)
        + address_delta(&headers.dest, &request.dest);
    if headers.family == family::V4 {
        request.header_delta = u32::from(checksum::fold(addresses));
    }
    let stride = (flow_hash >> 48) as u32 | 1;
    for attempt in 0..PORT_TRIES {
        let request = &mut session.request;
        let offset = ((flow_hash as u32 >> 8) + attempt * stride) % ports;
        let port_be = (source.first_port + offset as u16).to_be();
        request.source_be = port_be;
        request.nat_port_be = port_be;
        let delta = addresses
            + checksum::replace_u16(headers.source_be, port_be)
            + checksum::replace_u16(headers.dest_be, request.dest_be);
        request.payload_delta = u32::from(checksum::fold(delta));
        write_reply_key(headers, session);
        if !table::find_rarely(&session.reply_key).is_null() {
            continue;
        }
        write_reply(ctx, headers, session, 0);
        if NAT_NEW
            .insert(&session.reply_key, &session.reply, u64::from(BPF_NOEXIST))
            .is_ok()
        {
            if table::find_rarely(&session.reply_key).is_null() {
                return Ok(());
            }
            // Another CPU has moved a session with this port there since.
            let _gone = NAT_NEW.remove(&session.reply_key);
        }
    }
    Err(Reason::NatNoPort)
}
