//! Per-CPU scratch memory that passes data from one stage to the next.
//!
//! Stages take only the context and numbers (see [`crate::stages`]), and the stack has 512 bytes. A
//! program is not interrupted by another packet on its CPU.

use aya_ebpf::{bindings::xdp_md, btf_maps::PerCpuArray, macros::btf_map};
use lb_common::{
    family,
    nat::{NatFlow, NatKey, NatReply},
    ring::MemberIndex,
};

use crate::{headers::Headers, packet::Packet, wire::tcp};

/// Data for the next stage.
#[btf_map]
pub(crate) static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

pub(crate) struct Scratch {
    /// The packet's headers.
    pub(crate) headers: Headers,
    /// For an ICMP error: the headers of the quoted packet, reversed.
    pub(crate) reversed: Headers,
    /// The member of a packet for which it is [decided](crate::bound::DECIDED).
    pub(crate) decided: MemberIndex,
    /// Key of the NAT session to look up.
    pub(crate) key: NatKey,
    /// The NAT session that the packet belongs to.
    pub(crate) session: Session,
    /// Counters of identifications; they are kept from packet to packet.
    pub(crate) identifications: Identifications,
}

/// Counters of identifications of fragmented datagrams: destinations share them by hash.
pub(crate) type Identifications = [u32; IDENTIFICATIONS];
/// Number of [`Identifications`].
pub(crate) const IDENTIFICATIONS: usize = 256;

/// A session while it is processed.
pub(crate) struct Session {
    /// Whether the packet opens a connection: it is counted as a new flow.
    pub(crate) new: bool,
    /// Whether the session is not established.
    pub(crate) embryonic: bool,
    /// Whether the reply entry must be refreshed.
    pub(crate) refresh_due: bool,
    /// Whether the flow's previous session, whose member is gone, still owns its port.
    pub(crate) ended: bool,
    /// Key of the client's packets.
    pub(crate) request_key: NatKey,
    /// Key of the replies.
    pub(crate) reply_key: NatKey,
    /// Key of an entry to remove.
    pub(crate) ended_key: NatKey,
    /// The search for a port of the node, or for a cell.
    pub(crate) search: RankedSearch,
    /// How the packet is rewritten.
    pub(crate) request: NatFlow,
    /// Cell for the replies, or a copy of it.
    pub(crate) reply: NatReply,
}

/// A search for the candidate with the highest rank, so far.
///
/// It is read and written in the scratch only: of values in registers, the verifier follows every
/// combination.
pub(crate) struct RankedSearch {
    /// Rank of the best candidate.
    rank: u32,
    /// The best candidate.
    number: u32,
    /// Number of ports with embryonic sessions that were candidates.
    pub(crate) embryonic: u32,
}

impl RankedSearch {
    /// Starts a search: candidates must rank higher than 0.
    #[inline(always)]
    pub(crate) fn start(&mut self) {
        // SAFETY: a write through a reference.
        unsafe {
            (&raw mut *self).write_volatile(Self {
                rank: 0,
                number: 0,
                embryonic: 0,
            });
        }
    }

    /// Takes the candidate if it ranks higher than all before.
    #[inline(always)]
    pub(crate) fn offer(&mut self, rank: u32, number: u32) {
        // SAFETY: accesses through a reference.
        unsafe {
            if rank > (&raw const self.rank).read_volatile() {
                (&raw mut self.rank).write_volatile(rank);
                (&raw mut self.number).write_volatile(number);
            }
        }
    }

    /// Returns the rank and the number of the best candidate; 0 and 0 if there is none.
    #[inline(always)]
    pub(crate) fn best(&self) -> (u32, u32) {
        // SAFETY: reads through a reference.
        unsafe {
            (
                (&raw const self.rank).read_volatile(),
                (&raw const self.number).read_volatile(),
            )
        }
    }
}

/// Returns this CPU's scratch memory.
#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: this CPU's entry; stages run one after another, and none keeps a reference while the
    // next one writes.
    SCRATCH
        .get_ptr_mut(0)
        .map(|scratch| unsafe { &mut *scratch })
}

/// Parses the headers of a packet without options or extension headers, whose IP header is at `l3`,
/// and saves them. Parsing them again is cheaper than keeping them: most packets never need them.
/// The packet must be unmodified.
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

/// Saves the headers for the next stage.
#[inline(always)]
pub(crate) fn save_headers(headers: &Headers) {
    if let Some(scratch) = scratch() {
        scratch.headers = *headers;
    }
}
