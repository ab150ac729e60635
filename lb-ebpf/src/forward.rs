//! A packet for a VIP: member, next hop, and out.

use aya_ebpf::bindings::xdp_md;
use lb_common::{
    checksum, family,
    member::{Egress, Member, control},
    proto,
    reason::Reason,
    vip::{Vip, forward},
};

use crate::{
    counters::count_sent,
    encap, fragments,
    headers::Headers,
    icmp,
    link::{self, Addresses},
    log,
    maps::{self, Tables},
    packet::{Packet, View},
    samples, scratch,
    select::{Choice, Marks, choose, none_serves},
    stages::Stage,
    trace,
    verdict::{Verdict, settle},
};

/// Where a member's packets go now.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(crate) member: &'a Member,
    pub(crate) family: u8,
    pub(crate) next_hop: u64,
    /// One that is not in use has no interface, and nothing fits through it.
    pub(crate) egress: &'a Egress,
}

impl Way<'_> {
    /// Whether an IP packet of so many bytes fits. The first question about a way: it finds out whether there
    /// is one.
    #[inline(always)]
    pub(crate) fn fits(&self, length: u32) -> Result<bool, Reason> {
        if length <= self.egress.mtu {
            return Ok(true);
        }
        // An unknown next hop names entry 0, which is never used, or one that was given back.
        if self.egress.ifindex == 0 {
            return Err(Reason::NoNextHop);
        }
        Ok(false)
    }
}

/// Sends a packet of a VIP on its way: one without options, extension headers and fragments.
#[inline(always)]
pub(crate) fn forward_plain(
    ctx: *mut xdp_md,
    tables: Tables,
    headers: &Headers,
    vip_index: u16,
) -> Verdict {
    let leave = || {
        scratch::leave_again(ctx, headers.l3, headers.family.into());
    };
    match try_forward(ctx, tables, headers, vip_index, leave) {
        Ok(verdict) => verdict,
        Err(reason) => {
            leave();
            log::refuse(reason)
        }
    }
}

/// A packet that took an uncommon way to its VIP. Its headers are in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn forward_uncommon(ctx: *mut xdp_md, vip_index: u32) -> u32 {
    let Some(scratch) = scratch::scratch() else {
        return Verdict::of(Reason::Internal).0;
    };
    let headers = &scratch.headers;
    let done = try_forward(ctx, maps::tables(), headers, vip_index as u16, || {});
    settle(done).0
}

/// `leave` sees to it that the headers are in the scratch.
#[inline(always)]
fn try_forward(
    ctx: *mut xdp_md,
    tables: Tables,
    headers: &Headers,
    vip_index: u16,
    leave: impl Fn(),
) -> Result<Verdict, Reason> {
    let vip = tables.vip(vip_index);
    if headers.hops <= 1 {
        trace::vip(vip_index);
        return Ok(icmp::answer(headers, icmp::Answer::TimeExceeded));
    }
    if vip.forward == forward::NAT {
        // All are asked for, so they are at hand.
        scratch::leave(headers);
        return Ok(Verdict::next(Stage::NatRequest, 0, u32::from(vip_index)));
    }
    let choice = choose(tables, vip, vip_index, headers, true)?;
    let way = way(tables, choice.member, vip_index)?;
    let sampled = samples::is_sampled(vip, choice.flow_hash);
    let noted = sampled || headers.first_fragment;
    if noted {
        // Now: as the packet is when it is sent, its headers are not where they were.
        leave();
    }
    let tcp_flags = headers.tcp_flags;
    let first_fragment = headers.first_fragment;
    let (action, bytes) = match send(ctx, headers, vip, &way, choice.flow_hash)? {
        Sending::Sent { action, bytes } => (action, bytes),
        Sending::TooBig { mtu } => {
            return Ok(icmp::answer(headers, icmp::Answer::TooBig(mtu)));
        }
    };
    count_packet(choice.member, choice.marks, tcp_flags, bytes);
    if noted {
        note(vip_index, &choice, sampled, first_fragment, bytes);
    }
    Ok(Verdict::counted(Reason::Forwarded, action))
}

