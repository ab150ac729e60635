//! What the TCP headers of a session's packets tell about its connection. A packet may be forged:
//! only numbers that its sender must know from the connection change a session.

use aya_ebpf::bindings::xdp_md;
use lb_common::nat::{NatReply, TcpState, state};

use crate::{
    headers::{Headers, tcp as flags},
    packet::Packet,
    wire::tcp::{self, option},
};

/// Sequence and acknowledgement number of a segment.
#[derive(Clone, Copy)]
pub(super) struct Numbers {
    pub(super) seq: u32,
    pub(super) ack: u32,
}

#[inline(always)]
pub(super) fn numbers(ctx: *mut xdp_md, headers: &Headers) -> Option<Numbers> {
    if !headers.is_tcp() {
        return None;
    }
    let header = Packet::of(ctx).view::<{ tcp::LEN }>(headers.l4())?;
    Some(Numbers {
        seq: header.be32(tcp::SEQ),
        ack: header.be32(tcp::ACK_SEQ),
    })
}

/// Notes the acknowledgement and the flags of a backend's packet of an established session.
#[inline(always)]
pub(super) fn note_reply(ctx: *mut xdp_md, headers: &Headers, reply: &mut NatReply) {
    let Some(numbers) = numbers(ctx, headers) else {
        return;
    };
    let has = |flag| headers.tcp_flags & flag != 0;
    let session = &mut reply.session;
    if has(flags::RST) {
        session.member_and_state = session.with_state(state::RST);
        return;
    }
    let before = session.state() & !state::UDP;
    let mut now = before & !state::RST;
    if has(flags::SYN) {
        // A new connection of the same two ports.
        now = 0;
        reply.tcp.fin_end = 0;
    }
    if has(flags::ACK) && reply.tcp.expected != numbers.ack {
        reply.tcp.expected = numbers.ack;
    }
    if reply.tcp.fin_end != 0 && reply.tcp.fin_end == reply.tcp.expected {
        now |= state::CLIENT_FIN;
    }
    if has(flags::FIN) {
        now |= state::BACKEND_FIN;
    }
    if now != before {
        session.member_and_state = session.without_state(before);
        session.member_and_state = session.with_state(now);
    }
}

/// Notes a backend's packet of an embryonic session. Returns whether the backend refuses the
/// connection.
#[inline(always)]
pub(super) fn note_first_reply(ctx: *mut xdp_md, headers: &Headers, reply: &mut NatReply) -> bool {
    let Some(numbers) = numbers(ctx, headers) else {
        reply.session.member_and_state = reply.session.with_state(state::REPLIED);
        return false;
    };
    let has = |flag| headers.tcp_flags & flag != 0;
    if !has(flags::ACK) {
        return false;
    }
    if has(flags::RST) {
        return numbers.ack == reply.tcp.expected;
    }
    reply.tcp.expected = numbers.ack;
    if has(flags::SYN) {
        reply.tcp.backend_next = numbers.seq.wrapping_add(1);
        reply.session.member_and_state = reply.session.with_state(state::REPLIED);
    }
    false
}

/// Whether a client's packet proves that it received the backend's reply.
#[inline(always)]
pub(super) fn is_proof(ctx: *mut xdp_md, headers: &Headers, reply: &NatReply) -> bool {
    if reply.session.state() & state::PROVEN != 0 {
        return true;
    }
    if reply.session.state() & state::REPLIED == 0 {
        return false;
    }
    let Some(numbers) = numbers(ctx, headers) else {
        return true;
    };
    headers.tcp_flags & (flags::SYN | flags::RST | flags::ACK) == flags::ACK
        && reply.tcp.is_proof(numbers.ack)
}

/// Whether a client's RST has the exact sequence number that the backend expects: the backend
/// ignores others (RFC 5961 §3.2).
#[inline(always)]
pub(super) fn resets(ctx: *mut xdp_md, headers: &Headers, tcp: &TcpState) -> bool {
    headers.tcp_flags & flags::RST != 0
        && numbers(ctx, headers).is_some_and(|numbers| numbers.seq == tcp.expected)
}

/// Notes where a client's FIN ends. The connection is closed when the backend acknowledges that.
#[inline(always)]
pub(super) fn note_fin(ctx: *mut xdp_md, headers: &Headers, tcp: &mut TcpState) {
    let Some(numbers) = numbers(ctx, headers) else {
        return;
    };
    let end = numbers
        .seq
        .wrapping_add(payload_len(ctx, headers))
        .wrapping_add(1);
    if tcp.may_end(end) {
        tcp.fin_end = end;
        tcp.time = timestamp(ctx, headers);
    }
}

/// Bytes of data in a segment.
#[inline(always)]
fn payload_len(ctx: *mut xdp_md, headers: &Headers) -> u32 {
    let before = headers.l4().saturating_sub(headers.l3()) + header_len(ctx, headers);
    headers.length.saturating_sub(before as u32)
}

/// Bytes of the TCP header.
#[inline(always)]
fn header_len(ctx: *mut xdp_md, headers: &Headers) -> usize {
    Packet::of(ctx)
        .view::<{ tcp::LEN }>(headers.l4())
        .map_or(0, |header| {
            usize::from(header.get::<u8>(tcp::DATA_OFFSET) >> 4) * 4
        })
}

/// Returns the timestamp (RFC 7323) of a segment; 0 if it has none.
#[inline(always)]
pub(super) fn timestamp(ctx: *mut xdp_md, headers: &Headers) -> u32 {
    timestamp_at(ctx, headers.l4() as u32, header_len(ctx, headers) as u32)
}

/// Returns the timestamp of a segment whose header starts at `l4` and has `length` bytes.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn timestamp_at(ctx: *mut xdp_md, l4: u32, length: u32) -> u32 {
    let packet = Packet::of(ctx);
    let l4 = (l4 & 0x7ff) as usize;
    let mut at = tcp::LEN;
    // A header has at most 40 bytes of options; those before the timestamps take few steps.
    for _ in 0..MAX_OPTIONS {
        if at + option::TIMESTAMP_LEN > length as usize {
            return 0;
        }
        let Some(bytes) = packet.view::<{ option::TIMESTAMP_LEN }>(l4 + (at & 0x3f)) else {
            return 0;
        };
        match bytes.get::<u8>(0) {
            option::TIMESTAMPS => return bytes.be32(2),
            option::END => return 0,
            option::NOP => at += 1,
            _ => at += usize::from(bytes.get::<u8>(1)).max(2),
        }
    }
    0
}

/// Options examined to find the timestamps.
const MAX_OPTIONS: usize = 8;
