//! How many new flows the bound of a candidate would have spilled in the last hour.
//!
//! An estimate from the new flows that each backend got, in steps of ten seconds. A backend whose share
//! shrinks keeps new flows in proportion to it; those whose shares grow get the others, in proportion to
//! the growth, as the slots of a ring do. What is above a bound spills as far as other backends have room;
//! what is above a capacity also to those that have only their capacity left. Bursts within a step are not
//! seen.

use std::collections::HashMap;

use super::{Pair, Side, VipFacts};
use crate::{
    config::{Backend, Bound, BoundFactor, Vip},
    flows::{FlowHistory, StepMember},
    ring::Identity,
    sources::counts_flows,
};
use lb_api::{BoundPlan, FullBackend, VipAction};

/// Number of backends that are named.
const NAMED: usize = 10;

/// Standard deviations above the bound by share from which on a backend counts as full: even traffic
/// varies too, and the data path has such a tolerance.
const TOLERANCE: f64 = 3.0;

/// Whether a change sets a bound, or changes what a bound depends on, so that the plan needs the
/// history of the VIP.
#[must_use]
pub fn judges_bound(pair: &Pair<'_>) -> bool {
    let Some(after) = pair.after.filter(|vip| vip.bound.is_set()) else {
        return false;
    };
    pair.action != VipAction::Changed
        || pair
            .before
            .is_none_or(|before| before.bound != after.bound || weights(before) != weights(after))
}

/// What the shares and capacities of a VIP depend on.
fn weights(vip: &Vip) -> Vec<(Identity, String, u32, Option<u32>)> {
    let backend = |backend: &Backend| {
        let state = backend.state.to_string();
        (backend.identity(), state, backend.weight, backend.capacity)
    };
    let mut all: Vec<_> = vip.backends.iter().map(backend).collect();
    all.sort_unstable();
    all
}

pub(super) fn plan(pair: &Pair<'_>, facts: &VipFacts) -> Option<BoundPlan> {
    let vip = pair.after.filter(|_| judges_bound(pair))?;
    let members = bounded(vip, facts.after.as_ref());
    let notes = notes(vip, &members);
    let estimate = estimate(&vip.bound, &members, &facts.flows);
    Some(match unknown(pair, &estimate) {
        None => BoundPlan { notes, ..estimate },
        unknown => BoundPlan {
            minutes: estimate.minutes,
            unknown,
            notes,
            ..BoundPlan::default()
        },
    })
}

/// Why there is no estimate.
fn unknown(pair: &Pair<'_>, estimate: &BoundPlan) -> Option<String> {
    let why = match pair.before {
        Some(_) if pair.action == VipAction::Replaced => {
            "the change replaces the VIP, and its flows go to other backends than before"
        }
        Some(before) if !counts_flows(before) => {
            "new flows of a UDP VIP are only counted with `track = \"always\"`"
        }
        _ if estimate.new_flows == 0 => "no new flows of this VIP were seen",
        _ => return None,
    };
    Some(why.to_owned())
}

fn notes(vip: &Vip, members: &[Bounded<'_>]) -> Vec<String> {
    let mut notes = Vec::new();
    let unbounded = members.iter().filter(|member| member.capacity.is_none());
    let unbounded: Vec<&str> = unbounded.map(|member| member.name).collect();
    if vip.bound.capacity && !unbounded.is_empty() {
        let more = unbounded.len().saturating_sub(NAMED);
        let names = unbounded[..unbounded.len() - more].join(", ");
        let more = match more {
            0 => String::new(),
            more => format!(", {more} more"),
        };
        notes.push(format!(
            "without `capacity`, and so not bounded by it: {names}{more}"
        ));
    }
    notes
}

/// A backend that can get new flows after the change.
struct Bounded<'a> {
    name: &'a str,
    identity: Identity,
    share: f64,
    capacity: Option<u32>,
}

