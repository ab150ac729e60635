//! Confirms sessions and refreshes their reply entries.

use aya_ebpf::bindings::xdp_md;
use lb_common::nat::{NatReply, TcpState, state};

use super::{embryonic, entries::write_reply, segment, session::is_of_client, table};
use crate::{ethernet::Addresses, headers::Headers, packet::ingress_ifindex, scratch::Session};

/// Confirms an embryonic session if the packet proves it; otherwise refreshes the reply entry.
#[inline(always)]
pub(super) fn refresh(ctx: *mut xdp_md, headers: &Headers, session: &mut Session) {
    if !session.embryonic {
        refresh_established(ctx, headers, session);
        return;
    }
    let Some(cell) = embryonic::find_cell(&session.reply_key) else {
        return;
    };
    refresh_link(ctx, &mut session.reply);
    // SAFETY: the cell was just found. If another session has replaced this one meanwhile, that
    // session's client repeats its handshake.
    let cell = unsafe { &mut *cell };
    if !segment::is_proof(ctx, headers, &session.reply) {
        refresh_link(ctx, cell);
    } else if confirm(session) {
        table::free((&raw mut *cell).cast(), session.request.seen_s);
    } else {
        // The next packet tries again, and finds any entry inserted so far.
        cell.session.member_and_state = cell.session.with_state(state::PROVEN);
    }
}

/// Moves a session from the embryonic to the established tables. False if that was not possible
/// yet.
#[inline(always)]
fn confirm(session: &mut Session) -> bool {
    // Only the entry for the replies has a state.
    session.request.state = 0;
    let reply = &mut session.reply;
    reply.session.member_and_state =
        (reply.session).without_state(state::REPLIED | state::PROVEN | state::RST);
    reply.session.seen_s = session.request.seen_s as u16;
    reply.tcp = TcpState {
        expected: reply.tcp.expected,
        ..NO_TCP
    };
    table::insert_reply(session) && table::insert_request(session)
}

const NO_TCP: TcpState = TcpState {
    expected: 0,
    backend_next: 0,
    fin_end: 0,
    time: 0,
};

/// Refreshes the age of the reply entry and the path back to the client: about twice a minute. In
/// place if the entry exists.
#[inline(always)]
fn refresh_established(ctx: *mut xdp_md, headers: &Headers, session: &mut Session) {
    if let Some(cell) = table::find_reply_outlined(&session.reply_key) {
        // SAFETY: the cell was just found.
        let reply = unsafe { &mut *cell };
        if is_of_client(headers, &reply.session) {
            reply.session.seen_s = session.request.seen_s as u16;
            refresh_link(ctx, reply);
        }
        return;
    }
    write_reply(ctx, headers, session, NO_TCP);
    // If this fails, a later packet tries again.
    table::insert_reply(session);
}

#[inline(always)]
fn refresh_link(ctx: *mut xdp_md, reply: &mut NatReply) {
    reply.link = Addresses::read(ctx).map_or([0; 3], |link| link.swapped().words());
    reply.ifindex = ingress_ifindex(ctx);
}
