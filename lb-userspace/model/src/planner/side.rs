//! The planner's input from the controller: rings, members and traffic.

use std::net::IpAddr;

use lb_common::ring::MemberIndex;

use super::pairs::Pair;
use crate::{
    config::{Backend, BackendState, Vip},
    flows::FlowHistory,
    ring::{self, Identity, RingMember},
    sources::SourceHistory,
};

/// What the controller knows about a VIP.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VipFacts {
    /// The current ring; none if the VIP is new.
    pub before: Option<Side>,
    /// The ring after the change; none if the VIP is removed. It presumes that members of unknown
    /// health are up: the shares that they will get must pass the guards too.
    pub after: Option<Side>,
    /// Slots that move to another member.
    pub slots_moved: u32,
    /// Traffic of the VIP.
    pub load: Load,
    /// Its sources in the last hour; needed only if the change makes limits stricter.
    pub seen: SourceHistory,
    /// New flows of its backends in the last hour; needed only if the plan judges a bound.
    pub flows: FlowHistory,
}

impl VipFacts {
    /// Facts from the configurations alone: all backends are healthy, and there is no traffic.
    #[must_use]
    pub fn assumed(pair: &Pair<'_>) -> Self {
        Self::with(pair, |backend| Chance {
            weight: backend.weight,
            healthy: true,
            proven: true,
        })
    }

    /// Facts from the configurations and the `chance` of each backend, without traffic.
    #[must_use]
    pub fn with(pair: &Pair<'_>, chance: impl Fn(&Backend) -> Chance) -> Self {
        let tables = [pair.before, pair.after].map(|vip| vip.map(|vip| Table::build(vip, &chance)));
        let slots_moved = match &tables {
            [Some(before), Some(after)] => before.moved(after),
            _ => 0,
        };
        let [before, after] = tables.map(|table| table.map(|table| table.side));
        Self {
            before,
            after,
            slots_moved,
            load: Load::default(),
            seen: SourceHistory::default(),
            flows: FlowHistory::default(),
        }
    }
}

/// One side of a change: a ring and its members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// Number of slots.
    pub ring_size: u32,
    /// Members in the configuration.
    pub members: Vec<SideMember>,
}

/// A member and its share of a ring. The one description of a member that plans are made of: the
/// reconciler fills it in from its state, [`Side::build`] from a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideMember {
    /// Name of the backend.
    pub backend: String,
    /// Address of the backend.
    pub address: IpAddr,
    /// Port of the backend; 0 if the packet's port is kept.
    pub port: u16,
    /// Effective weight: less than the configured one during slow start.
    pub weight: u32,
    /// Configured state.
    pub state: BackendState,
    /// Whether it can have slots: healthy, up, with a weight.
    pub eligible: bool,
    /// Whether it is known to be healthy, or has no health check. Not proven: a new backend whose
    /// checks have not succeeded yet, or an unhealthy one in panic mode.
    pub proven: bool,
    /// Slots that it owns.
    pub slots: u32,
}

impl SideMember {
    /// What its slots depend on.
    #[must_use]
    pub const fn identity(&self) -> Identity {
        Identity {
            address: self.address,
            port: self.port,
        }
    }
}

/// Traffic of a VIP.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// New flows per second now.
    pub new_flows_per_s: f64,
    /// Highest rate of new flows per second in the last hour.
    pub peak_new_flows_per_s: f64,
    /// Packets per second now.
    pub packets_per_s: f64,
}

/// A backend's health and slow start, as far as its ring depends on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chance {
    /// Effective weight.
    pub weight: u32,
    /// Whether it counts as healthy for this ring.
    pub healthy: bool,
    /// As [`SideMember::proven`].
    pub proven: bool,
}

impl Side {
    /// Builds the ring of a VIP from the `chance` of each backend.
    #[must_use]
    pub fn build(vip: &Vip, chance: impl Fn(&Backend) -> Chance) -> Self {
        Table::build(vip, chance).side
    }

    /// Sum of the weights that the ring is built with.
    pub(super) fn total_weight(&self) -> u64 {
        let eligible = self.members.iter().filter(|member| member.eligible);
        eligible.map(|member| u64::from(member.weight)).sum()
    }

    pub(super) fn member(&self, identity: &Identity) -> Option<&SideMember> {
        let mut members = self.members.iter();
        members.find(|member| member.identity() == *identity)
    }
}

/// A side with the owner of each slot.
struct Table {
    side: Side,
    slots: Vec<MemberIndex>,
}

impl Table {
    fn build(vip: &Vip, chance: impl Fn(&Backend) -> Chance) -> Self {
        let mut members: Vec<SideMember> = vip
            .backends
            .iter()
            .map(|backend| side_member(backend, chance(backend)))
            .collect();
        let walkers: Vec<RingMember> = (0..)
            .zip(&members)
            .filter(|(_, member)| member.eligible)
            .map(|(index, member)| RingMember {
                identity: member.identity(),
                weight: member.weight,
                member: index,
            })
            .collect();
        let slots = ring::build(&walkers, vip.ring_size);
        for slot in &slots {
            // NO_MEMBER is no member's index.
            if let Some(member) = members.get_mut(usize::from(*slot)) {
                member.slots += 1;
            }
        }
        let ring_size = vip.ring_size.get();
        Self {
            side: Side { ring_size, members },
            slots,
        }
    }

    /// The owner of each slot; none if it has no member.
    fn owners(&self) -> impl Iterator<Item = Option<Identity>> {
        let owner = |slot: &MemberIndex| self.side.members.get(usize::from(*slot));
        self.slots
            .iter()
            .map(move |slot| owner(slot).map(SideMember::identity))
    }

    /// Slots whose owner differs in `after`; all, if the ring sizes differ.
    fn moved(&self, after: &Self) -> u32 {
        if self.slots.len() != after.slots.len() {
            return after.side.ring_size;
        }
        let pairs = self.owners().zip(after.owners());
        pairs.filter(|(before, after)| before != after).count() as u32
    }
}

fn side_member(backend: &Backend, chance: Chance) -> SideMember {
    let Chance {
        weight,
        healthy,
        proven,
    } = chance;
    SideMember {
        backend: backend.name.clone(),
        address: backend.address,
        port: backend.port,
        weight,
        state: backend.state,
        eligible: healthy && weight > 0 && backend.state == BackendState::Up,
        proven,
        slots: 0,
    }
}
