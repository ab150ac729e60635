//! Routes: where the packets of a member are sent.

use lb_common::{
    member::{Egress, Member, control},
    reason::Reason,
    ring::{MemberIndex, NO_MEMBER},
};

use crate::{counters::count_vip, tables, trace};

/// The current route to a member.
#[derive(Clone, Copy)]
pub(crate) struct Route<'a> {
    pub(crate) index: MemberIndex,
    pub(crate) member: &'a Member,
    pub(crate) family: u8,
    pub(crate) next_hop: u64,
    /// An unused entry has no interface, and no packet fits.
    pub(crate) egress: &'a Egress,
}

impl Route<'_> {
    /// Whether an IP packet of `length` bytes fits. Must be checked first: it fails if there is no
    /// next hop.
    #[inline(always)]
    pub(crate) fn fits(&self, length: u32) -> Result<bool, Reason> {
        if length <= self.egress.mtu {
            return Ok(true);
        }
        core::hint::cold_path();
        // An unknown next hop refers to entry 0, which is never used, or to a released one.
        if self.egress.ifindex == 0 {
            return Err(Reason::NoNextHop);
        }
        Ok(false)
    }
}

/// Returns the route to a member that is serving. [`Route::fits`] tells whether its next hop is
/// known.
#[inline(always)]
pub(crate) fn route_to<'a>(member: u16, vip_index: u16) -> Result<Route<'a>, Reason> {
    if member == NO_MEMBER {
        core::hint::cold_path();
        return Err(no_member(vip_index));
    }
    let entry = tables::member(member);
    // SAFETY: an entry of a mapped array. The controller stores the two words atomically; the rest
    // is constant while a ring refers to the member.
    let (word, next_hop, entry) = unsafe {
        (
            (&raw const (*entry).control).read_volatile(),
            (&raw const (*entry).next_hop).read_volatile(),
            &*entry,
        )
    };
    if control::state(word) != control::SERVING {
        core::hint::cold_path();
        return Err(Reason::MemberDown);
    }
    Ok(Route {
        index: member,
        member: entry,
        family: control::family(word),
        next_hop,
        egress: tables::egress((next_hop >> 48) as u16),
    })
}

/// Whether a member receives the packets of its flows.
#[inline(always)]
pub(crate) fn is_serving(member: MemberIndex) -> bool {
    if member == NO_MEMBER {
        return false;
    }
    // SAFETY: a word of a mapped array, stored atomically by the controller.
    let word = unsafe { (&raw const (*tables::member(member)).control).read_volatile() };
    control::state(word) == control::SERVING
}

/// Counts a packet that no member can take.
#[inline(always)]
pub(crate) fn no_member(vip: u16) -> Reason {
    trace::vip(vip);
    count_vip(vip, |counters| counters.no_member += 1);
    Reason::NoMember
}
