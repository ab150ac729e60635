//! New rings for the VIPs whose members are others than before.
//!
//! A server that fails may be a backend of every VIP. So the work is divided among the processors, and VIPs with
//! the same servers, ports and weights have their ring built once.

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

/// Gives the slots of each VIP to its members; returns how many slots moved.
pub(super) fn change_rings<'a>(
    changing: impl Iterator<Item = (&'a mut VipState, Vec<RingMember>)>,
    now_s: u32,
) -> Result<u32> {
    let changes: Vec<_> = changing
        .map(|(vip, members)| Change::new(vip, members))
        .collect::<Result<_>>()?;
    let forms: HashSet<Form> = changes.iter().map(|change| change.form.clone()).collect();
    let build = |form: Form| {
        let places = form.build();
        (form, places)
    };
    let built: HashMap<Form, Vec<Place>> = in_parallel(forms.into_iter().collect(), build)
        .into_iter()
        .collect();
    let moved = in_parallel(changes, |change| {
        let places = &built[&change.form];
        change.make(places, now_s)
    });
    moved.into_iter().sum()
}

/// A VIP that gets another ring.
struct Change<'a> {
    vip: &'a mut VipState,
    form: Form,
    /// Of its members, in the order of the form.
    indexes: Vec<MemberIndex>,
}

impl<'a> Change<'a> {
    fn new(vip: &'a mut VipState, members: Vec<RingMember>) -> Result<Self> {
        let slots = vip.ring.slots().len() as u32;
        let size = RingSize::new(slots).ok_or_else(|| ReconcilerError::Adoption {
            what: format!(
                "VIP {} has a ring of {slots} slots, which is no valid size",
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
            // No flows yet, or none that are kept: nothing to remember.
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
