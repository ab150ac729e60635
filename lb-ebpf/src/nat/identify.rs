//! New identifications of datagrams that may become fragments. Clients behind one source address choose
//! the same ones (RFC 6864 §5.3).

use aya_ebpf::bindings::xdp_md;
use lb_common::family;

use super::{reply_key, rewrite};
use crate::{
    counters::cpu,
    fragments,
    headers::Headers,
    maps::{CPUS, below},
    packet::Packet,
    scratch::{IDENTIFICATIONS, Identifications, Scratch, scratch},
    wire::{ipv4, ipv6},
};

/// Where a datagram comes from, for [`nat_identify`].
pub(super) const CLIENT: u32 = u32::MAX;

/// Gives a rewritten datagram a new identification, and remembers a first fragment. The headers are
/// in the scratch; `from` is [`CLIENT`], whose session is there too, or the NAT source of a reply.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn nat_identify(ctx: *mut xdp_md, from: u32, vip: u32, member: u32) -> u32 {
    let Some(Scratch {
        headers,
        key,
        session,
        identifications,
        ..
    }) = scratch()
    else {
        return 0;
    };
    let packet = Packet::of(ctx);
    let Some(id) = next_id(packet, headers, identifications) else {
        return 0;
    };
    // Later fragments follow only an identification that was written.
    if rewrite::identification(packet, headers, id).is_ok() && headers.first_fragment {
        *key = if from == CLIENT {
            session.request_key
        } else {
            reply_key(headers, from as u16)
        };
        fragments::remember_session(headers, key, vip as u16, member as u16, id);
    }
    0
}

/// Returns an identification that this node uses again as late as possible for the destination: all
/// CPUs count, each in steps of their number.
#[inline(always)]
fn next_id(
    packet: Packet,
    headers: &Headers,
    identifications: &mut Identifications,
) -> Option<u32> {
    let end_of_dest = if headers.family == family::V4 {
        ipv4::DEST
    } else {
        ipv6::DEST + 12
    };
    let dest: u32 = packet.view::<4>(headers.l3() + end_of_dest)?.get(0);
    let counter = dest.wrapping_mul(0x9e37_79b1) >> 24;
    let counter = &mut identifications[below::<IDENTIFICATIONS>(counter as usize)];
    *counter = counter.wrapping_add(1);
    Some(counter.wrapping_mul(CPUS.load()).wrapping_add(cpu()))
}