fn bounded<'a>(vip: &'a Vip, side: Option<&Side>) -> Vec<Bounded<'a>> {
    let Some(side) = side else {
        return Vec::new();
    };
    let total = side.total_weight() as f64;
    let members = vip.backends.iter().filter_map(|backend| {
        let member = side.member(&backend.identity())?;
        (member.eligible && member.weight > 0).then(|| Bounded {
            name: &backend.name,
            identity: backend.identity(),
            share: f64::from(member.weight) / total,
            capacity: backend.capacity,
        })
    });
    members.collect()
}

/// Sums of a backend over all steps.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    excess: f64,
    spilled: f64,
    /// In the steps in which it was full.
    seconds: f64,
    new_flows: f64,
    expected: f64,
    /// Highest rate in them, per second.
    peak: f64,
    over_capacity: bool,
}

/// What a backend would have got in a step.
#[derive(Clone, Copy, Debug, Default)]
struct Demand {
    new_flows: f64,
    expected: f64,
    excess: f64,
    /// Of the excess: what is above the capacity.
    over_capacity: f64,
    /// What it can take within all bounds.
    room: f64,
    /// What it can take of flows of backends at their capacity.
    capacity_left: f64,
}

/// How much of its excess each backend gets rid of, as a part of what is over its capacity, and of the rest.
struct Placed {
    over_capacity: f64,
    over_factor: f64,
}

impl Placed {
    fn new(demands: &[Demand]) -> Self {
        let sum = |of: fn(&Demand) -> f64| demands.iter().map(of).sum::<f64>();
        let (excess, over_capacity) = (sum(|it| it.excess), sum(|it| it.over_capacity));
        let room = sum(|it| it.room);
        let within = if excess > room { room / excess } else { 1.0 };
        let left = over_capacity * (1.0 - within);
        let room_past_factor = (sum(|it| it.capacity_left) - room).max(0.0);
        let past_factor = if left > room_past_factor {
            room_past_factor / left
        } else {
            1.0
        };
        Self {
            over_capacity: within + (1.0 - within) * past_factor,
            over_factor: within,
        }
    }

    fn of(&self, demand: &Demand) -> f64 {
        demand.over_capacity * self.over_capacity
            + (demand.excess - demand.over_capacity) * self.over_factor
    }
}

