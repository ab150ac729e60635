//! Routes: where the packets of a member go.

use lb_common::{
    member::{Egress, Member, control},
    reason::Reason,
    ring::{MemberIndex, NO_MEMBER},
};

use crate::{counters::count_vip, maps::Tables, trace};

/// Where a member's packets go now.
#[derive(Clone, Copy)]
pub(crate) struct Route<'a> {
    pub(crate) member: &'a Member,
    pub(crate) family: u8,
    pub(crate) next_hop: u64,
    /// One that is not in use has no interface, and nothing fits through it.
    pub(crate) egress: &'a Egress,
}

impl Route<'_> {
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

/// The way to a member, if it takes packets. Whether its next hop is known, [`Route::fits`] tells.
#[inline(always)]
pub(crate) fn route_to<'a>(
    tables: Tables,
    member: u16,
    vip_index: u16,
) -> Result<Route<'a>, Reason> {
    if member == NO_MEMBER {
        return Err(no_member(vip_index));
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
    Ok(Route {
        member: entry,
        family: control::family(word),
        next_hop,
        egress: tables.egress((next_hop >> 48) as u16),
    })
}

/// Whether a member takes the packets of its flows.
#[inline(always)]
pub(crate) fn is_serving(tables: Tables, member: MemberIndex) -> bool {
    if member == NO_MEMBER {
        return false;
    }
    // SAFETY: a word of a mapped array that the controller replaces in one step.
    let word = unsafe { (&raw const (*tables.member(member)).control).read_volatile() };
    control::state(word) == control::SERVING
}

/// Counts a packet that no member can take.
#[inline(always)]
pub(crate) fn no_member(vip: u16) -> Reason {
    trace::vip(vip);
    count_vip(vip, |counters| counters.no_member += 1);
    Reason::NoMember
}
