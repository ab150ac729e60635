//! Creates sessions.

use core::hint::black_box;

use aya_ebpf::bindings::xdp_md;
use lb_common::{
    nat::{
        EMBRYONIC_TRIES, NatKey, NatReply, NatSource, PORT_TRIES, PortChoice, TcpState, idle_s,
        state,
    },
    reason::Reason,
    ring::{MemberIndex, NO_MEMBER},
    vip::Vip,
};

use super::{
    embryonic,
    entries::{write_reply, write_reply_key, write_request},
    segment, table,
};
use crate::{
    clock,
    counters::count_vip,
    headers::Headers,
    maps::JIFFIES_SHIFT,
    route::{is_serving, no_member},
    scratch::{Session, scratch},
    select::{slot, slot_hash},
    tables, trace,
};

/// Creates a session: selects the member by the ring unless one is `decided`, and a port that no other
/// session to the same backend uses.
#[inline(always)]
pub(super) fn create(
    ctx: *mut xdp_md,
    headers: &Headers,
    vip: &Vip,
    vip_index: u16,
    session: &mut Session,
    decided: MemberIndex,
) -> Result<(), Reason> {
    trace::vip(vip_index);
    if headers.is_tcp() && !headers.opens() {
        return Err(Reason::NatNoFlow);
    }
    let flow_hash = headers.flow_hash(vip);
    let slot_hash = slot_hash(vip, headers, flow_hash);
    let slot = slot(vip, vip_index, slot_hash)?;
    trace::slot(vip_index, slot_hash, flow_hash, slot.slot, slot.current());
    let member = if decided == NO_MEMBER {
        slot.current()
    } else {
        decided
    };
    if member == NO_MEMBER {
        return Err(no_member(vip_index));
    }
    if !is_serving(member) {
        // Checked before a port is allocated for a session that nobody would answer.
        return Err(Reason::MemberDown);
    }
    write_request(headers, member, vip_index, &mut session.request)?;
    let source = tables::nat_source(session.request.nat_source);
    let choice = PortChoice::new(source, vip, &headers.source, flow_hash);
    take_port(ctx, headers, source, &choice, session).inspect_err(|reason| {
        if matches!(reason, Reason::NatNoPort) {
            count_vip(vip_index, |counters| counters.nat_no_port += 1);
        }
    })?;
    // The flow's previous session has ended. Its port is released only now, so that the new session
    // does not get it, and only if its member is gone: otherwise the backend may still be in
    // TIME-WAIT.
    table::remove_request(&session.request_key);
    if session.ended {
        table::remove_reply(&session.ended_key);
    }
    if !embryonic::insert() || !is_alone(session) {
        // Another CPU was faster: the client repeats its packet.
        return Err(Reason::NatNoPort);
    }
    count_vip(vip_index, |counters| counters.nat_sessions += 1);
    Ok(())
}

/// Whether no established session has the port of the session that was just inserted: another CPU may
/// have confirmed one in the meantime. If so, the new one is removed.
#[inline(always)]
fn is_alone(session: &Session) -> bool {
    if table::find_reply_outlined(&session.reply_key).is_none() {
        return true;
    }
    if let Some(cell) = embryonic::find_cell(&session.reply_key) {
        table::free(cell.cast(), clock::now_s() as u32);
    }
    false
}

/// Chooses the port, and builds the cell for the replies.
///
/// The first port that no session to the same backend uses is taken. If none of those of the choice
/// is free: the one whose connection is over and whose backend accepts the SYN in
/// TIME-WAIT, or else the one whose embryonic session is oldest.
#[inline(always)]
fn take_port(
    ctx: *mut xdp_md,
    headers: &Headers,
    source: &NatSource,
    choice: &PortChoice,
    session: &mut Session,
) -> Result<(), Reason> {
    if source.ports == 0 {
        // The members without a known route refer to a source without ports.
        return Err(Reason::NoNextHop);
    }
    let now = embryonic::now();
    let tcp = TcpState {
        expected: segment::numbers(ctx, headers).map_or(0, |numbers| numbers.seq.wrapping_add(1)),
        backend_next: 0,
        fin_end: 0,
        time: now,
    };
    session.search.start();
    for attempt in 0..PORT_TRIES {
        let port_be = (source.first_port + choice.nth(attempt)).to_be();
        set_port(headers, session, port_be);
        if black_box(rank_port(ctx, now)) != 0 {
            break;
        }
    }
    let (best, port_be) = session.search.best();
    if best == TAKEN {
        return Err(Reason::NatNoPort);
    }
    set_port(headers, session, port_be as u16);
    if best != FREE {
        release_port(session);
        if best >= OVER {
            count_vip(session.request.vip, |counters| counters.nat_reused += 1);
        }
    }
    write_reply(ctx, headers, session, tcp);
    Ok(())
}

