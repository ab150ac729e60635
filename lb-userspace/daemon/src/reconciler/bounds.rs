//! Bounded load: the bound of each member, by the ring that its VIP has.

use std::collections::BTreeMap;

use lb_common::{
    bound::{Candidates, MemberBound, WHOLE_SHARE},
    limit::Rate,
};

use super::state::{State, VipState};
use lb_dataplane::Dataplane;
use lb_model::config::BoundFactor;

/// A burst that a member with a capacity takes: a tenth of a second, or a few flows.
const SHORTEST_BURST: u32 = 10;

impl State {
    /// Derives the bounds of all members from the weights that the rings were built of. Members without
    /// slots have none.
    pub(super) fn write_bounds(&mut self) {
        for member in self.members.values_mut() {
            member.bound = MemberBound::NONE;
        }
        for vip in self.vips.values() {
            let total: u64 = (vip.built_of.iter())
                .map(|member| u64::from(member.weight))
                .sum();
            for built in &vip.built_of {
                if let Some(member) = self.members.get_mut(built.member) {
                    member.bound = bound_of(vip, built.weight.into(), total, member.capacity);
                }
            }
        }
    }

    /// The members of bounded VIPs that spilled flows may go to.
    pub(super) fn candidates(&self) -> BTreeMap<u16, Candidates> {
        let bounded = self.vips.iter().filter(|(_, vip)| vip.bound.is_set());
        bounded
            .map(|(index, vip)| {
                let members = vip.built_of.iter().filter(|built| built.weight > 0);
                let members: Vec<_> = members.map(|built| built.member).collect();
                (*index, Candidates::of(&members))
            })
            .collect()
    }

    /// VIPs without bound whose packets are looked up because members may still have spilled flows, until
    /// none has any.
    pub(super) fn unbound(&self) -> impl Iterator<Item = u16> + '_ {
        let unbound = self.vips.iter().filter(|(_, vip)| vip.is_unbound());
        unbound.map(|(index, _)| *index)
    }

    /// Lets the ring alone decide again for VIPs without bound and spilled flows; returns how many.
    pub(super) fn forget_bounds(&mut self, dataplane: &Dataplane) -> lb_dataplane::Result<u32> {
        let mut forgotten = 0;
        for index in self.unbound().collect::<Vec<_>>() {
            let mut has_spilled = false;
            for (member, _) in self.members_of(index) {
                has_spilled |= dataplane.bounds.has_spilled(member)?;
            }
            if let Some(vip) = self.vips.get_mut(&index).filter(|_| !has_spilled) {
                vip.entry.track = lb_common::vip::track::ON_CHANGE;
                forgotten += 1;
            }
        }
        Ok(forgotten)
    }
}

fn bound_of(vip: &VipState, weight: u64, total: u64, capacity: Option<u32>) -> MemberBound {
    let share = |thousandths: u32| {
        let part = u128::from(weight) * u128::from(thousandths) * u128::from(WHOLE_SHARE);
        // A factor is at most ten.
        (part / (u128::from(total.max(1)) * 1000)) as u64
    };
    let factor = vip.bound.factor.map_or(0, BoundFactor::thousandths);
    let capacity = capacity.filter(|_| vip.bound.capacity);
    MemberBound {
        most: share(factor).min(WHOLE_SHARE),
        share: if vip.bound.is_set() { share(1000) } else { 0 },
        capacity: capacity.map_or(Rate::NONE, |per_s| {
            Rate::new(per_s, per_s.div_ceil(10).max(SHORTEST_BURST), 1)
        }),
    }
}

#[cfg(test)]
mod tests {
    use lb_model::{config::Bound, ring::RingMember};

    use super::{super::state::tests::member_of, *};

    fn state(weights: &[u32], bound: Bound) -> State {
        let mut state = State::default();
        let mut built_of = Vec::new();
        for (index, weight) in (0..).zip(weights) {
            let mut member = member_of(3);
            member.capacity = Some(100 * (1 + u32::from(index)));
            built_of.push(RingMember {
                identity: member.identity,
                weight: *weight,
                member: index,
            });
            state.members.insert(index, member);
        }
        let mut vip = super::super::state::tests::vip();
        (vip.built_of, vip.bound) = (built_of, bound);
        state.vips.insert(3, vip);
        state.write_bounds();
        state
    }

    #[test]
    fn bounds_members_by_their_share() {
        let factor = BoundFactor::new(1.25);
        let state = state(
            &[1, 3],
            Bound {
                factor,
                capacity: false,
            },
        );
        let of = |index| state.members.get(&index).unwrap().bound;
        assert_eq!(
            (of(0).share, of(1).share),
            (WHOLE_SHARE / 4, WHOLE_SHARE / 4 * 3)
        );
        assert_eq!(of(0).most, WHOLE_SHARE / 16 * 5);
        assert!(!of(1).capacity.is_set());
    }

    #[test]
    fn bounds_members_by_their_capacity_alone() {
        let state = state(
            &[1, 1, 0],
            Bound {
                factor: None,
                capacity: true,
            },
        );
        let of = |index| state.members.get(&index).unwrap().bound;
        assert_eq!(of(1).capacity, Rate::new(200, 20, 1));
        assert_eq!(of(1).most, 0);
    }
}