/// What became of a packet that was to be sent to a member.
pub(crate) enum Sending {
    /// It goes, by this action; so many bytes came in.
    Sent { action: u32, bytes: u64 },
    /// It does not fit: the largest IP packet that does, bytes.
    TooBig { mtu: u32 },
}

/// The way to a member, if it takes packets. Whether its next hop is known, [`Way::fits`] tells.
#[inline(always)]
pub(crate) fn way<'a>(tables: Tables, member: u16, vip_index: u16) -> Result<Way<'a>, Reason> {
    if member == lb_common::ring::NO_MEMBER {
        return Err(none_serves(vip_index));
    }
    let entry = tables.member(member);
    // SAFETY: an entry of a mapped array: two words that the controller replaces in one step, the
    // rest constant while a ring names the member.
    let (word, next_hop, entry) = unsafe {
        (
            (&raw const (*entry).control).read_volatile(),
            (&raw const (*entry).next_hop).read_volatile(),
            &*entry,
        )
    };
    if control::state(word) != control::SERVING {
        return Err(Reason::MemberDown);
    }
    Ok(Way {
        member: entry,
        family: control::family(word),
        next_hop,
        egress: tables.egress((next_hop >> 48) as u16),
    })
}

/// Sends the packet to the member as the VIP says (`l2`, `ipip`).
#[inline(always)]
pub(crate) fn send(
    ctx: *mut xdp_md,
    headers: &Headers,
    vip: &Vip,
    way: &Way<'_>,
    flow_hash: u64,
) -> Result<Sending, Reason> {
    let overhead = if vip.forward == forward::IPIP {
        encap::overhead(way.family)
    } else {
        0
    };
    if !way.fits(headers.length + overhead)? {
        let mtu = way.egress.mtu - overhead;
        return Ok(Sending::TooBig { mtu });
    }
    // Before anything is changed: the packet of which the log tells that no interface takes it is whole.
    let action = link::leave_by(ctx, way.egress.ifindex)?;
    let bytes = Packet::of(ctx).bytes();
    if vip.forward == forward::IPIP {
        encap::encapsulate(ctx, headers, way, flow_hash)?;
    } else {
        pass_hop(Packet::of(ctx), headers.l3(), headers.family)?;
        Addresses::new(way.next_hop, way.egress).write(ctx)?;
    }
    Ok(Sending::Sent { action, bytes })
}

/// Takes one hop off the packet's count, as every router does.
#[inline(always)]
pub(crate) fn pass_hop(packet: Packet, l3: usize, family: u8) -> Result<(), Reason> {
    let ip = packet.view::<20>(l3).ok_or(Reason::Internal)?;
    pass_hop_at(ip, 0, family);
    Ok(())
}

/// The same for a packet whose first 20 bytes, at `l3` of the view, are known to be there.
#[inline(always)]
pub(crate) fn pass_hop_at<const LEN: usize>(view: View<LEN>, l3: usize, family: u8) {
    if family == family::V4 {
        view.set(l3 + 8, checksum::after_hop(view.get(l3 + 8)));
    } else {
        view.set(l3 + 7, view.get::<u8>(l3 + 7).wrapping_sub(1));
    }
}

/// Writes down what later packets will ask for. The headers are in the scratch.
#[inline(always)]
fn note(vip_index: u16, choice: &Choice, sampled: bool, first_fragment: bool, bytes: u64) {
    let (vip, member) = (u32::from(vip_index), u32::from(choice.member));
    if sampled {
        samples::sample(vip, member, bytes, choice.flow_hash as u32);
    }
    if first_fragment {
        fragments::remember_first(vip, member, choice.flow_hash);
    }
}

/// Counts a packet that was sent to a member, and that it was forwarded.
#[inline(always)]
pub(crate) fn count_packet(member: u16, marks: Marks, tcp_flags: u8, bytes: u64) {
    count_sent(Reason::Forwarded, member, |counters| {
        counters.packets += 1;
        counters.bytes += bytes;
        marks.count(tcp_flags, counters);
    });
}

/// The protocol number of a packet of `family` inside an outer header.
#[inline(always)]
pub(crate) const fn encapsulated(family: u8) -> u8 {
    if family == family::V4 {
        proto::IPIP
    } else {
        proto::IPV6
    }
}
