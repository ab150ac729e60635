//! Confirms sessions and refreshes their reply entries.

use aya_ebpf::bindings::xdp_md;
use lb_common::nat::state;

use super::{
    entries::{write_reply, write_reply_key},
    table,
};
use crate::{
    ethernet::Addresses, headers::Headers, maps::NAT_NEW, packet::ingress_ifindex, scratch::Session,
};

/// Confirms the session if possible, otherwise refreshes its reply entry if that is due.
#[inline(always)]
pub(super) fn refresh(ctx: *mut xdp_md, headers: &Headers, session: &mut Session) {
    let confirmed = session.embryonic && !headers.opens() && confirm(ctx, headers, session);
    if session.refresh_due && !confirmed {
        refresh_reply(ctx, headers, session);
    }
}

/// Moves a session from the embryonic to the established tables. False if that was not possible
/// yet.
#[inline(always)]
fn confirm(ctx: *mut xdp_md, headers: &Headers, session: &mut Session) -> bool {
    write_reply_key(headers, session);
    if reply_state(session) & state::SEEN == 0 {
        return false;
    }
    session.request.state |= state::SEEN;
    write_reply(ctx, headers, session, state::SEEN);
    if !table::insert_reply(session) || !table::insert_request(session) {
        // The session stays embryonic. The next packet tries again, and finds any entry inserted so
        // far.
        return false;
    }
    // Embryonic entries left behind are looked up second, and expire.
    let _gone = NAT_NEW.remove(&session.request_key);
    let _gone = NAT_NEW.remove(&session.reply_key);
    true
}

/// State of the reply entry. The established table comes first: that entry is moved first.
#[inline(always)]
fn reply_state(session: &Session) -> u32 {
    if let Some(cell) = table::find_reply_outlined(&session.reply_key) {
        // SAFETY: the cell was just found.
        return unsafe { (*cell).session.state() };
    }
    // SAFETY: the entry was just found.
    NAT_NEW
        .get_ptr_mut(&session.reply_key)
        .map_or(0, |entry| unsafe { (*entry).state })
}

/// Refreshes the age of the reply entry and the path back to the client: about twice a minute.
#[inline(always)]
fn refresh_reply(ctx: *mut xdp_md, headers: &Headers, session: &mut Session) {
    write_reply_key(headers, session);
    // Not the FIN: the backend may continue to send, and its own FIN closes the session.
    let closing = session.request.state & state::RST;
    if refresh_in_place(ctx, headers, session, closing) {
        return;
    }
    write_reply(ctx, headers, session, closing);
    // If this fails, a later packet tries again.
    if session.embryonic {
        let _kept = NAT_NEW.insert(&session.reply_key, &session.reply, 0);
    } else {
        table::insert_reply(session);
    }
}

/// Refreshes the reply entry in place if it exists: an insert allocates a new element, which takes
/// several hundred nanoseconds.
#[inline(always)]
fn refresh_in_place(ctx: *mut xdp_md, headers: &Headers, session: &Session, closing: u32) -> bool {
    let request = &session.request;
    let link = Addresses::read(ctx).map_or([0; 3], |link| link.swapped().words());
    if let Some(cell) = table::find_reply_outlined(&session.reply_key) {
        // SAFETY: the cell was just found.
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
    // SAFETY: the entry was just found; nothing was written to its table since.
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