#[inline(always)]
fn set_port(headers: &Headers, session: &mut Session, port_be: u16) {
    session.request.source_be = port_be;
    session.request.nat_port_be = port_be;
    write_reply_key(headers, session);
}

/// Ranks of ports, the highest is taken: no session uses it; the connection is over, plus its age;
/// below: age of the embryonic session; a session uses it.
const FREE: u32 = u32::MAX;
const OVER: u32 = 1 << 31;
const TAKEN: u32 = 0;

/// Compares the port in `session.reply_key` with the best so far, which is in the scratch: the
/// verifier must not follow every combination of ranks. Returns 1 if the search ends here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn rank_port(ctx: *mut xdp_md, now: u32) -> u32 {
    let Some(scratch) = scratch() else { return 1 };
    let session = &mut scratch.session;
    let rank = rank(ctx, &scratch.headers, session, now);
    let search = &mut session.search;
    search.offer(rank, session.reply_key.dest_be.into());
    if rank != TAKEN && rank < OVER {
        search.embryonic += 1;
    }
    u32::from(rank == FREE || search.embryonic >= EMBRYONIC_TRIES)
}

/// Returns the rank of the port in `session.reply_key`.
#[inline(always)]
fn rank(ctx: *mut xdp_md, headers: &Headers, session: &Session, now: u32) -> u32 {
    if let Some(cell) = table::find_reply_outlined(&session.reply_key) {
        // SAFETY: the cell was just found.
        let old = unsafe { &*cell };
        let state = old.session.state();
        if state & state::RST == 0 && (!state::is_over(state) || !accepts(ctx, headers, old)) {
            return TAKEN;
        }
        return OVER + u32::from(idle_s(old.session.seen_s, clock::now_s() as u32));
    }
    let Some(cell) = embryonic::find_cell(&session.reply_key) else {
        return FREE;
    };
    let age = embryonic::age(cell, now);
    // The handshake with the backend itself must have had time to end.
    if age < 1 << JIFFIES_SHIFT.load() >> 4 {
        return TAKEN;
    }
    age.min(OVER - 1)
}

/// Whether the backend accepts the client's SYN although it is in TIME-WAIT.
#[inline(always)]
fn accepts(ctx: *mut xdp_md, headers: &Headers, old: &NatReply) -> bool {
    segment::numbers(ctx, headers).is_some_and(|numbers| {
        old.tcp
            .accepts(numbers.seq, segment::timestamp(ctx, headers))
    })
}

/// Frees the cells of the session that used the port in `session.reply_key`.
#[inline(always)]
fn release_port(session: &mut Session) {
    let now_s = clock::now_s() as u32;
    if let Some(cell) = embryonic::find_cell(&session.reply_key) {
        table::free(cell.cast(), now_s);
    }
    let Some(cell) = table::find_reply_outlined(&session.reply_key) else {
        return;
    };
    // SAFETY: the cell was just found.
    let old = unsafe { &(*cell).session };
    session.ended_key = NatKey {
        address: old.client,
        source_be: old.client_be,
        dest_be: old.vip_be,
        scope: old.vip(),
        protocol: session.reply_key.protocol,
    };
    if let Some(request) = table::find_request_outlined(&session.ended_key)
        && table::name(request) == old.name()
    {
        table::free(request, now_s);
    }
    table::free(cell.cast(), now_s);
}
