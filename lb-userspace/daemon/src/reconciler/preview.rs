//! What a configuration would make of the tables, without touching them.
//!
//! The very planning that an apply does, on a copy of the state. Members that are new count as up:
//! what is looked at is what the change is meant to come to, not the second before its first check.

use std::{net::IpAddr, sync::Arc};

use super::{
    Reconciler,
    error::Result,
    plan::Plan,
    state::{ServiceId, State, VipState},
};
use lb_model::config::{BackendState, Config};

/// What would become of all VIPs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Preview {
    /// The VIPs: those of the configuration in its order, then those that would go.
    pub vips: Vec<VipPreview>,
}

/// What would become of a VIP.
#[derive(Clone, Debug, PartialEq)]
pub struct VipPreview {
    /// What makes it the same VIP before and after.
    pub service: ServiceId,
    /// How it is; none: it is new.
    pub before: Option<VipSide>,
    /// How it would be; none: it goes.
    pub after: Option<VipSide>,
    /// Whether it would go and come again, with its connections broken.
    pub replaced: bool,
    /// Slots that another backend would have. All, if it is replaced or removed; none, if it is new.
    pub slots_moved: u32,
}

/// A VIP before or after.
#[derive(Clone, Debug, PartialEq)]
pub struct VipSide {
    /// Its name.
    pub name: String,
    /// Slots of its ring.
    pub ring_size: u32,
    /// Whether it does not ask who is healthy.
    pub panic: bool,
    /// Its members, without those that leave, in the order of their indexes.
    pub members: Vec<SidePreview>,
}

/// A member before or after.
#[derive(Clone, Debug, PartialEq)]
pub struct SidePreview {
    /// Name of the backend.
    pub backend: String,
    /// Its address.
    pub address: IpAddr,
    /// Its port; 0: that of the packet.
    pub port: u16,
    /// The weight that the ring was built with, or would be if it were eligible.
    pub weight: u32,
    /// What the operator wants of it.
    pub wanted: BackendState,
    /// Whether it is known to be healthy, or is not checked at all.
    pub proven: bool,
    /// Whether it can have slots: healthy, up, with weight.
    pub eligible: bool,
    /// Slots of the ring.
    pub slots: u32,
}

impl Reconciler {
    /// What [`Self::apply`] would make of the tables. Pure: no table is looked at.
    ///
    /// # Errors
    ///
    /// What planning refuses: see [`super::ReconcilerError`].
    pub fn preview(&self, config: &Config, now_s: u64) -> Result<Preview> {
        if let Some(running) = &self.config {
            super::check_node(running, config)?;
        }
        let plan = Plan::new(&self.state, config, &self.routes).presume_up();
        let (next, _) = plan.configure()?.finish(now_s as u32)?;
        let wanted = config.vips.iter().map(ServiceId::of);
        let gone = self.state.vips.values().map(|vip| vip.service);
        let gone = gone.filter(|service| next.vip_of(service).is_none());
        let vips = wanted.chain(gone);
        Ok(Preview {
            vips: vips
                .map(|service| self.preview_vip(&next, service))
                .collect(),
        })
    }

    fn preview_vip(&self, next: &State, service: ServiceId) -> VipPreview {
        let find = |state: &State| {
            let index = state.vip_of(&service)?;
            Some((index, state.vips.get(&index)?.clone()))
        };
        let (before, after) = (find(&self.state), find(next));
        let (replaced, slots_moved) = match (&before, &after) {
            (Some((a, old)), Some((b, new))) if a == b => (false, moved(old, new)),
            (Some((_, old)), Some(_)) => (true, old.ring.slots().len() as u32),
            (Some((_, old)), None) => (false, old.ring.slots().len() as u32),
            (None, _) => (false, 0),
        };
        VipPreview {
            service,
            before: before.map(|(index, vip)| side(&self.state, index, &vip)),
            after: after.map(|(index, vip)| side(next, index, &vip)),
            replaced,
            slots_moved,
        }
    }
}

fn moved(old: &VipState, new: &VipState) -> u32 {
    if Arc::ptr_eq(&old.ring, &new.ring) {
        return 0;
    }
    let pairs = old.ring.slots().iter().zip(new.ring.slots());
    pairs.filter(|(a, b)| a.current != b.current).count() as u32
}

fn side(state: &State, index: u16, vip: &VipState) -> VipSide {
    let slots = vip.ring.slots_per_member();
    let members = state
        .members_of(index)
        .filter(|(_, member)| !member.leaving);
    let members = members.map(|(index, member)| {
        let eligible = member.is_eligible(vip.panic);
        let weight = member.ring_member(index, vip.panic).weight;
        SidePreview {
            backend: member.name.clone(),
            address: member.identity.address,
            port: member.identity.port,
            weight,
            wanted: member.wanted,
            proven: member.healthy && (member.proven || vip.panic_threshold.is_none()),
            eligible,
            slots: slots.get(&index).copied().unwrap_or(0),
        }
    });
    VipSide {
        name: vip.name.clone(),
        ring_size: vip.ring.slots().len() as u32,
        panic: vip.panic,
        members: members.collect(),
    }
}
