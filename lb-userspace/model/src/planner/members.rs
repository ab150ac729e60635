//! Members before and after a change, side by side.

use super::{
    pairs::Pair,
    side::{Load, Side, SideMember, VipFacts},
};
use crate::{
    config::{Backend, BackendState, Vip},
    ring::Identity,
};
use lb_api::{MemberPlan, MemberSide, WantedState};

/// A backend of the configuration with its place in a ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placement<'a> {
    pub(super) backend: &'a Backend,
    pub(super) eligible: bool,
    pub(super) proven: bool,
    pub(super) slots: u32,
    pub(super) intended_share: f64,
    pub(super) table_share: f64,
}

impl<'a> Placement<'a> {
    /// A backend that is not in the ring yet is not eligible and has no share.
    fn new(backend: &'a Backend, side: Option<&Side>) -> Self {
        let member = side.and_then(|side| side.member(&backend.identity()));
        let Some((side, member)) = side.zip(member) else {
            return Self {
                backend,
                eligible: false,
                proven: false,
                slots: 0,
                intended_share: 0.0,
                table_share: 0.0,
            };
        };
        let SideMember {
            weight,
            eligible,
            proven,
            slots,
            ..
        } = *member;
        let weight = if eligible { weight } else { 0 };
        Self {
            backend,
            eligible,
            proven,
            slots,
            intended_share: ratio(weight.into(), side.total_weight()),
            table_share: ratio(slots.into(), side.ring_size.into()),
        }
    }

    fn api(&self) -> MemberSide {
        MemberSide {
            weight: self.backend.weight,
            state: match self.backend.state {
                BackendState::Up => WantedState::Up,
                BackendState::Drain => WantedState::Drain,
                BackendState::Disabled => WantedState::Disabled,
            },
            eligible: self.eligible,
            intended_share: self.intended_share,
            table_share: self.table_share,
        }
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

/// A member on both sides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    /// The new backend, or the old one if it is removed.
    pub(super) backend: &'a Backend,
    pub(super) before: Option<Placement<'a>>,
    pub(super) after: Option<Placement<'a>>,
}

impl<'a> Line<'a> {
    /// All members: those of the candidate in its order, then those that are removed.
    pub(super) fn all(pair: &Pair<'a>, facts: &VipFacts) -> Vec<Self> {
        let placement = |vip: Option<&'a Vip>, side: Option<&Side>, identity: &Identity| {
            let backend = find(vip?, identity)?;
            Some(Placement::new(backend, side))
        };
        let line = |backend: &'a Backend| {
            let identity = backend.identity();
            Self {
                backend,
                before: placement(pair.before, facts.before.as_ref(), &identity),
                after: placement(pair.after, facts.after.as_ref(), &identity),
            }
        };
        let stays = |backend: &Backend| {
            let after = pair.after.and_then(|vip| find(vip, &backend.identity()));
            after.is_some()
        };
        let after = pair.after.into_iter().flat_map(|vip| &vip.backends);
        let before = pair.before.into_iter().flat_map(|vip| &vip.backends);
        after
            .chain(before.filter(|backend| !stays(backend)))
            .map(line)
            .collect()
    }

    /// New flows per second that it would get at the peak.
    pub(super) fn predicted(&self, load: &Load) -> f64 {
        self.after
            .map_or(0.0, |after| after.table_share * load.peak_new_flows_per_s)
    }

    pub(super) fn plan(&self, load: &Load) -> MemberPlan {
        MemberPlan {
            backend: self.backend.name.clone(),
            address: self.backend.address,
            before: self.before.map(|before| before.api()),
            after: self.after.map(|after| after.api()),
            predicted_new_flows_per_s: self.predicted(load),
            capacity: self.backend.capacity,
        }
    }
}

fn find<'a>(vip: &'a Vip, identity: &Identity) -> Option<&'a Backend> {
    let mut backends = vip.backends.iter();
    backends.find(|backend| backend.identity() == *identity)
}
