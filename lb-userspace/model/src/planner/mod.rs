//! What a change would do, before it is done: a pure function from what runs, what is wanted and
//! what the controller knows to a [`Plan`].
//!
//! ```text
//! running ──┐             ┌ action: added, removed, replaced, changed
//!           ├─ pairs ──►──┤ settings, in words
//! candidate ┘      ▲      │ members: shares before and after, predicted load
//!                  │      └ guards
//!                facts
//! ```
//!
//! # What a plan is about
//!
//! VIPs are the same when address, port and protocol are; a VIP that only has another name is
//! changed, one that keeps its name and gets another address is replaced. Backends are the same
//! when address and port are. A VIP that the change does not touch is not in the plan.
//!
//! # What guards look at
//!
//! A guard refuses what the **change** does, not what is so already: otherwise the first overloaded
//! backend would stop every repair. What is above its limit before and is no worse after passes. A
//! limit that the change itself makes stricter must hold in the table that the change gives.
//!
//! | guard | limit | refuses when it is broken after, and |
//! | --- | --- | --- |
//! | `share_error` | table share within max(2 / ring size, 1 % of the intended share) of the intended one | the error grew, or the member is new |
//! | `no_slots` | an eligible member has a slot | it had one, or was not eligible |
//! | `max_share` | `guard.max_share` of the table, rounded up to a slot | the share grew, or the limit is stricter |
//! | `max_moved` | `guard.max_moved` of the table, rounded up to a slot | always; a table that nobody had slots of can't move |
//! | `min_backends` | `guard.min_backends` | fewer serve than before, or the VIP is new or the limit stricter |
//! | `capacity` | the peak of new flows with 20 % headroom; for each member its part of the peak | there is less capacity than before; the member's part grew or its capacity shrank |
//! | `nothing_left` | somebody serves | somebody did, or the VIP is new |
//! | `vip_removed` | a VIP that goes, or goes and comes again, has no traffic | always: its connections break |
//!
//! A backend whose checks have not succeeded yet is in the table as if it were healthy, so that
//! the shares it will get are judged now; but it does not count as one that serves. To exchange
//! all backends of a VIP in one change is therefore refused (nobody would serve until the checks
//! succeed): add the new ones first.

mod guards;
mod members;
mod pairs;
mod settings;
mod side;
#[cfg(test)]
mod tests;
mod words;

pub use pairs::{Pair, pairs};
pub use side::{Chance, Load, Side, SideMember, VipFacts};

use crate::config::Config;
pub use lb_api::{
    Guard, GuardResult, GuardVerdict, MemberPlan, MemberSide, Plan, PlanVerdict, RevisionNumber,
    VipAction, VipPlan,
};
use members::Line;

/// All guards: what a rollback is planned with as `force`.
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

/// What is to be planned.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The running revision; 0 when there is none.
    pub base: RevisionNumber,
    /// What runs; none before the first configuration.
    pub running: Option<&'a Config>,
    /// What is wanted.
    pub candidate: &'a Config,
    /// Guards that may be broken.
    pub force: &'a [Guard],
}

/// Plans a change. `facts` tells what the controller knows of a VIP; it is asked only for VIPs whose
/// keys or backends differ. Without a controller, [`VipFacts::assumed`] will do.
pub fn plan(input: &Input<'_>, mut facts: impl FnMut(&Pair<'_>) -> VipFacts) -> Plan {
    let vips: Vec<VipPlan> = pairs(input.running, input.candidate)
        .iter()
        .filter(|pair| pair.is_touched())
        .map(|pair| plan_vip(pair, &facts(pair), input.force))
        .collect();
    let other = settings::outside(input.running, input.candidate);
    let refused = |guard: &GuardResult| guard.verdict == GuardVerdict::Refused;
    let verdict = if vips.iter().flat_map(|vip| &vip.guards).any(refused) {
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
        // That is for those to say who know the host.
        warnings: Vec::new(),
    }
}

fn plan_vip(pair: &Pair<'_>, facts: &VipFacts, force: &[Guard]) -> VipPlan {
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
        settings: settings::of_pair(pair),
        guards: guards::judge(pair, facts, &lines, force),
    }
}