fn estimate(bound: &Bound, members: &[Bounded<'_>], history: &FlowHistory) -> BoundPlan {
    let mut tallies = vec![Tally::default(); members.len()];
    let (mut all, mut spilled, mut unplaced) = (0.0, 0.0, 0.0);
    for segment in history.segments() {
        let shift = Shift::new(segment.members(), members);
        segment.for_each(|seconds, new_flows| {
            let total: f64 = new_flows.iter().copied().map(f64::from).sum();
            let shifted = shift.new_flows(new_flows);
            let demands: Vec<Demand> = members
                .iter()
                .zip(shifted)
                .map(|(member, flows)| Demand::new(bound, member, flows, total, seconds))
                .collect();
            let placed = Placed::new(&demands);
            for (tally, demand) in tallies.iter_mut().zip(&demands) {
                let of_this = placed.of(demand);
                tally.add(demand, of_this, seconds);
                spilled += of_this;
                unplaced += demand.excess - of_this;
            }
            all += total;
        });
    }
    let mut full: Vec<(&Bounded<'_>, &Tally)> = members
        .iter()
        .zip(&tallies)
        .filter(|(_, tally)| tally.excess > 0.0)
        .collect();
    full.sort_by(|(a, x), (b, y)| y.excess.total_cmp(&x.excess).then(a.name.cmp(b.name)));
    let share = |part: f64| {
        if all > 0.0 {
            (part / all).min(1.0)
        } else {
            0.0
        }
    };
    BoundPlan {
        minutes: history.minutes(),
        unknown: None,
        new_flows: all as u64,
        spilled: share(spilled),
        unplaced: share(unplaced),
        full: full.len() as u32,
        full_backends: full
            .iter()
            .take(NAMED)
            .map(|(member, tally)| tally.report(member, spilled))
            .collect(),
        notes: Vec::new(),
    }
}

/// Where new flows go after the change that went to other shares.
struct Shift {
    /// For each backend after the change: its place in the steps, and its part of what others lose.
    members: Vec<(Option<usize>, f64)>,
    /// For each backend of the steps: the part that it keeps.
    kept: Vec<f64>,
}

impl Shift {
    fn new(before: &[StepMember], after: &[Bounded<'_>]) -> Self {
        let places = before.iter().map(|member| member.identity).zip(0..);
        let places: HashMap<Identity, usize> = places.collect();
        let mut kept = vec![0.0; before.len()];
        let mut members: Vec<(Option<usize>, f64)> = Vec::new();
        for member in after {
            let place = places.get(&member.identity).copied();
            let share = place.map_or(0.0, |place| before[place].share);
            if let Some(place) = place {
                kept[place] = if member.share < share {
                    member.share / share
                } else {
                    1.0
                };
            }
            members.push((place, (member.share - share).max(0.0)));
        }
        let growth: f64 = members.iter().map(|(_, growth)| growth).sum();
        for (_, part) in members.iter_mut().filter(|_| growth > 0.0) {
            *part /= growth;
        }
        Self { members, kept }
    }

    /// The new flows of each backend after the change.
    fn new_flows(&self, before: &[u32]) -> impl Iterator<Item = f64> {
        let flows = |place: usize| f64::from(before[place]);
        let lost = self.kept.iter().enumerate();
        let lost: f64 = lost.map(|(place, kept)| flows(place) * (1.0 - kept)).sum();
        self.members.iter().map(move |(place, part)| {
            place.map_or(0.0, |place| flows(place) * self.kept[place]) + part * lost
        })
    }
}

impl Demand {
    /// `new_flows` are those of the backend, `total` those of the VIP.
    fn new(bound: &Bound, member: &Bounded<'_>, new_flows: f64, total: f64, seconds: f64) -> Self {
        let expected = member.share * total;
        let by_share = bound.factor.map(BoundFactor::as_f64);
        let by_share = by_share.map(|factor| factor * expected);
        let by_capacity = member.capacity.filter(|_| bound.capacity);
        let by_capacity = by_capacity.map(|capacity| f64::from(capacity) * seconds);
        let over_share = by_share.filter(|most| new_flows > most + TOLERANCE * most.sqrt());
        let excess = |most: Option<f64>| most.map_or(0.0, |most| (new_flows - most).max(0.0));
        let over_capacity = excess(by_capacity);
        let room =
            |most: Option<f64>| most.map_or(f64::INFINITY, |most| (most - new_flows).max(0.0));
        Self {
            new_flows,
            expected,
            excess: excess(over_share).max(over_capacity),
            over_capacity,
            room: room(by_share).min(room(by_capacity)),
            capacity_left: room(by_capacity),
        }
    }
}

impl Tally {
    fn add(&mut self, demand: &Demand, spilled: f64, seconds: f64) {
        if demand.excess <= 0.0 {
            return;
        }
        self.excess += demand.excess;
        self.spilled += spilled;
        self.seconds += seconds;
        self.new_flows += demand.new_flows;
        self.expected += demand.expected;
        self.peak = self.peak.max(demand.new_flows / seconds.max(1.0));
        self.over_capacity |= demand.over_capacity > 0.0;
    }

    fn report(&self, member: &Bounded<'_>, spilled: f64) -> FullBackend {
        let part = if spilled > 0.0 {
            self.spilled / spilled
        } else {
            0.0
        };
        FullBackend {
            backend: member.name.to_owned(),
            share_of_spilled: part,
            times_share: self.new_flows / self.expected.max(f64::MIN_POSITIVE),
            peak_new_flows_per_s: self.peak,
            capacity: member.capacity.filter(|_| self.over_capacity),
            seconds: self.seconds.round() as u32,
        }
    }
}
