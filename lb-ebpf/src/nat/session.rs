//! Sessions: found, begun, confirmed, kept.

use aya_ebpf::bindings::{BPF_NOEXIST, xdp_md};
use lb_common::{
    member::control,
    nat::{
        NatFlow, NatKey, NatRecord, NatSource, PORT_TRIES, REPLACE_IDLE_S, REPLY, kept, silent_s,
        state,
    },
    reason::Reason,
    ring::NO_MEMBER,
    vip::{Vip, affinity},
};

use super::table;
use crate::{
    clock,
    counters::count_vip,
    headers::{Headers, tcp},
    link::Addresses,
    maps::{self, NAT_NEW, Tables},
    packet::ingress_ifindex,
    scratch::Session,
    select::{none_serves, serves, slot},
    trace,
};

/// After this, in [`kept`] units (28 seconds), the client's packets keep the entry of the replies; less than
/// what lets another session take its cell. When that was last done, and the way that the packets came
/// then ([`way_in`]), is in `link` of the client's entry, which has no other use for it.
const KEEP: u8 = 7;
const _: () = assert!(4 * (KEEP as u16 + 1) < REPLACE_IDLE_S - TOUCH_S);

/// Seconds by which an entry may be younger than it says.
const TOUCH_S: u16 = 4;

