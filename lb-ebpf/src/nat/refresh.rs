//! Sessions confirmed and kept.

use aya_ebpf::bindings::xdp_md;
use lb_common::nat::state;

use super::{
    entries::{write_reply, write_reply_key},
    table,
};
use crate::{
    ethernet::Addresses, headers::Headers, maps::NAT_NEW, packet::ingress_ifindex, scratch::Session,
};

/// Confirms the session if it is time to, or else keeps its entry of the replies if that is due.
#[inline(always)]
pub(super) fn refresh(ctx: *mut xdp_md, headers: &Headers, session: &mut Session) {
    let confirmed = session.embryonic && !headers.opens() && confirm(ctx, headers, session);
    if session.refresh_due && !confirmed {
        refresh_reply(ctx, headers, session);
    }
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
    if !table::insert_reply(session) || !table::insert_request(session) {
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
    if let Some(cell) = table::find_reply_outlined(&session.reply_key) {
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
fn refresh_reply(ctx: *mut xdp_md, headers: &Headers, session: &mut Session) {
    write_reply_key(headers, session);
    // Not the FIN: the backend may go on sending, and the session is closed when it has sent its own.
    let closing = session.request.state & state::RST;
    if refresh_in_place(ctx, headers, session, closing) {
        return;
    }
    write_reply(ctx, headers, session, closing);
    // If that fails, a later packet tries again.
    if session.embryonic {
        let _kept = NAT_NEW.insert(&session.reply_key, &session.reply, 0);
    } else {
        table::insert_reply(session);
    }
}

/// Keeps the entry of the replies where it is, if it is there: an insert takes a new element, and several
/// hundred nanoseconds.
#[inline(always)]
fn refresh_in_place(ctx: *mut xdp_md, headers: &Headers, session: &Session, closing: u32) -> bool {
    let request = &session.request;
    let link = Addresses::read(ctx).map_or([0; 3], |link| link.swapped().words());
    if let Some(cell) = table::find_reply_outlined(&session.reply_key) {
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
