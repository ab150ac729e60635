//! Bounded load: whether the slot's member takes a new flow, and which one gets it otherwise.

use lb_common::{
    bound::{BY_MEMBER, BY_SLOT, ONE_FLOW, jump, places_of, room, second},
    hash::slot_of,
    limit::units,
    ring::{MemberIndex, NO_MEMBER, Slot},
    track::{Cell, Place},
    vip::{Vip, forward, limited},
};

use super::walk::{Found, Walker};
use crate::{Bounds, RingName};

/// On how many CPUs a member is full, of those that have counted new flows of its VIP lately: a flow is
/// judged by the CPU that receives it.
#[derive(Clone, Copy)]
struct Fullness {
    full: usize,
    cpus: usize,
    /// Its capacity is used up, which all CPUs share.
    used_up: bool,
}

impl Fullness {
    /// Whether the member can take another flow on any CPU, as one of [`room`].
    const fn room(self) -> u32 {
        if self.used_up {
            room::OVER_CAPACITY
        } else if self.cpus > 0 && self.full == self.cpus {
            room::OVER_FACTOR
        } else {
            room::FREE
        }
    }

    const fn is_everywhere(self) -> bool {
        self.room() != room::FREE
    }
}

impl Walker<'_> {
    /// The member of a new flow if that of its slot is full on all CPUs.
    pub(super) fn spill(
        &mut self,
        vip: &Vip,
        slot: Slot,
        hashes: Hashes,
    ) -> Found<Option<MemberIndex>> {
        let (Some(bounds), Some(index)) = (self.bounds(vip), self.vip) else {
            return Ok(None);
        };
        if slot.current == NO_MEMBER {
            return Ok(None);
        }
        let fullness = self.fullness(bounds, index, slot.current)?;
        let label = self.member_label(slot.current);
        if fullness.full == 0 && !fullness.used_up {
            self.note("bound", format!("{label} has room for another new flow"));
            return Ok(None);
        }
        let full = if fullness.used_up {
            format!("{label} has as many new flows as its capacity allows")
        } else {
            let Fullness { full, cpus, .. } = fullness;
            format!(
                "{label} has more than its bound allows on {full} of the {cpus} CPUs with new flows"
            )
        };
        let has_room = vip.mode() == forward::NAT || self.has_room(bounds, hashes.flow);
        let Some(member) = self.candidate(vip, bounds, index, slot.current, hashes)? else {
            self.note(
                "bound",
                format!("{full}, but so have all other candidates: it stays"),
            );
            return Ok(None);
        };
        let other = self.member_label(member);
        if !has_room {
            self.note(
                "bound",
                format!("{full}, but the tracking table has no room for {other}: it stays"),
            );
            return Ok(None);
        }
        if !fullness.is_everywhere() {
            self.note(
                "bound",
                format!("{full}: received there, the flow goes to {other}"),
            );
            return Ok(None);
        }
        self.note(
            "bound",
            format!("{full}: a new flow, unless the SYN is repeated, goes to {other}"),
        );
        Ok(Some(member))
    }

    /// The member of a SYN whose flow has a cell for a closed connection with another member.
    pub(super) fn reopen(
        &mut self,
        vip: &Vip,
        slot: Slot,
        cell: Cell,
    ) -> Found<Option<MemberIndex>> {
        let (Some(bounds), Some(index)) = (self.bounds(vip), self.vip) else {
            return Ok(None);
        };
        let is_settled = slot
            .previous
            .is_none_or(|previous| previous == slot.current);
        if !is_settled || cell.member == slot.current {
            return Ok(None);
        }
        let stays = bounds.read(cell.member)?.share != 0
            && self.fullness(bounds, index, slot.current)?.room()
                > self.fullness(bounds, index, cell.member)?.room();
        Ok(Some(if stays { cell.member } else { slot.current }))
    }

    /// Whether the tables have room for a flow that is spilled, or opened in a transition.
    pub(super) fn has_room(&self, bounds: &Bounds, flow_hash: u64) -> bool {
        let (tables, place) = (&self.sources.tables, Place::of(flow_hash));
        let is_spare = |now_s| tables.tracking.has_spare(place, now_s as u16);
        tables.now_s.is_none_or(is_spare) && (!self.opens || bounds.can_note(place, tables.now_ns))
    }

    pub(super) fn bounds(&self, vip: &Vip) -> Option<&Bounds> {
        let bounds = self.sources.tables.bounds;
        bounds.filter(|_| vip.is_limited(limited::BOUND))
    }

    fn candidate(
        &self,
        vip: &Vip,
        bounds: &Bounds,
        index: u16,
        own: MemberIndex,
        hashes: Hashes,
    ) -> Found<Option<MemberIndex>> {
        let Some(ring) = RingName::unpack(vip.ring) else {
            return Ok(None);
        };
        let (size, jump) = (u64::from(ring.size), jump(hashes.flow, ring.size));
        let slot = u64::from(slot_of(hashes.slot, ring.size));
        let mut members = Vec::new();
        for k in 1..=u64::from(BY_SLOT) {
            let at = (slot + k * u64::from(jump)) % size;
            let slot = self.sources.tables.rings.slot(ring, at as u32)?;
            members.push(slot.current);
        }
        let table = bounds.candidates(index)?;
        if table.places() > 1 {
            let (first, step) = places_of(jump, table.places());
            let places = (1..=BY_MEMBER).map(|k| (first + k * step) % table.places());
            members.extend(places.map(|place| table.member(place)));
        }
        let mut over_factor = None;
        for member in members {
            if member == own || !self.serves(member)? {
                continue;
            }
            match self.fullness(bounds, index, member)?.room() {
                room::FREE => return Ok(Some(member)),
                room::OVER_FACTOR if over_factor.is_none() => over_factor = Some(member),
                _ => {}
            }
        }
        let room = self.fullness(bounds, index, own)?.room();
        Ok(over_factor.filter(|_| room == room::OVER_CAPACITY))
    }

    fn fullness(&self, bounds: &Bounds, vip: u16, member: MemberIndex) -> Found<Fullness> {
        let now_ns = self.sources.tables.now_ns;
        let now = second(now_ns);
        let bound = bounds.read(member)?;
        let cell = bounds.capacity_cell(member)?;
        let used_up = bound.capacity.is_set()
            && bound.capacity.debt(cell, units(now_ns)) > bound.capacity.room;
        let cpus = bounds.member_loads(member).zip(bounds.vip_loads(vip));
        let judged: Vec<bool> = cpus
            .filter(|(_, vip)| vip.recent.now(now) > 0)
            .map(|(member, vip)| {
                let (count, all) = (member.recent.now(now), vip.recent.now(now) + ONE_FLOW);
                bound.is_exceeded(count, all, member.recent.spills(now))
            })
            .collect();
        Ok(Fullness {
            full: judged.iter().filter(|is_full| **is_full).count(),
            cpus: judged.len(),
            used_up,
        })
    }
}

/// The hashes of a packet: of the whole flow, and the one that selects the slot.
#[derive(Clone, Copy)]
pub(super) struct Hashes {
    pub(super) flow: u64,
    pub(super) slot: u64,
}
