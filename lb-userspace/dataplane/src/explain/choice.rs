//! Which member gets the packet: the ring, and for slots that changed, the tracking table.

use lb_common::{
    hash::slot_of,
    member::control,
    reason::Reason,
    ring::{MAX_MEMBERS, MemberIndex, NO_MEMBER, Slot},
    vip::{Vip, affinity, track},
};

use super::walk::{Step, Stop, Walker};
use crate::RingName;
use lb_model::config::Protocol;

/// A member, and the hash of the whole flow.
#[derive(Clone, Copy)]
pub(super) struct Choice {
    pub(super) member: MemberIndex,
    pub(super) flow_hash: u64,
}

impl Walker<'_> {
    /// The slot that the packet falls into, and the hash of the whole flow.
    pub(super) fn find_slot(&mut self, vip: &Vip) -> Step<(Slot, u64)> {
        let flow_hash = self.flow.flow_hash(&vip.hash_key);
        let (hash, of_what) = if vip.affinity == affinity::SOURCE {
            let hash = self.flow.source_hash(&vip.hash_key);
            (hash, "the source address alone")
        } else {
            (flow_hash, "addresses and ports")
        };
        self.note(
            "hash",
            format!("{hash:#018x}, of {of_what} under the VIP's key"),
        );
        let Some(ring) = RingName::unpack(vip.ring) else {
            self.note("slot", "the VIP has no ring: nobody serves it");
            return Err(Stop::Reason(Reason::NoMember));
        };
        let number = slot_of(hash, ring.size);
        let slot = self.sources.tables.rings.slot(ring, number)?;
        self.slot = Some(number);
        let who = self.member_label(slot.current);
        self.note("slot", format!("{number} of {}: {who}", ring.size));
        Ok((slot, flow_hash))
    }

    /// The member for a packet of a VIP without `nat`.
    pub(super) fn choose(&mut self, vip: &Vip) -> Step<Choice> {
        let (slot, flow_hash) = self.find_slot(vip)?;
        self.note_transition(vip, slot);
        let looks_up = slot.previous.is_some() || vip.track == track::ALWAYS;
        let member = if looks_up && vip.track != track::NEVER {
            self.ask_tracking(vip, slot, flow_hash)?
        } else {
            slot.current
        };
        Ok(Choice { member, flow_hash })
    }

    fn note_transition(&mut self, vip: &Vip, slot: Slot) {
        let state = match slot.previous {
            None => "the slot is clean".to_owned(),
            Some(previous) if previous == slot.current => {
                "the slot's transition ended; flows of that time have entries".to_owned()
            }
            Some(previous) => {
                let before = self.member_label(previous);
                format!("the slot is in transition: it was {before}'s before")
            }
        };
        let then = match (vip.track, slot.previous) {
            (track::NEVER, _) => "flows are never tracked, so the ring alone decides",
            (track::ALWAYS, _) => "every flow is tracked, so the tracking table is asked",
            (_, None) => "the ring alone decides",
            (_, Some(_)) => "the tracking table is asked",
        };
        self.note("transition", format!("{state}; {then}"));
    }

    fn ask_tracking(&mut self, vip: &Vip, slot: Slot, flow_hash: u64) -> Step<MemberIndex> {
        if let Some(cell) = self.sources.tables.tracking.find(flow_hash) {
            let who = self.member_label(cell.member);
            let text = if self.opens && cell.closed {
                format!("the flow has an entry for {who}, but was closed: forgotten")
            } else if self.serves(cell.member)? {
                self.note("tracking", format!("the flow has an entry: {who}"));
                return Ok(cell.member);
            } else {
                format!("the flow has an entry for {who}, who takes no packets: forgotten")
            };
            self.note("tracking", text);
        } else {
            self.note("tracking", "the flow has no entry");
        }
        let previous = slot.previous.unwrap_or(slot.current);
        let is_new =
            self.opens || vip.track == track::ALWAYS && self.flow.protocol == Protocol::Udp;
        let (member, why) = if is_new {
            (slot.current, "a new flow goes to the slot's member")
        } else if self.serves(previous)? {
            if previous == slot.current {
                (previous, "it belongs to the slot's member, as before")
            } else {
                let why = "an older flow stays with the member that the slot had before";
                (previous, why)
            }
        } else {
            let why = "an older flow whose member takes no packets goes to the slot's member";
            (slot.current, why)
        };
        let who = self.member_label(member);
        self.note("tracking", format!("{why}: {who}"));
        Ok(member)
    }

    /// Whether a member takes the packets of its flows.
    pub(super) fn serves(&self, member: MemberIndex) -> Step<bool> {
        if member == NO_MEMBER || u32::from(member) >= MAX_MEMBERS {
            return Ok(false);
        }
        let word = self.sources.tables.members.read(member)?.control;
        Ok(control::state(word) == control::SERVING)
    }
}
