//! New rings for the VIPs whose members changed.
//!
//! A server that fails may be a backend of every VIP. So the work is divided among the CPUs, and
//! VIPs with the same servers, ports and weights have their ring built once.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use lb_common::{ring::MemberIndex, vip::track};

use super::{
    error::{ReconcilerError, Result},
    parallel::in_parallel,
    state::VipState,
};
use lb_model::{
    ring::{Form, Place, RingMember, RingSize, filled_in},
    transition::RingState,
};

/// Rings built so far, by all that they depend on.
#[derive(Debug, Default)]
pub(super) struct RingBuilds(HashMap<Form, Vec<Place>>);

impl RingBuilds {
    /// Builds the rings that are missing.
    fn add(&mut self, forms: impl Iterator<Item = Form>) {
        let missing: HashSet<Form> = forms.filter(|form| !self.0.contains_key(form)).collect();
        let build = |form: Form| {
            let places = form.build();
            (form, places)
        };
        self.0
            .extend(in_parallel(missing.into_iter().collect(), build));
    }
}

/// Gives the slots of each VIP to its members; returns how many slots moved.
pub(super) fn change_rings<'a>(
    changing: impl Iterator<Item = (&'a mut VipState, Vec<RingMember>)>,
    built: &mut RingBuilds,
    now_s: u32,
) -> Result<u32> {
    let changes: Vec<_> = changing
        .map(|(vip, members)| Change::new(vip, members))
        .collect::<Result<_>>()?;
    built.add(changes.iter().map(|change| change.form.clone()));
    let moved = in_parallel(changes, |change| {
        let places = &built.0[&change.form];
        change.make(places, now_s)
    });
    moved.into_iter().sum()
}

/// A VIP that gets a new ring.
struct Change<'a> {
    vip: &'a mut VipState,
    form: Form,
    /// Indexes of its members, in the order of the form.
    indexes: Vec<MemberIndex>,
}

impl<'a> Change<'a> {
    fn new(vip: &'a mut VipState, members: Vec<RingMember>) -> Result<Self> {
        let slots = vip.ring.size();
        let size = RingSize::new(slots).ok_or_else(|| ReconcilerError::Adoption {
            what: format!(
                "VIP {} has a ring of {slots} slots, which is not a valid size",
                vip.name
            ),
        })?;
        let (form, indexes) = Form::of(&members, size);
        vip.built_of = members;
        Ok(Self { vip, form, indexes })
    }

    fn make(self, places: &[Place], now_s: u32) -> Result<u32> {
        let vip = self.vip;
        let ring = filled_in(places, &self.indexes);
        if vip.image().is_none() || vip.entry.track == track::NEVER {
            // No flows yet, or flows are not tracked: no transition.
            let moved = vip.ring.moved_since(&ring);
            let is_first = vip.image().is_none();
            vip.dirty |= moved > 0 || is_first;
            if vip.dirty {
                vip.ring = Arc::new(RingState::new_clean(&ring));
            }
            return Ok(if is_first { 0 } else { moved });
        }
        let moved = Arc::make_mut(&mut vip.ring).change(&ring, now_s)?;
        vip.dirty |= moved > 0;
        Ok(moved)
    }
}
