//! Member selection: the ring and, for slots that changed, the tracking table.

use lb_common::{
    hash::slot_of,
    member::control,
    reason::Reason,
    ring::{MAX_MEMBERS, MemberIndex, NO_MEMBER, Slot},
    track::{Cell, Newcomer, Place},
    vip::{Vip, affinity, track},
};

use super::{
    bound::Hashes,
    walk::{Found, Stop, Walker},
};
use crate::RingName;
use lb_model::config::Protocol;

/// A member, and the hash of the whole flow.
#[derive(Clone, Copy)]
pub(super) struct Choice {
    pub(super) member: MemberIndex,
    pub(super) flow_hash: u64,
}

impl Walker<'_> {
    /// Finds the packet's slot; returns it with the hashes of the packet.
    pub(super) fn find_slot(&mut self, vip: &Vip) -> Found<(Slot, Hashes)> {
        let flow_hash = self.flow.flow_hash(&vip.hash_key);
        let (hash, of_what) = if vip.affinity == affinity::SOURCE {
            let hash = self.flow.source_hash(&vip.hash_key);
            (hash, "source address only")
        } else {
            (flow_hash, "5-tuple")
        };
        self.note(
            "hash",
            format!("{hash:#018x} ({of_what}, keyed for this VIP)"),
        );
        let Some(ring) = RingName::unpack(vip.ring) else {
            self.note("slot", "the VIP has no ring: no eligible backends");
            return Err(Stop::Reason(Reason::NoMember));
        };
        let number = slot_of(hash, ring.size);
        let slot = self.sources.tables.rings.slot(ring, number)?;
        self.slot = Some(number);
        let label = self.member_label(slot.current);
        self.note("slot", format!("{number} of {}: {label}", ring.size));
        let hashes = Hashes {
            flow: flow_hash,
            slot: hash,
        };
        Ok((slot, hashes))
    }

    /// Whether the ring has another member that serves for new flows than this one.
    pub(super) fn has_moved(&mut self, vip: &Vip, member: MemberIndex) -> Found<bool> {
        let Some(ring) = RingName::unpack(vip.ring) else {
            return Ok(false);
        };
        let hash = if vip.affinity == affinity::SOURCE {
            self.flow.source_hash(&vip.hash_key)
        } else {
            self.flow.flow_hash(&vip.hash_key)
        };
        let slot = (self.sources.tables.rings).slot(ring, slot_of(hash, ring.size))?;
        Ok(slot.current != member && slot.current != NO_MEMBER && self.serves(slot.current)?)
    }

    /// Selects the member for a packet of a VIP that does not use `nat`.
    pub(super) fn choose(&mut self, vip: &Vip) -> Found<Choice> {
        let (slot, hashes) = self.find_slot(vip)?;
        let spilled = self.has_spilled(vip, slot.current)?;
        self.note_transition(vip, slot, spilled);
        let is_known = self.sources.tables.tracking.find(hashes.flow).is_some();
        let mut spill = None;
        if self.opens && !is_known {
            spill = self.spill(vip, slot, hashes)?;
        }
        let looks_up = slot.previous.is_some() || spilled || vip.track == track::ALWAYS;
        let member = match spill {
            Some(member) => member,
            None if looks_up && vip.track != track::NEVER => {
                self.look_up_flow(vip, slot, hashes)?
            }
            None => slot.current,
        };
        Ok(Choice {
            member,
            flow_hash: hashes.flow,
        })
    }

    /// Whether packets of the member's slots are looked up because it has spilled flows.
    fn has_spilled(&self, vip: &Vip, member: MemberIndex) -> Found<bool> {
        match self.sources.tables.bounds {
            Some(bounds) if vip.track == track::ON_SPILL && member != NO_MEMBER => {
                Ok(bounds.has_spilled(member)?)
            }
            _ => Ok(false),
        }
    }

    fn note_transition(&mut self, vip: &Vip, slot: Slot, spilled: bool) {
        let state = match slot.previous {
            None => "the slot is clean".to_owned(),
            Some(previous) if previous == slot.current => {
                "the slot's transition has ended, but its flows may still have entries".to_owned()
            }
            Some(previous) => {
                let before = self.member_label(previous);
                format!("the slot is in transition from {before}")
            }
        };
        let then = match (vip.track, slot.previous) {
            (track::NEVER, _) => "flows are never tracked: the ring alone decides",
            (track::ALWAYS, _) => "every flow is tracked: look it up",
            (_, None) if spilled => {
                "its backend has spilled flows: look the flow up in the tracking table"
            }
            (_, None) => "the ring alone decides",
            (_, Some(_)) => "look the flow up in the tracking table",
        };
        self.note("transition", format!("{state}; {then}"));
    }

    fn look_up_flow(&mut self, vip: &Vip, slot: Slot, hashes: Hashes) -> Found<MemberIndex> {
        let flow_hash = hashes.flow;
        if let Some(cell) = self.sources.tables.tracking.find(flow_hash) {
            let label = self.member_label(cell.member);
            if cell.unproven && self.serves(cell.member)? {
                return Ok(self.note_unproven(slot, cell));
            }
            if self.opens
                && cell.closed
                && self.serves(cell.member)?
                && let Some(member) = self.reopen(vip, slot, cell)?
            {
                let to = self.member_label(member);
                let text = format!("the connection with {label} is closed, a new one goes to {to}");
                self.note("tracking", text);
                return Ok(member);
            }
            let text = if self.opens && cell.closed {
                format!("entry for {label} ignored: the connection is closed")
            } else if self.serves(cell.member)? {
                self.note("tracking", format!("entry found: {label}"));
                return Ok(cell.member);
            } else {
                format!("entry for {label} ignored: the backend is down or disabled")
            };
            self.note("tracking", text);
        } else {
            self.note("tracking", "no entry");
        }
        // Of a packet that opens a connection, the limits were asked already.
        if let (true, false, Some(index)) = (vip.track == track::ALWAYS, self.opens, self.vip)
            && self.flow.protocol == Protocol::Udp
        {
            self.limit_flow(index, vip)?;
            if let Some(member) = self.spill(vip, slot, hashes)? {
                return Ok(member);
            }
        }
        let previous = slot.previous.unwrap_or(slot.current);
        let is_udp = self.flow.protocol == Protocol::Udp;
        let is_new = self.opens || vip.track == track::ALWAYS && is_udp;
        let (member, why) = if is_new && self.lacks_room(vip, slot, flow_hash)? {
            let why = "new flow, but the tracking table has no room for it: uses the slot's previous \
                       backend";
            (previous, why)
        } else if is_new {
            (slot.current, "new flow, uses the slot's backend")
        } else if self.serves(previous)? {
            if previous == slot.current {
                (previous, "existing flow, uses the slot's unchanged backend")
            } else {
                let why = "existing flow, stays on the slot's previous backend";
                (previous, why)
            }
        } else {
            let why = "existing flow whose previous backend is down, uses the slot's backend";
            (slot.current, why)
        };
        let label = self.member_label(member);
        self.note("tracking", format!("{why}: {label}"));
        Ok(member)
    }

    /// Without the packet's sequence number, a packet counts as one that continues the SYN.
    fn note_unproven(&mut self, slot: Slot, cell: Cell) -> MemberIndex {
        let (known, current) = (
            self.member_label(cell.member),
            self.member_label(slot.current),
        );
        let (member, text) = if cell.confirmed {
            let text = format!(
                "entry found: of a connection with {known} that is closed, and of a SYN that began one with \
                 {current}: the packet's sequence number tells which it belongs to"
            );
            (slot.current, text)
        } else {
            let text = format!(
                "entry found: of a SYN that went to {known}; only packets that continue its sequence go there"
            );
            (cell.member, text)
        };
        self.note("tracking", text);
        member
    }

    /// Whether a new flow can't be entered into the table, and so uses the member that its next packets
    /// will get.
    fn lacks_room(&self, vip: &Vip, slot: Slot, flow_hash: u64) -> Found<bool> {
        let previous = slot.previous.unwrap_or(slot.current);
        // Every packet of a UDP flow without an entry is like its first.
        if !self.opens || previous == slot.current || !self.serves(previous)? {
            return Ok(false);
        }
        if let Some(bounds) = self.bounds(vip) {
            return Ok(!self.has_room(bounds, flow_hash));
        }
        let (Some(now_s), Some(vip)) = (self.sources.tables.now_s, self.vip) else {
            return Ok(false);
        };
        let newcomer = Newcomer {
            place: Place::of(flow_hash),
            vip,
            redundant: false,
            now_s: now_s as u16,
        };
        let members = &self.sources.tables.members;
        let vip_of = |member| members.read(member).map_or(vip, |member| member.vip);
        Ok(!self.sources.tables.tracking.has_room(newcomer, vip_of))
    }

    /// Whether a member accepts packets of its flows.
    pub(super) fn serves(&self, member: MemberIndex) -> Found<bool> {
        if member == NO_MEMBER || u32::from(member) >= MAX_MEMBERS {
            return Ok(false);
        }
        let word = self.sources.tables.members.read(member)?.control;
        Ok(control::state(word) == control::SERVING)
    }
}
