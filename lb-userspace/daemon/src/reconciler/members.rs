//! The members of a state, by index and by VIP.
//!
//! A change asks for the members of every VIP several times, and a node has up to 4,096 members of
//! 1,024 VIPs.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
};

use lb_common::ring::MemberIndex;

use super::state::MemberState;

#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    all: BTreeMap<MemberIndex, MemberState>,
    /// Indexes of the members of each VIP that has some.
    of_vip: BTreeMap<u16, BTreeSet<MemberIndex>>,
}

impl Deref for Members {
    type Target = BTreeMap<MemberIndex, MemberState>;

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

impl Members {
    /// Adds a member. Its VIP must not change afterwards.
    pub(super) fn insert(&mut self, index: MemberIndex, member: MemberState) {
        self.remove(index);
        self.of_vip.entry(member.vip).or_default().insert(index);
        self.all.insert(index, member);
    }

    pub(super) fn remove(&mut self, index: MemberIndex) {
        if let Some(member) = self.all.remove(&index)
            && let Some(of_vip) = self.of_vip.get_mut(&member.vip)
        {
            of_vip.remove(&index);
            if of_vip.is_empty() {
                self.of_vip.remove(&member.vip);
            }
        }
    }

    /// Removes the members of a VIP.
    pub(super) fn remove_vip(&mut self, vip: u16) {
        for index in self.of_vip.remove(&vip).unwrap_or_default() {
            self.all.remove(&index);
        }
    }

    pub(super) fn get_mut(&mut self, index: MemberIndex) -> Option<&mut MemberState> {
        self.all.get_mut(&index)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut MemberState> {
        self.all.values_mut()
    }

    /// Indexes of the members of a VIP, in their order.
    pub(super) fn of_vip(&self, vip: u16) -> impl Iterator<Item = MemberIndex> + '_ {
        self.of_vip.get(&vip).into_iter().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reconciler::state::tests::member_of;

    proptest! {
        /// The members of a VIP are those whose state names it, whatever was added and removed.
        #[test]
        fn knows_the_members_of_each_vip(
            steps in prop::collection::vec((0u16..12, 0u16..4, 0u8..4), 1..60),
        ) {
            let mut members = Members::default();
            for (index, vip, step) in steps {
                match step {
                    0 => members.remove(index),
                    1 => members.remove_vip(vip),
                    _ => members.insert(index, member_of(vip)),
                }
                for vip in 0..4 {
                    let named = members.iter().filter(|(_, member)| member.vip == vip);
                    let named: Vec<MemberIndex> = named.map(|(index, _)| *index).collect();
                    prop_assert_eq!(members.of_vip(vip).collect::<Vec<_>>(), named);
                }
            }
        }
    }
}
