//! Creates sessions.

use aya_ebpf::bindings::{BPF_NOEXIST, xdp_md};
use lb_common::{
    nat::{NatSource, PORT_TRIES},
    reason::Reason,
    ring::NO_MEMBER,
    vip::{Vip, affinity},
};

use super::{
    entries::{write_reply, write_reply_key, write_request},
    table,
};
use crate::{
    counters::count_vip,
    headers::Headers,
    maps::{NAT_NEW, Tables},
    route::{is_serving, no_member},
    scratch::Session,
    select::slot,
    trace,
};

/// Creates a session: selects the member by the ring, and a port that no other session to the same
/// backend uses.
#[inline(always)]
pub(super) fn create(
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
        return Err(no_member(vip_index));
    }
    if !is_serving(tables, slot.current()) {
        // Checked before a port is allocated for a session that nobody would answer.
        return Err(Reason::MemberDown);
    }
    let member = slot.current();
    write_request(tables, headers, member, vip_index, &mut session.request)?;
    let source = tables.nat_source(session.request.nat_source);
    take_port(ctx, headers, source, flow_hash, session).inspect_err(|_| {
        count_vip(vip_index, |counters| counters.nat_no_port += 1);
    })?;
    // The flow's previous session has ended and is removed. Its port is released only now, so that
    // the backend does not see the same connection again at once. It must be released: otherwise a
    // client that reuses its port would take one port of the node after another, and a flow can
    // have only a few.
    table::remove_request(&session.request_key);
    if session.ended {
        table::remove_reply(&session.ended_key);
        let _gone = NAT_NEW.remove(&session.ended_key);
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

/// Finds a free port, and inserts the reply entry for it.
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
        if table::find_reply_outlined(&session.reply_key).is_some() {
            continue;
        }
        write_reply(ctx, headers, session, 0);
        if NAT_NEW
            .insert(&session.reply_key, &session.reply, u64::from(BPF_NOEXIST))
            .is_ok()
        {
            if table::find_reply_outlined(&session.reply_key).is_none() {
                return Ok(());
            }
            // Another CPU has moved a session with this port there in the meantime.
            let _gone = NAT_NEW.remove(&session.reply_key);
        }
    }
    Err(Reason::NatNoPort)
}
