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
    /// VIPs whose flows are tracked.
    pub vips: BTreeMap<u16, SharedVip>,
    /// All members of these VIPs.
    pub members: BTreeMap<MemberIndex, (u16, Identity)>,
}

/// A VIP whose flows other nodes can take over.
#[derive(Clone, Debug)]
pub struct SharedVip {
    pub service: ServiceId,
    pub ring: Arc<RingState>,
    /// Of [`lb_common::vip::affinity`].
    pub affinity: u8,
    /// Whether its members may have spilled flows.
    pub may_spill: bool,
}

/// The past of a ring, as another node remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingPast {
    pub service: ServiceId,
    /// Number of its slots, and what selects one: a ring with others is another one.
    pub slots: u32,
    pub affinity: u32,
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
        let shared = |vip: &VipState| SharedVip {
            service: vip.service,
            ring: Arc::clone(&vip.ring),
            affinity: vip.entry.affinity,
            may_spill: matches!(vip.entry.track, track::ON_SPILL | track::ALWAYS),
        };
        let vips: BTreeMap<_, _> = vips.map(|(index, vip)| (*index, shared(vip))).collect();
        let members = self.state.members.iter();
        let members = members.filter(|(_, member)| vips.contains_key(&member.vip));
        Directory {
            members: members
                .map(|(index, member)| (*index, (member.vip, member.identity)))
                .collect(),
            vips,
        }
    }

    /// A member as all nodes of a fleet know it.
    pub fn shared_member(&self, member: MemberIndex) -> Option<(ServiceId, Identity)> {
        let member = self.state.members.get(&member)?;
        let vip = self.state.vips.get(&member.vip)?;
        Some((vip.service, member.identity))
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
        // What is over on one node may be in transition on another.
        let moving = pasts.iter().map(|past| (past, &past.moving));
        // A running node has no flows of a transition that has ended elsewhere.
        let settling = pasts.iter().filter(|_| is_fresh);
        let settling = settling.map(|past| (past, &past.settling));
        let mut learnt = 0;
        for (past, slots) in moving.chain(settling) {
            learnt += next.learn(past, slots, is_fresh, now_s);
        }
        if next.vips.values().any(|vip| vip.dirty) {
            self.commit(dataplane, next)?;
        }
        Ok(learnt)
    }
}

impl State {
    fn learn(
        &mut self,
        past: &RingPast,
        slots: &[(u32, Option<Identity>)],
        is_fresh: bool,
        now_s: u32,
    ) -> u32 {
        let Some(index) = self.vip_of(&past.service) else {
            return 0;
        };
        let members: BTreeMap<Identity, MemberIndex> = self
            .members_of(index)
            .map(|(member, state)| (state.identity, member))
            .collect();
        let is_alike = |vip: &VipState| {
            is_shared(vip)
                && vip.ring.size() == past.slots
                && u32::from(vip.entry.affinity) == past.affinity
        };
        let Some(vip) = self.vips.get_mut(&index).filter(|vip| is_alike(vip)) else {
            return 0;
        };
        let slots = slots.iter().map(|(slot, previous)| {
            let member = previous.and_then(|identity| members.get(&identity).copied());
            (*slot, member)
        });
        let slots: Vec<_> = slots.collect();
        let learnt = Arc::make_mut(&mut vip.ring).learn(slots, !is_fresh, now_s);
        vip.dirty |= learnt > 0;
        vip.forming &= learnt == 0;
        learnt
    }
}

#[cfg(test)]
mod tests {
    use lb_model::config::{self, Protocol};

    use super::*;
    use crate::reconciler::{Routes, plan::Plan, rings::RingBuilds};

    const NOW_S: u32 = 100;

    /// A VIP with checks, and backends with these states.
    fn state(before: &State, vip_keys: &str, backends: [&str; 3]) -> State {
        let mut text = format!(
            "[node]\ninterfaces = [\"eth0\"]\nhash_seed = \"000102030405060708090a0b0c0d0e0f\"\n\
             [[vip]]\nname = \"v\"\naddress = \"203.0.113.1\"\n\
             port = 80\nprotocol = \"tcp\"\nring_size = 251\nhealth = {{ kind = \"tcp\" }}\n{vip_keys}\n"
        );
        for (number, state) in (1..).zip(backends) {
            text += &format!(
                "[[vip.backend]]\nname = \"b{number}\"\naddress = \"10.0.0.{number}\"\n\
                 state = \"{state}\"\n"
            );
        }
        let config = config::parse("test.toml", &text).unwrap_or_else(|error| panic!("{error}"));
        let routes = Routes::new();
        let plan = Plan::new(before, &config, &routes).presume_up();
        let plan = plan.configure().unwrap();
        plan.finish(NOW_S, &mut RingBuilds::default()).unwrap().0
    }

    fn service() -> ServiceId {
        ServiceId {
            address: [203, 0, 113, 1].into(),
            port: 80,
            protocol: Protocol::Tcp,
        }
    }

