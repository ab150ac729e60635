//! Concentration: the table says that one member gets far more than others, and is obeyed.
//!
//! The share is held against what an even spread over the capacities would give (an even spread, where capacities are
//! not known) and against the member's own share before the last revision, whichever is more. Where no
//! revision moved the member and capacities are not known, unequal shares are what somebody wanted.

use std::collections::HashMap;

use super::{
    Change, Member, Observation, Thresholds,
    counts::{Came, Step, rearranged},
    evidence::{Alternative, Bounds, Direction, Stretch},
    raised::Raised,
};

/// What a member's share is held against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Held {
    /// The share that it should have.
    pub(super) reference: f64,
    /// The share that is too much.
    pub(super) limit: f64,
    /// Whether the reference is from capacities.
    pub(super) by_capacity: bool,
}

/// A member whose share is too much, and what that was held against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Concentrated {
    pub(super) raised: Raised,
    pub(super) held: Held,
}

#[derive(Clone, Copy, Debug, Default)]
struct Watched {
    stretch: Stretch,
    raised: Option<Concentrated>,
}

/// The watch over concentration.
#[derive(Clone, Debug, Default)]
pub(super) struct Concentration {
    members: Vec<Watched>,
    any_raised: bool,
    before: Before,
}

/// What the members had before the last revision that gave them more. Looked up by name once, not each second: there may be
/// thousands of them.
#[derive(Clone, Debug, Default)]
struct Before {
    revision: Option<u64>,
    shares: Vec<Option<f64>>,
}

impl Before {
    fn learn(&mut self, change: Option<&Change>, members: &[Member]) {
        let revision = change.map(|change| change.revision);
        if self.revision == revision && self.shares.len() == members.len() {
            return;
        }
        let moved = change.map_or(&[][..], |change| &change.moved);
        let grown = moved.iter().filter(|moved| moved.after > moved.before);
        let grown: HashMap<&str, f64> = grown.map(|moved| (&*moved.name, moved.before)).collect();
        let shares = members
            .iter()
            .map(|member| grown.get(&*member.name).copied());
        self.shares = shares.collect();
        self.revision = revision;
    }
}

/// The even share of each member: over capacities if all are known.
struct Fair {
    capacity: Option<f64>,
    even: f64,
}

impl Fair {
    fn of(members: &[Member], step: &Step) -> Self {
        let mut total = Some(0.0);
        for (member, came) in members.iter().zip(&step.members) {
            if came.eligible {
                total = total
                    .zip(member.capacity)
                    .map(|(sum, capacity)| sum + capacity);
            }
        }
        Self {
            capacity: total.filter(|&total| total > 0.0),
            even: 1.0 / step.eligible.max(1) as f64,
        }
    }
}

impl Concentration {
    pub(super) fn rearrange(&mut self, places: &[Option<usize>]) {
        self.members = rearranged(&self.members, places);
        self.before = Before::default();
    }

    pub(super) fn raised(&self) -> impl Iterator<Item = (usize, &Concentrated)> {
        let members = if self.any_raised { &*self.members } else { &[] };
        members
            .iter()
            .enumerate()
            .filter_map(|(member, watched)| Some((member, watched.raised.as_ref()?)))
    }

    pub(super) fn observe(&mut self, seen: &Observation<'_>, step: &Step, thresholds: &Thresholds) {
        let change = seen
            .change
            .filter(|change| step.now_s - change.at_s <= thresholds.revision_memory_s);
        let fair = Fair::of(seen.members, step);
        if change.is_none() && fair.capacity.is_none() && !self.any_raised {
            return;
        }
        self.before.learn(change, seen.members);
        let wanted = thresholds.evidence(step.eligible);
        self.any_raised = false;
        for (place, came) in step.members.iter().enumerate() {
            let member = &seen.members[place];
            let held = held(member, &fair, self.before.shares[place], thresholds)
                .filter(|held| came.share > held.limit);
            let watched = &mut self.members[place];
            watched.observe(held, came, step, wanted, thresholds);
            self.any_raised |= watched.raised.is_some();
        }
    }
}

fn held(
    member: &Member,
    fair: &Fair,
    before: Option<f64>,
    thresholds: &Thresholds,
) -> Option<Held> {
    let by_capacity = fair
        .capacity
        .zip(member.capacity)
        .map(|(all, own)| own / all);
    let reference = match (before, by_capacity) {
        (None, None) => return None,
        (None, Some(share)) => share,
        (Some(before), share) => before.max(share.unwrap_or(fair.even)),
    };
    Some(Held {
        reference,
        limit: thresholds.concentrated(reference),
        by_capacity: by_capacity.is_some_and(|share| share == reference),
    })
}

impl Watched {
    fn observe(
        &mut self,
        held: Option<Held>,
        came: &Came,
        step: &Step,
        wanted: f64,
        thresholds: &Thresholds,
    ) {
        if let Some(Concentrated { raised, held }) = &mut self.raised {
            raised.add(came.flows, step.flows * held.reference);
            let half = f64::midpoint(1.0, held.limit / held.reference);
            if !came.eligible || raised.is_over(thresholds, |_, ratio| ratio < half) {
                *self = Self::default();
            }
            return;
        }
        let Some(held) = held else {
            self.stretch = Stretch::default();
            return;
        };
        let expected = step.flows * held.reference;
        let gain = Alternative::new(held.limit / held.reference).gain(came.flows, expected);
        let bounds = Bounds {
            step: wanted / f64::from(thresholds.least_seconds.max(1)),
            sum: 2.0 * wanted,
        };
        self.stretch
            .add(gain, came.flows, expected, bounds, step.began_s());
        if self.stretch.llr >= wanted && self.stretch.got > self.stretch.expected {
            let raised = Raised::new(Direction::Over, self.stretch, step.now_s);
            self.raised = Some(Concentrated { raised, held });
        }
    }
}
