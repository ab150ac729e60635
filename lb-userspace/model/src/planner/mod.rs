//! Plans a change: a pure function from the running configuration, the candidate and the state of the
//! data path to a [`Plan`].
//!
//! ```text
//! running ──┐             ┌ action: added, removed, replaced, changed
//!           ├─ pairs ──►──┤ settings, in words
//! candidate ┘      ▲      │ members: shares before and after, predicted load
//!                  │      └ guards
//!                facts
//! ```
//!
//! # Which VIPs and backends are the same
//!
//! VIPs with the same address, port and protocol are the same; with another name they are changed. A
//! VIP that keeps its name and gets another address is replaced. Backends with the same address and
//! port are the same. A VIP that the change does not touch is not in the plan.
//!
//! # When guards refuse a change
//!
//! A guard judges what the **change** does, not what is already so: otherwise the first overloaded
//! backend would block every repair. What exceeded its limit before and is no worse after passes. A
//! limit that the change itself makes stricter must hold in the ring after the change.
//!
//! | guard | limit | refuses if the limit is exceeded after the change, and |
//! | --- | --- | --- |
//! | `share_error` | the table share differs from the intended one by at most max(2 / ring size, 1 % of it) | the error grew, or the member is new |
//! | `no_slots` | an eligible member has a slot | it had one, or was not eligible |
//! | `max_share` | `guard.max_share` of the ring, rounded up to a slot | the share grew, or the limit is stricter |
//! | `max_share`, not set | no backend has more than half of the ring | its share, or the largest one, more than doubled; or its weight grew fourfold against the others' |
//! | `max_moved` | `guard.max_moved` of the ring, rounded up to a slot | always; a ring without members can't move |
//! | `min_backends` | `guard.min_backends` | fewer serve than before, or the VIP is new or the limit stricter |
//! | `capacity` | the peak of new flows with 20 % headroom; for each member its share of the peak | capacity is less than before; the member's share grew or its capacity shrank |
//! | `nothing_left` | a backend serves | a backend did, or the VIP is new |
//! | `vip_removed` | a VIP that is removed or replaced has no traffic | always: its connections break |
//!
//! A backend whose checks have not passed yet is in the ring as if it were healthy, so that its
//! shares are checked now; but it does not count as serving. To replace all backends of a VIP in one
//! change is therefore refused (no backend would serve until the checks pass): add the new ones
//! first.

mod announce;
mod bound;
mod guards;
mod limits;
mod members;
mod pairs;
mod settings;
mod side;
#[cfg(test)]
mod tests;
mod words;

pub use bound::judges_bound;
pub use limits::tightens_limits;
pub use pairs::{Pair, pairs};
pub use side::{Chance, Load, Side, SideMember, VipFacts};

use crate::config::Config;
pub use lb_api::{
    Guard, GuardResult, GuardVerdict, MemberPlan, MemberSide, Plan, PlanVerdict, RevisionNumber,
    VipAction, VipPlan,
};
use members::Line;

/// All guards; a rollback is planned with all of them forced.
pub const ALL_GUARDS: [Guard; 8] = [
    Guard::ShareError,
    Guard::NoSlots,
    Guard::MaxShare,
    Guard::MaxMoved,
    Guard::MinBackends,
    Guard::Capacity,
    Guard::NothingLeft,
    Guard::VipRemoved,
];

/// A change to plan.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The running revision; 0 when there is none.
    pub base: RevisionNumber,
    /// The running configuration; `None` before the first.
    pub running: Option<&'a Config>,
    /// The configuration to be applied.
    pub candidate: &'a Config,
    /// Guards that may not refuse the change.
    pub force: &'a [Guard],
}

/// Plans a change. `facts` returns what the controller knows of a VIP; it is called only for VIPs
/// whose keys or backends differ. Without a controller, use [`VipFacts::assumed`].
pub fn plan(input: &Input<'_>, mut facts: impl FnMut(&Pair<'_>) -> VipFacts) -> Plan {
    let (touched, rest): (Vec<Pair<'_>>, Vec<_>) = pairs(input.running, input.candidate)
        .into_iter()
        .partition(Pair::is_touched);
    let vips: Vec<VipPlan> = touched
        .iter()
        .map(|pair| plan_vip(pair, &facts(pair), input))
        .collect();
    let mut other = settings::outside(input.running, input.candidate);
    other.extend(rest.iter().filter_map(|pair| {
        let sessions = settings::nat_sessions(input, pair)?;
        Some(format!("VIP {}: {sessions}", pair.name()))
    }));
    let is_refused = |guard: &GuardResult| guard.verdict == GuardVerdict::Refused;
    let verdict = if vips.iter().flat_map(|vip| &vip.guards).any(is_refused) {
        PlanVerdict::Refused
    } else if vips.is_empty() && other.is_empty() {
        PlanVerdict::Nothing
    } else {
        PlanVerdict::Allowed
    };
    Plan {
        base: input.base,
        verdict,
        vips,
        other,
        // Added by the caller, who knows the host.
        warnings: Vec::new(),
    }
}

fn plan_vip(pair: &Pair<'_>, facts: &VipFacts, input: &Input<'_>) -> VipPlan {
    let mut settings = settings::of_pair(pair);
    settings.extend(settings::nat_sessions(input, pair));
    let lines = Line::all(pair, facts);
    let ring_size = pair
        .after
        .or(pair.before)
        .map_or(0, |vip| vip.ring_size.get());
    VipPlan {
        vip: pair.name().to_owned(),
        action: pair.action,
        members: lines.iter().map(|line| line.plan(&facts.load)).collect(),
        ring_size,
        slots_moved: match pair.action {
            VipAction::Changed | VipAction::Replaced => facts.slots_moved,
            VipAction::Added | VipAction::Removed => 0,
        },
        new_flows_per_s: facts.load.new_flows_per_s,
        peak_new_flows_per_s: facts.load.peak_new_flows_per_s,
        settings,
        limits: limits::plan(pair, facts),
        bound: bound::plan(pair, facts),
        guards: guards::check(pair, facts, &lines, input.force),
    }
}