/// Copies the entry of a session, established or not, to `flow`, which is in the scratch: the stack is small.
#[inline(always)]
pub(super) fn look_up(key: &NatKey, flow: &mut NatFlow) -> Option<()> {
    if key.scope & REPLY == 0 {
        if let Some(cell) = table::find_request_rarely(key) {
            // SAFETY: a cell that was just found.
            *flow = flow_of(maps::tables(), unsafe { &*cell });
            return Some(());
        }
    } else if let Some(cell) = table::find_reply_rarely(key) {
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
pub(super) fn established(
    ctx: *mut xdp_md,
    tables: Tables,
    headers: &Headers,
    key: &NatKey,
) -> Option<NatFlow> {
    // SAFETY: a cell that was just found, and is not given away while a packet is on its way.
    let session = unsafe { &mut *table::find_request(key)? };
    let now_s = clock::now_s() as u32;
    if is_due(ctx, session.kept, session.way_or_port, now_s)
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
pub(super) fn answered(headers: &Headers, key: &NatKey) -> Result<Option<NatFlow>, Reason> {
    let Some(cell) = table::find_reply(key) else {
        return Ok(None);
    };
    if headers.hops <= 1 {
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
pub(super) fn answered_first(headers: &Headers, key: &NatKey) -> Result<&'static NatFlow, Reason> {
    let flow = NAT_NEW.get_ptr_mut(key).ok_or(Reason::NatNoSession)?;
    if headers.hops <= 1 {
        return Err(Reason::HopLimit);
    }
    // SAFETY: an entry that was just found; nothing is written to its table while it is used.
    let flow = unsafe { &mut *flow };
    flow.state |= state::SEEN | closing(headers);
    flow.seen_s = clock::now_s() as u32;
    Ok(flow)
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
pub(super) fn of_request(
    ctx: *mut xdp_md,
    tables: Tables,
    headers: &Headers,
    session: &mut Session,
) -> Belongs {
    let cell = table::find_request_rarely(&session.request_key);
    session.embryonic = cell.is_none();
    let found = match cell {
        // SAFETY: a cell that was just found.
        Some(cell) => Some(flow_of(tables, unsafe { &*cell })),
        None => NAT_NEW
            .get_ptr_mut(&session.request_key)
            // SAFETY: an entry that was just found.
            .map(|flow| unsafe { *flow }),
    };
    session.over = false;
    // From here on a copy: what is written to the tables later could take the entry's place.
    let Some(flow) = found else {
        return Belongs::Nothing;
    };
    session.request = flow;
    let NatFlow {
        member, generation, ..
    } = session.request;
    let current = is_current(tables, member, generation as u8);
    if (headers.opens() || !current) && is_over(tables, headers, session, current) {
        return Belongs::Nothing;
    }
    let flow = &mut session.request;
    let now_s = clock::now_s() as u32;
    let before = flow.state;
    flow.state |= closing(headers);
    flow.seen_s = now_s;
    session.due =
        is_due(ctx, flow.link[0] as u8, flow.link[1] as u16, now_s) || before != flow.state;
    if session.due {
        flow.link[0] = u32::from(kept(now_s));
        flow.link[1] = u32::from(way_in(ctx));
    }
    write_back(session, cell);
    if session.due || session.embryonic && !headers.opens() {
        Belongs::Due
    } else {
        Belongs::Session
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
fn is_due(ctx: *mut xdp_md, kept_last: u8, way: u16, now_s: u32) -> bool {
    kept(now_s).wrapping_sub(kept_last) >= KEEP || way != way_in(ctx)
}

/// A hash of the way that a packet came: both link addresses and the interface.
#[inline(always)]
fn way_in(ctx: *mut xdp_md) -> u16 {
    let [low, middle, high] = Addresses::read(ctx).map_or([0; 3], Addresses::words);
    // Multiplied, so that what two addresses have in common does not cancel out.
    let sum = u64::from(low) | u64::from(middle) << 32;
    let sum = sum.wrapping_mul(WAY_FACTOR) ^ u64::from(high);
    let sum = (sum ^ u64::from(ingress_ifindex(ctx)) << 32).wrapping_mul(WAY_FACTOR);
    (sum >> 48) as u16
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
fn is_current(tables: Tables, member: u16, generation: u8) -> bool {
    // SAFETY: a word of a mapped array that the controller replaces in one step.
    let word = unsafe { (&raw const (*tables.member(member)).control).read_volatile() };
    control::generation(word) as u8 == generation && control::state(word) != control::ABSENT
}

/// Whether a packet that opens a flow finds the old one, a copy of which is the session's request, closed by
/// the client or reset by the backend, or its member gone. Then it is noted whether the old session still
/// has its port.
#[inline(always)]
fn is_over(tables: Tables, headers: &Headers, session: &mut Session, current: bool) -> bool {
    write_reply_key(headers, session);
    session.over_key = session.reply_key;
    let replied = look_up(&session.over_key, &mut session.reply).is_some();
    let Session { request, reply, .. } = session;
    let is_over = !current
        || request.state & (state::RST | state::FIN) != 0
        || !serves(tables, request.member)
        || replied && reply.state & state::RST != 0;
    // If its entry has expired, the port may be another client's by now.
    session.over = is_over
        && replied
        && session.reply.dest == headers.source
        && session.reply.dest_be == headers.source_be;
    is_over
}

/// Moves a session that was answered and followed to the table where no flood reaches it; whether it did.
#[inline(always)]
fn confirm(ctx: *mut xdp_md, headers: &Headers, session: &mut Session) -> bool {
    write_reply_key(headers, session);
    if reply_state(session) & state::SEEN == 0 {
        return false;
    }
    session.request.state |= state::SEEN;
    write_reply(ctx, headers, session, state::SEEN);
    if !table::enter_reply(session) || !table::enter_request(session) {
        // It stays embryonic; the next packet tries again, and finds the entry that there is by then.
        return false;
    }
    // Entries that are left behind are found second, and age out.
    let _gone = NAT_NEW.remove(&session.request_key);
    let _gone = NAT_NEW.remove(&session.reply_key);
    true
}

/// State of the entry of the replies, in whichever table: it is moved first.
#[inline(always)]
fn reply_state(session: &Session) -> u32 {
    if let Some(cell) = table::find_reply_rarely(&session.reply_key) {
        // SAFETY: a cell that was just found.
        return unsafe { (*cell).session.state() };
    }
    // SAFETY: an entry that was just found.
    NAT_NEW
        .get_ptr_mut(&session.reply_key)
        .map_or(0, |entry| unsafe { (*entry).state })
}

/// Twice a minute, the client's packets keep the entry of the replies: its age, and the way back.
#[inline(always)]
fn keep_reply(ctx: *mut xdp_md, headers: &Headers, session: &mut Session) {
    write_reply_key(headers, session);
    // Not the FIN: the backend may go on sending, and the session is closed when it has sent its own.
    let closing = session.request.state & state::RST;
    if keep_in_place(ctx, headers, session, closing) {
        return;
    }
    write_reply(ctx, headers, session, closing);
    // If that fails, a later packet tries again.
    if session.embryonic {
        let _kept = NAT_NEW.insert(&session.reply_key, &session.reply, 0);
    } else {
        table::enter_reply(session);
    }
}

/// Keeps the entry of the replies where it is, if it is there: an insert takes a new element, and several
/// hundred nanoseconds.
#[inline(always)]
fn keep_in_place(ctx: *mut xdp_md, headers: &Headers, session: &Session, closing: u32) -> bool {
    let request = &session.request;
    let link = Addresses::read(ctx).map_or([0; 3], |link| link.swapped().words());
    if let Some(cell) = table::find_reply_rarely(&session.reply_key) {
        // SAFETY: a cell that was just found.
        let reply = unsafe { &mut *cell };
        if reply.session.member() != request.member || reply.session.client != headers.source {
            return false;
        }
        reply.session.member_and_state = reply.session.with_state(closing);
        reply.session.seen_s = request.seen_s as u16;
        reply.link = link;
        reply.ifindex = ingress_ifindex(ctx);
        return true;
    }
    let Some(entry) = NAT_NEW.get_ptr_mut(&session.reply_key) else {
        return false;
    };
    // SAFETY: an entry that was just found; nothing was written to its table since.
    let entry = unsafe { &mut *entry };
    if entry.member != request.member || entry.dest != headers.source {
        return false;
    }
    entry.state |= closing;
    entry.seen_s = request.seen_s;
    entry.link = link;
    entry.ifindex = ingress_ifindex(ctx);
    true
}

/// Keeps the age of an entry, to within a few seconds: what is written must be taken from the memory and
/// brought back to it.
#[inline(always)]
fn touch(session: &mut NatRecord, now_s: u32) {
    if silent_s(session.seen_s, now_s) >= TOUCH_S {
        session.seen_s = now_s as u16;
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
        state: bits,
        link,
        ifindex: ingress_ifindex(ctx),
        ..*request
    };
}

/// Begins a session: chooses the member by the ring, and a port that no other session to the same
/// backend has.
#[inline(always)]
pub(super) fn begin(
    ctx: *mut xdp_md,
    tables: Tables,
    headers: &Headers,
    vip: &Vip,
    vip_index: u16,
    session: &mut Session,
) -> Result<(), Reason> {
    trace::vip(vip_index);
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
    trace::slot(vip_index, slot_hash, flow_hash, slot.slot, slot.current());
    if slot.current() == NO_MEMBER {
        return Err(none_serves(vip_index));
    }
    if !serves(tables, slot.current()) {
        // Before a port is taken for a session that nobody answers.
        return Err(Reason::MemberDown);
    }
    let member = slot.current();
    write_request(tables, headers, member, vip_index, &mut session.request)?;
    let source = tables.nat_source(session.request.nat_source);
    take_port(ctx, headers, source, flow_hash, session).inspect_err(|_| {
        count_vip(vip_index, |counters| counters.nat_no_port += 1);
    })?;
    // The flow's session before is over: nothing of it counts any more. Its port goes back only now, so that
    // the backend does not see the same connection again at once; but it goes back: a client that uses its port
    // again and again would else take one port of the node after the other, and a flow may have only a few.
    table::remove_request(&session.request_key);
    if session.over {
        table::remove_reply(&session.over_key);
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

/// Writes the entry of the client's packets, but for the port.
#[inline(always)]
fn write_request(
    tables: Tables,
    headers: &Headers,
    member: u16,
    vip: u16,
    request: &mut NatFlow,
) -> Result<(), Reason> {
    let entry = tables.member(member);
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
    let ports = u32::from(source.ports);
    if ports == 0 {
        return Err(Reason::NatNoPort);
    }
    let stride = (flow_hash >> 48) as u32 | 1;
    for attempt in 0..PORT_TRIES {
        let request = &mut session.request;
        let offset = ((flow_hash as u32 >> 8) + attempt * stride) % ports;
        let port_be = (source.first_port + offset as u16).to_be();
        request.source_be = port_be;
        request.nat_port_be = port_be;
        write_reply_key(headers, session);
        if table::find_reply_rarely(&session.reply_key).is_some() {
            continue;
        }
        write_reply(ctx, headers, session, 0);
        if NAT_NEW
            .insert(&session.reply_key, &session.reply, u64::from(BPF_NOEXIST))
            .is_ok()
        {
            if table::find_reply_rarely(&session.reply_key).is_none() {
                return Ok(());
            }
            // Another CPU has moved a session with this port there since.
            let _gone = NAT_NEW.remove(&session.reply_key);
        }
    }
    Err(Reason::NatNoPort)
}
