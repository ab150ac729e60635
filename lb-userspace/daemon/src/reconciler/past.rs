//! What the nodes of a fleet tell each other of rings: which slots are not clean, and their previous members.

use std::{collections::BTreeMap, sync::Arc};

use lb_common::{
    ring::MemberIndex,
    vip::{forward, track},
};

use super::{
    Reconciler, ServiceId,
    error::Result,
    state::{State, VipState},
};
use lb_dataplane::Dataplane;
use lb_model::{ring::Identity, transition::RingState};

/// What the tables hold, by the indexes of this node, for those that read the tracking table.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    /// VIPs whose flows are tracked, with their rings.
    pub vips: BTreeMap<u16, (ServiceId, Arc<RingState>)>,
    /// All members of these VIPs.
    pub members: BTreeMap<MemberIndex, (u16, Identity)>,
}

/// The past of a ring, as another node remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingPast {
    pub service: ServiceId,
    /// Slots in transition there, with their previous members.
    pub moving: Vec<(u32, Option<Identity>)>,
    /// Slots whose transition has ended there.
    pub settling: Vec<(u32, Option<Identity>)>,
}

/// What this node has seen of its own flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Experience {
    /// It has forwarded flows: those of its clean slots have no cells.
    Forwards,
    /// Its tables are new.
    Fresh,
}

/// Whether other nodes can take over flows of a VIP.
fn is_shared(vip: &VipState) -> bool {
    vip.entry.mode() != forward::NAT && vip.entry.track != track::NEVER
}

impl Reconciler {
    /// Counts the changes of the state.
    pub const fn version(&self) -> u64 {
        self.state.version()
    }

    pub fn directory(&self) -> Directory {
        let vips = self.state.vips.iter().filter(|(_, vip)| is_shared(vip));
        let vips: BTreeMap<_, _> = vips
            .map(|(index, vip)| (*index, (vip.service, Arc::clone(&vip.ring))))
            .collect();
        let members = self.state.members.iter();
        let members = members.filter(|(_, member)| vips.contains_key(&member.vip));
        Directory {
            members: members
                .map(|(index, member)| (*index, (member.vip, member.identity)))
                .collect(),
            vips,
        }
    }

    /// Learns the past of rings from other nodes; returns the number of slots that are no longer clean.
    ///
    /// # Errors
    ///
    /// The kernel rejected a write; the tables are unchanged.
    pub fn learn(
        &mut self,
        dataplane: &mut Dataplane,
        pasts: &[RingPast],
        experience: Experience,
    ) -> Result<u32> {
        let now_s = dataplane.now_s()? as u32;
        let mut next = State::clone(&self.state);
        let is_fresh = experience == Experience::Fresh;
        let mut learnt = 0;
        for past in pasts {
            learnt += next.learn(past, is_fresh, now_s);
        }
        if next.vips.values().any(|vip| vip.dirty) {
            self.commit(dataplane, next)?;
        }
        Ok(learnt)
    }
}

impl State {
    fn learn(&mut self, past: &RingPast, is_fresh: bool, now_s: u32) -> u32 {
        let Some(index) = self.vip_of(&past.service) else {
            return 0;
        };
        let members: BTreeMap<Identity, MemberIndex> = self
            .members_of(index)
            .map(|(member, state)| (state.identity, member))
            .collect();
        let Some(vip) = self.vips.get_mut(&index).filter(|vip| is_shared(vip)) else {
            return 0;
        };
        // A running node has no flows of a transition that has ended elsewhere.
        let settling = past.settling.iter().filter(|_| is_fresh);
        let slots = past.moving.iter().chain(settling);
        let slots = slots.map(|(slot, previous)| {
            let member = previous.and_then(|identity| members.get(&identity).copied());
            (*slot, member)
        });
        let slots: Vec<_> = slots.collect();
        let learnt = Arc::make_mut(&mut vip.ring).learn(slots, !is_fresh, now_s);
        vip.dirty |= learnt > 0;
        learnt
    }
}
