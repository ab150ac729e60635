//! Builds the entries of a session in the scratch.

use aya_ebpf::bindings::xdp_md;
use lb_common::{
    member::control,
    nat::{NatFlow, NatKey, NatRecord, NatReply, REPLY, TcpState},
    reason::Reason,
};

use crate::{
    clock, ethernet::Addresses, headers::Headers, packet::ingress_ifindex, scratch::Session, tables,
};

/// Builds the entry for the client's packets, without the port.
#[inline(always)]
pub(super) fn write_request(
    headers: &Headers,
    member: u16,
    vip: u16,
    request: &mut NatFlow,
) -> Result<(), Reason> {
    let entry = tables::member(member);
    // SAFETY: an entry of a mapped array. The control word is stored atomically; the rest is
    // constant while a ring refers to the member.
    let (word, entry) = unsafe { ((&raw const (*entry).control).read_volatile(), &*entry) };
    *request = NatFlow {
        source: tables::nat_source(entry.nat_source).address,
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

#[inline(always)]
pub(super) fn write_reply_key(headers: &Headers, session: &mut Session) {
    let flow = &session.request;
    session.reply_key = NatKey {
        address: flow.dest,
        source_be: flow.dest_be,
        dest_be: flow.nat_port_be,
        scope: flow.nat_source | REPLY,
        protocol: u16::from(headers.protocol),
    };
}

/// Builds the cell for the replies from a client's packet.
#[inline(always)]
pub(super) fn write_reply(
    ctx: *mut xdp_md,
    headers: &Headers,
    session: &mut Session,
    tcp: TcpState,
) {
    let Session {
        request, reply_key, ..
    } = session;
    session.reply = NatReply {
        session: NatRecord {
            client: headers.source,
            client_be: headers.source_be,
            vip_be: headers.dest_be,
            path_or_port: reply_key.source_be,
            refreshed: 0,
            ..NatRecord::new(reply_key, request)
        },
        tcp,
        link: Addresses::read(ctx).map_or([0; 3], |link| link.swapped().words()),
        ifindex: ingress_ifindex(ctx),
    };
}
