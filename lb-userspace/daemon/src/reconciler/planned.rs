//! Plans a change without touching the maps: what the rings would be, and a token to apply it with.
//!
//! The preview presumes that new members are up: it judges the state that the change is meant to
//! reach, not the second before the first health check. The state that is installed presumes
//! nothing. So the two share the rings that they have in common, but not the state.

use std::sync::Arc;

use super::{
    Reconciler,
    error::Result,
    plan::Plan,
    rings::RingBuilds,
    state::{ServiceId, State, VipState},
};
use lb_model::{
    config::Config,
    planner::{Side, SideMember},
};

/// A change that was planned, but not applied. It applies only to the state it was planned on:
/// [`Reconciler::apply_planned`].
#[derive(Debug)]
pub struct PlannedChange {
    /// Version of the state that it was planned on.
    pub(super) version: u64,
    pub(super) config: Config,
    pub(super) rings: RingBuilds,
    before: State,
    after: State,
}

impl PlannedChange {
    /// The effect on a VIP; none if it is neither in the configuration nor in the tables. Counts the
    /// slots of its rings: ask for the VIPs that change.
    #[must_use]
    pub fn preview(&self, service: &ServiceId) -> Option<VipPreview> {
        let before = find(&self.before, service);
        let after = find(&self.after, service);
        if before.is_none() && after.is_none() {
            return None;
        }
        Some(VipPreview {
            name: before.map(|(_, vip)| vip.name.clone()),
            before: before.map(|(index, vip)| side(&self.before, index, vip)),
            after: after.map(|(index, vip)| side(&self.after, index, vip)),
            slots_moved: match (before, after) {
                (Some((a, old)), Some((b, new))) if a == b => moved(old, new),
                (Some((_, old)), _) => old.ring.size(),
                (None, _) => 0,
            },
        })
    }
}

/// The effect of a change on a VIP.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VipPreview {
    /// Name of the VIP before; none if it is new.
    pub name: Option<String>,
    /// Its ring and members now; none if it is new.
    pub before: Option<Side>,
    /// Its ring and members after the change; none if it is removed.
    pub after: Option<Side>,
    /// Slots that another backend would have: all if the VIP is replaced or removed, none if it is
    /// new.
    pub slots_moved: u32,
}

impl Reconciler {
    /// Plans a change. Reads and writes no map.
    ///
    /// # Errors
    ///
    /// A setting is fixed while the data path is loaded, or there is no room for a VIP or backend.
    pub fn plan(&self, config: &Config, now_s: u64) -> Result<PlannedChange> {
        if let Some(running) = &self.config {
            super::check_node(running, config)?;
        }
        let mut rings = RingBuilds::default();
        let plan = Plan::new(&self.state, config, &self.routes).presume_up();
        let (after, _) = plan.configure()?.finish(now_s as u32, &mut rings)?;
        Ok(PlannedChange {
            version: self.state.version(),
            config: config.clone(),
            rings,
            before: State::clone(&self.state),
            after,
        })
    }
}

fn find<'a>(state: &'a State, service: &ServiceId) -> Option<(u16, &'a VipState)> {
    let index = state.vip_of(service)?;
    Some((index, state.vips.get(&index)?))
}

fn moved(old: &VipState, new: &VipState) -> u32 {
    if Arc::ptr_eq(&old.ring, &new.ring) {
        return 0;
    }
    old.ring.moved_since(new.ring.members())
}

fn side(state: &State, index: u16, vip: &VipState) -> Side {
    let slots = vip.ring.slots_per_member();
    let members = state
        .members_of(index)
        .filter(|(_, member)| !member.leaving);
    let members = members.map(|(index, member)| SideMember {
        backend: member.name.clone(),
        address: member.identity.address,
        port: member.identity.port,
        weight: member.ring_member(index, vip.panic).weight,
        state: member.wanted,
        eligible: member.is_eligible(vip.panic),
        proven: member.healthy && (member.proven || vip.panic_threshold.is_none()),
        slots: slots.get(&index).copied().unwrap_or(0),
    });
    Side {
        ring_size: vip.ring.size(),
        members: members.collect(),
    }
}
