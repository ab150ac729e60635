//! Concentration: the table gives one member far more than the others, and the traffic follows it.
//!
//! The reference is the member's share of the capacity (an even share if capacities are unknown) or
//! its share before the last revision, whichever is larger. If no revision changed the member's
//! share and capacities are unknown, unequal shares are taken as intended.

use std::collections::HashMap;

use super::{
    Change, Member, Observation, Thresholds,
    counts::{MemberCounts, Step, rearranged},
    deviation::Deviation,
    evidence::{Alternative, Bounds, Cusum, Direction},
};

/// What the share of a member is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Criterion {
    /// The expected share.
    pub(super) reference: f64,
    /// The share above which it is a concentration.
    pub(super) limit: f64,
    /// Whether the reference is the share of the capacity.
    pub(super) by_capacity: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Concentrated {
    pub(super) raised: Deviation,
    pub(super) criterion: Criterion,
    /// New flows of all members since the onset.
    all: f64,
}

impl Concentrated {
    /// The member's share of the new flows since the onset.
    pub(super) fn share(&self) -> f64 {
        self.raised.observed / self.all.max(f64::MIN_POSITIVE)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct MemberState {
    cusum: Cusum,
    /// New flows of all members in the interval of the sum.
    all: f64,
    raised: Option<Concentrated>,
}

/// Detects concentration.
#[derive(Clone, Debug, Default)]
pub(super) struct Concentration {
    members: Vec<MemberState>,
    any_raised: bool,
    before: SharesBefore,
}

/// Shares before the last revision that raised them, by member. Looked up by name once per
/// revision, because there may be thousands of members.
#[derive(Clone, Debug, Default)]
struct SharesBefore {
    revision: Option<u64>,
    shares: Vec<Option<f64>>,
}

impl SharesBefore {
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

/// Fair shares: by capacity if all capacities are known, otherwise even.
struct FairShares {
    capacity: Option<f64>,
    even: f64,
}

impl FairShares {
    fn of(members: &[Member], step: &Step) -> Self {
        let mut total = Some(0.0);
        for (member, counts) in members.iter().zip(&step.members) {
            if counts.eligible {
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
        self.before = SharesBefore::default();
    }

    pub(super) fn raised(&self) -> impl Iterator<Item = (usize, &Concentrated)> {
        let members = if self.any_raised { &*self.members } else { &[] };
        members
            .iter()
            .enumerate()
            .filter_map(|(member, state)| Some((member, state.raised.as_ref()?)))
    }

    pub(super) fn observe(&mut self, seen: &Observation<'_>, step: &Step, thresholds: &Thresholds) {
        let change = seen
            .change
            .filter(|change| step.now_s - change.at_s <= thresholds.revision_memory_s);
        let fair = FairShares::of(seen.members, step);
        if change.is_none() && fair.capacity.is_none() && !self.any_raised {
            return;
        }
        self.before.learn(change, seen.members);
        let wanted = thresholds.evidence(step.eligible);
        self.any_raised = false;
        for (place, counts) in step.members.iter().enumerate() {
            let member = &seen.members[place];
            let criterion = criterion(member, &fair, self.before.shares[place], thresholds)
                .filter(|criterion| counts.share > criterion.limit);
            let state = &mut self.members[place];
            state.observe(criterion, counts, step, wanted, thresholds);
            self.any_raised |= state.raised.is_some();
        }
    }
}

fn criterion(
    member: &Member,
    fair: &FairShares,
    before: Option<f64>,
    thresholds: &Thresholds,
) -> Option<Criterion> {
    let by_capacity = fair
        .capacity
        .zip(member.capacity)
        .map(|(all, own)| own / all);
    let reference = match (before, by_capacity) {
        (None, None) => return None,
        (None, Some(share)) => share,
        (Some(before), share) => before.max(share.unwrap_or(fair.even)),
    };
    Some(Criterion {
        reference,
        limit: thresholds.concentrated(reference),
        by_capacity: by_capacity.is_some_and(|share| share == reference),
    })
}

impl MemberState {
    fn observe(
        &mut self,
        criterion: Option<Criterion>,
        counts: &MemberCounts,
        step: &Step,
        wanted: f64,
        thresholds: &Thresholds,
    ) {
        if let Some(concentrated) = &mut self.raised {
            let Concentrated {
                raised,
                criterion,
                all,
            } = concentrated;
            *all += step.flows;
            raised.add(counts.flows, step.flows * criterion.reference);
            let half = f64::midpoint(1.0, criterion.limit / criterion.reference);
            if !counts.eligible || raised.is_cleared(thresholds, |_, ratio| ratio < half) {
                *self = Self::default();
            }
            return;
        }
        let Some(criterion) = criterion else {
            *self = Self::default();
            return;
        };
        let expected = step.flows * criterion.reference;
        let gain =
            Alternative::new(criterion.limit / criterion.reference).gain(counts.flows, expected);
        let bounds = Bounds {
            step: wanted / f64::from(thresholds.least_seconds.max(1)),
            sum: 2.0 * wanted,
        };
        self.cusum
            .add(gain, counts.flows, expected, bounds, step.began_s());
        self.all = match self.cusum.llr > 0.0 {
            true => self.all + step.flows,
            false => 0.0,
        };
        if self.cusum.llr >= wanted && self.cusum.observed > self.cusum.expected {
            let raised = Deviation::new(Direction::Over, self.cusum, step.now_s);
            let all = self.all;
            self.raised = Some(Concentrated {
                raised,
                criterion,
                all,
            });
        }
    }
}
