//! Turns totals into counts per time step. Members are matched by name; counter resets and gaps are
//! detected.

use std::{collections::HashMap, sync::Arc};

use super::{Facts, Member, Observation};

/// Longest step, seconds: the counts of a longer one cannot be attributed to a time.
const LONGEST_STEP_S: f64 = 60.0;
/// Share assumed for a member without slots: a ratio to 0 is undefined.
const LEAST_SHARE: f64 = 1e-4;

/// Counts between two observations.
#[derive(Clone, Debug, Default)]
pub(super) struct Step {
    pub(super) now_s: f64,
    pub(super) length_s: f64,
    /// New flows of all members, as the ring assigned them.
    pub(super) flows: f64,
    pub(super) members: Vec<MemberCounts>,
    /// Whether the table was unchanged during the step, as far as can be known.
    pub(super) stable: bool,
    /// Whether existing flows are counted as new, so that shares are not evaluated.
    pub(super) suspended: bool,
    /// Number of members that should get new flows.
    pub(super) eligible: usize,
    /// Whether packets and bytes are counted.
    pub(super) has_volume: bool,
    /// Whether new flows of full members may spill to others.
    pub(super) bounded: bool,
}

impl Step {
    pub(super) fn began_s(&self) -> f64 {
        self.now_s - self.length_s
    }
}

/// Counts of a member in a step.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MemberCounts {
    /// New flows as the ring assigned them.
    pub(super) flows: f64,
    /// New flows that it got.
    pub(super) got: f64,
    pub(super) packets: f64,
    pub(super) bytes: f64,
    pub(super) share: f64,
    /// The largest share of the member in the last three observations.
    pub(super) most_share: f64,
    /// The smallest of these shares.
    pub(super) least_share: f64,
    pub(super) eligible: bool,
}

/// A member at the previous observation.
#[derive(Clone, Copy, Debug, Default)]
struct Previous {
    totals: Option<[u64; 4]>,
    /// Shares of the last two observations, newest first.
    shares: [f64; 2],
}

/// Members by name, with their last totals.
#[derive(Clone, Debug, Default)]
pub(super) struct MemberIndex {
    names: Vec<Arc<str>>,
    places: HashMap<Arc<str>, usize>,
    previous: Vec<Previous>,
    last_s: Option<f64>,
    since_change: u32,
}

/// Observations after a table change in which counts and shares may be of different moments.
const UNSTABLE_FOR: u32 = 3;

fn increase(before: u64, now: u64) -> u64 {
    // A smaller total means that the counter was reset.
    now.checked_sub(before).unwrap_or(now)
}

fn same(name: &Arc<str>, member: &Member) -> bool {
    Arc::ptr_eq(name, &member.name) || *name == member.name
}

impl MemberIndex {
    pub(super) fn names(&self) -> &[Arc<str>] {
        &self.names
    }

    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.places.get(name).copied()
    }

    /// Updates the list of members. Returns the old index of each if the list changed.
    pub(super) fn take(&mut self, members: &[Member]) -> Option<Vec<Option<usize>>> {
        let unchanged = self.names.len() == members.len()
            && self.names.iter().zip(members).all(|(n, m)| same(n, m));
        if unchanged {
            return None;
        }
        let places: Vec<_> = members
            .iter()
            .map(|member| self.place(&member.name))
            .collect();
        self.previous = rearranged(&self.previous, &places);
        self.names = members.iter().map(|member| member.name.clone()).collect();
        self.places = self.names.iter().cloned().zip(0..).collect();
        self.since_change = 0;
        Some(places)
    }

    /// Computes the counts since the last observation. Returns false if there are none: at the
    /// first observation, when time went back, or after too long a gap.
    pub(super) fn step(&mut self, seen: &Observation<'_>, facts: Facts, step: &mut Step) -> bool {
        let length_s = self.last_s.map(|last_s| seen.at_s - last_s);
        if length_s.is_some_and(|length_s| length_s <= 0.0) {
            return false;
        }
        self.last_s = Some(seen.at_s);
        step.now_s = seen.at_s;
        step.length_s = length_s.unwrap_or(0.0);
        step.flows = 0.0;
        step.eligible = 0;
        step.has_volume = false;
        step.members.clear();
        self.since_change = self.since_change.saturating_add(1);
        step.bounded = seen.bounded;
        step.suspended = seen.in_transition && !facts.tcp;
        for (previous, member) in self.previous.iter_mut().zip(seen.members) {
            let counts = previous.counts(member);
            if counts.share != previous.shares[0] {
                self.since_change = 0;
            }
            previous.shares = [counts.share, previous.shares[0]];
            step.flows += counts.flows;
            step.eligible += usize::from(counts.eligible);
            step.has_volume |= counts.packets > 0.0;
            step.members.push(counts);
        }
        step.stable = self.since_change >= UNSTABLE_FOR;
        length_s.is_some_and(|length_s| length_s <= LONGEST_STEP_S)
    }
}

impl Previous {
    fn counts(&mut self, member: &Member) -> MemberCounts {
        let now = [
            member.ring_flows.unwrap_or(member.new_flows),
            member.packets,
            member.bytes,
            member.new_flows,
        ];
        let before = self.totals.replace(now).unwrap_or(now);
        let counts = |which: usize| increase(before[which], now[which]) as f64;
        let share = member.table_share;
        let [last, before_last] = self.shares;
        MemberCounts {
            flows: counts(0),
            packets: counts(1),
            bytes: counts(2),
            got: counts(3),
            share,
            most_share: share.max(last).max(before_last).max(LEAST_SHARE),
            least_share: share.min(last).min(before_last),
            eligible: member.phase.is_eligible() && share > 0.0,
        }
    }
}

/// Reorders values for a new list of members; `places` has the old index of each.
pub(super) fn rearranged<T: Clone + Default>(had: &[T], places: &[Option<usize>]) -> Vec<T> {
    places
        .iter()
        .map(|place| place.map_or_else(T::default, |place| had[place].clone()))
        .collect()
}
