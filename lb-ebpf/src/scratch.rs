//! What one stage leaves for the next.
//!
//! The rarer stages are functions that the verifier checks by themselves ("global" functions, Linux
//! 5.6): once, instead of once for every way that leads to them. Such a function takes the context
//! and numbers, so what is known of the packet is left here. Per CPU: a program is not interrupted
//! by another packet on its CPU.

use aya_ebpf::{bindings::xdp_md, btf_maps::PerCpuArray, macros::btf_map};
use lb_common::{
    family,
    nat::{NatFlow, NatKey},
};

use crate::{headers::Headers, packet::Packet, wire::tcp};

/// What one stage leaves for the next.
#[btf_map]
pub(crate) static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// What is left.
pub(crate) struct Scratch {
    /// The packet's headers.
    pub(crate) headers: Headers,
    /// For an ICMP error: the headers of the packet that it quotes, turned round.
    pub(crate) reversed: Headers,
    /// The NAT session that the next stage is to find.
    pub(crate) key: NatKey,
    /// Entries of the NAT session that the packet belongs to.
    pub(crate) session: Session,
}

/// The entries of a session, in the making. Here because a program's stack is 512 bytes.
pub(crate) struct Session {
    /// Whether the packet has begun it.
    pub(crate) new: bool,
    /// Whether it is not established.
    pub(crate) embryonic: bool,
    /// Whether the client's packets are to keep the entry of the replies again.
    pub(crate) refresh_due: bool,
    /// Whether the flow's session before, which is over, still has its port.
    pub(crate) ended: bool,
    /// Key of the client's packets.
    pub(crate) request_key: NatKey,
    /// Key of the replies.
    pub(crate) reply_key: NatKey,
    /// Key of the replies of that session.
    pub(crate) ended_key: NatKey,
    /// The entry of the client's packets.
    pub(crate) request: NatFlow,
    /// The entry of the replies.
    pub(crate) reply: NatFlow,
}

/// This CPU's scratch.
#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: the entry of this CPU; stages run one after another, and none keeps what it has read
    // while the next one writes.
    SCRATCH
        .get_ptr_mut(0)
        .map(|scratch| unsafe { &mut *scratch })
}

/// Leaves the headers of a packet without options or extension headers, whose IP header is at `l3`, for the
/// next stage. They are read again: so the common packet's need not be kept until it is known that nobody asks for
/// them. The packet must be as it came in.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn save_plain_headers(ctx: *mut xdp_md, l3: u32, ip: u32) -> u32 {
    let packet = Packet::of(ctx);
    let l3 = (l3 & 0x1f) as usize;
    let mut headers = if ip == u32::from(family::V4) {
        let Some(ip) = packet.view(l3) else { return 0 };
        Headers::plain_v4(ip, l3)
    } else {
        let Some(ip) = packet.view(l3) else { return 0 };
        Headers::plain_v6(ip, l3)
    };
    if headers.is_tcp()
        && let Some(header) = packet.view::<{ tcp::LEN }>(headers.l4())
    {
        headers.tcp_flags = header.get(tcp::FLAGS);
    }
    save_headers(&headers);
    0
}

/// Leaves the headers for the next stage.
#[inline(always)]
pub(crate) fn save_headers(headers: &Headers) {
    if let Some(scratch) = scratch() {
        scratch.headers = *headers;
    }
}