    fn identity(number: u8) -> Identity {
        Identity {
            address: [10, 0, 0, number].into(),
            port: 80,
        }
    }

    fn moving(slots: &[(u32, u8)]) -> RingPast {
        let slots = slots.iter();
        let slots = slots.map(|(slot, backend)| (*slot, Some(identity(*backend))));
        RingPast {
            service: service(),
            slots: 251,
            affinity: 0,
            moving: slots.collect(),
            settling: Vec::new(),
        }
    }

    const UP: [&str; 3] = ["up"; 3];

    /// Learns all, as a node with new tables does if it `is_fresh`.
    fn learn(state: &mut State, past: &RingPast, is_fresh: bool) -> u32 {
        let moving = state.learn(past, &past.moving, is_fresh, NOW_S);
        moving + state.learn(past, &past.settling, is_fresh, NOW_S)
    }

    fn clean(vip_keys: &str) -> State {
        let mut state = state(&State::default(), vip_keys, UP);
        for member in state.members.of_vip(0).collect::<Vec<_>>() {
            state.members.get_mut(member).unwrap().proven = true;
        }
        state.end_forming(|_| Ok(0)).unwrap();
        state
    }

    /// Previous members, by their last address bytes; 0: none.
    fn previous(state: &State, slot: u32) -> u8 {
        let Some((_, member, _)) = state.vips[&0].ring.past().find(|it| it.0 == slot) else {
            return 0;
        };
        match state.members.get(&member).unwrap().identity.address {
            std::net::IpAddr::V4(address) => address.octets()[3],
            std::net::IpAddr::V6(_) => unreachable!(),
        }
    }

    fn current(state: &State, slot: usize) -> u8 {
        let member = state.vips[&0].ring.members()[slot];
        state
            .members
            .get(&member)
            .unwrap()
            .identity
            .address
            .to_string()
            .as_bytes()[7]
            - b'0'
    }

    #[test]
    fn a_node_learns_by_identity() {
        let l2 = "forward = \"l2\"";
        let mut past = moving(&[(3, 2), (9, 7)]);
        past.settling = vec![(20, Some(identity(3)))];
        let mut fresh = clean(l2);
        assert_eq!(learn(&mut fresh, &past, true), 3);
        // A backend that is not known here: the slot is looked up.
        let own = current(&fresh, 9);
        assert_eq!([3, 9, 20].map(|slot| previous(&fresh, slot)), [2, own, 3]);
        assert!(fresh.vips[&0].dirty);
        let mut running = clean(l2);
        assert_eq!(learn(&mut running, &past, false), 3);
        for slot in [3, 9, 20] {
            assert_eq!(previous(&running, slot), current(&running, slot as usize));
        }
        // Sessions of `nat` are known to one node only, and other VIPs are not known here.
        let mut nat = clean("forward = \"nat\"");
        assert_eq!(learn(&mut nat, &past, true), 0);
        for edit in [(|past| past.slots = 509) as fn(&mut RingPast), |past| {
            past.affinity = 1;
        }] {
            let mut other = past.clone();
            edit(&mut other);
            assert_eq!(learn(&mut clean(l2), &other, true), 0, "another ring");
        }
        past.service.port = 81;
        assert_eq!(learn(&mut running, &past, true), 0);
    }

    #[test]
    fn a_new_ring_is_clean_once_its_backends_are_judged() {
        let mut state = state(&State::default(), "forward = \"l2\"", ["up", "up", "drain"]);
        assert!(state.vips[&0].forming);
        // As if a verdict had changed it.
        let ring = state.vips[&0].ring.members().to_vec();
        let turned: Vec<_> = ring.iter().map(|member| 1 - member).collect();
        let change = |state: &mut State| {
            let vip = state.vips.get_mut(&0).unwrap();
            Arc::make_mut(&mut vip.ring).change(&turned, 1).unwrap();
        };
        change(&mut state);
        let in_transition = |state: &State| state.vips[&0].ring.counts().in_transition;
        state.end_forming(|_| Ok(0)).unwrap();
        assert_eq!((in_transition(&state), state.vips[&0].forming), (251, true));
        let judge = |state: &mut State| {
            for member in [0, 1] {
                state.members.get_mut(member).unwrap().proven = true;
            }
        };
        let mut used = state.clone();
        judge(&mut state);
        state.end_forming(|_| Ok(0)).unwrap();
        assert_eq!((in_transition(&state), state.vips[&0].forming), (0, false));
        assert!(state.vips[&0].dirty);
        // A later change is a transition.
        let vip = state.vips.get_mut(&0).unwrap();
        Arc::make_mut(&mut vip.ring).change(&ring, 2).unwrap();
        state.end_forming(|_| Ok(0)).unwrap();
        assert_eq!(in_transition(&state), 251);
        // Packets have come: then it is no longer new.
        used.end_forming(|member| Ok(u64::from(member == 1)))
            .unwrap();
        judge(&mut used);
        used.end_forming(|_| Ok(0)).unwrap();
        assert_eq!((in_transition(&used), used.vips[&0].forming), (251, false));
    }
}
