//! What the controller knows: tables and traffic.

use std::net::IpAddr;

use lb_common::ring::MemberIndex;

use super::pairs::Pair;
use crate::{
    config::{Backend, BackendState, Vip},
    ring::{self, Identity, RingMember},
};

/// What the controller knows of a VIP.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VipFacts {
    /// The table as it is; none if the VIP is new.
    pub before: Option<Side>,
    /// The table that the change would give; none if the VIP goes. Members whose health is not known
    /// yet are in it as if they were healthy: what they will get must pass the guards too.
    pub after: Option<Side>,
    /// Slots that another member gets.
    pub slots_moved: u32,
    /// Its traffic.
    pub load: Load,
}

impl VipFacts {
    /// What follows from the configurations alone: all backends are healthy, and there is no traffic.
    #[must_use]
    pub fn assumed(pair: &Pair<'_>) -> Self {
        Self::with(pair, |backend| Chance {
            weight: backend.weight,
            healthy: true,
            proven: true,
        })
    }

    /// What follows from the configurations and what `chance` says of each backend, before and after;
    /// without traffic.
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
        }
    }
}

/// One side of a change: a table and its members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// Slots of the ring.
    pub ring_size: u32,
    /// The members of the configuration.
    pub members: Vec<SideMember>,
}

/// A member in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideMember {
    /// Name of the backend.
    pub backend: String,
    /// Its address.
    pub address: IpAddr,
    /// Its port; 0 when the packet's port is kept.
    pub port: u16,
    /// The weight that the table was built with (less than the configured one during slow start).
    pub weight: u32,
    /// What the operator wants of it.
    pub state: BackendState,
    /// Whether it can have slots of this table.
    pub eligible: bool,
    /// Whether it is known to be healthy now, or not checked at all. Not so: a new backend whose
    /// checks have not succeeded yet, or one that gets traffic only because too few are healthy.
    pub proven: bool,
    /// Slots that it has.
    pub slots: u32,
}

impl SideMember {
    /// What its place in the ring depends on.
    #[must_use]
    pub const fn identity(&self) -> Identity {
        Identity {
            address: self.address,
            port: self.port,
        }
    }
}

/// The traffic of a VIP.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// New flows a second now.
    pub new_flows_per_s: f64,
    /// The highest number of new flows a second in the last hour.
    pub peak_new_flows_per_s: f64,
    /// Packets a second now.
    pub packets_per_s: f64,
}

/// What a backend can have of a table, as health and slow start say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chance {
    /// The weight in force.
    pub weight: u32,
    /// Whether it counts as healthy for this table.
    pub healthy: bool,
    /// As [`SideMember::proven`].
    pub proven: bool,
}

impl Side {
    /// Builds the table of a VIP, with what `chance` says of each backend.
    #[must_use]
    pub fn build(vip: &Vip, chance: impl Fn(&Backend) -> Chance) -> Self {
        Table::build(vip, chance).side
    }

    /// The sum of the weights that the table was built with.
    pub(super) fn total_weight(&self) -> u64 {
        let eligible = self.members.iter().filter(|member| member.eligible);
        eligible.map(|member| u64::from(member.weight)).sum()
    }

    pub(super) fn member(&self, identity: &Identity) -> Option<&SideMember> {
        let mut members = self.members.iter();
        members.find(|member| member.identity() == *identity)
    }
}

/// A side with its slots.
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
            // NO_MEMBER is no one's index.
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

    /// Whose each slot is; `None`: nobody's.
    fn owners(&self) -> impl Iterator<Item = Option<Identity>> {
        let owner = |slot: &MemberIndex| self.side.members.get(usize::from(*slot));
        self.slots
            .iter()
            .map(move |slot| owner(slot).map(SideMember::identity))
    }

    /// Slots that are another's in `after`; all, if there are more or fewer.
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
