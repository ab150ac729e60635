//! From totals to what came in one step: members kept apart by name, resets and gaps seen.

use std::{collections::HashMap, sync::Arc};

use super::{Facts, Member, Observation};

/// A gap after which the counts of a step say nothing about when they came.
const LONGEST_STEP_S: f64 = 60.0;
/// Share that a member without slots is tested with: what it should get is nothing, and no ratio has that.
const LEAST_SHARE: f64 = 1e-4;

/// What came between two observations.
#[derive(Clone, Debug, Default)]
pub(super) struct Step {
    pub(super) now_s: f64,
    pub(super) length_s: f64,
    /// New flows of all members.
    pub(super) flows: f64,
    pub(super) members: Vec<Came>,
    /// Whether the table was the same throughout, as far as one can know.
    pub(super) stable: bool,
    /// Whether flows of before a change are counted again, so that shares say little.
    pub(super) suspended: bool,
    /// Members that should get new flows.
    pub(super) eligible: usize,
    /// Whether packets and bytes are counted.
    pub(super) has_volume: bool,
}

impl Step {
    /// When it began.
    pub(super) fn began_s(&self) -> f64 {
        self.now_s - self.length_s
    }
}

/// What came for a member.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Came {
    pub(super) flows: f64,
    pub(super) packets: f64,
    pub(super) bytes: f64,
    pub(super) share: f64,
    /// The largest share that the member had in the step, or shortly before.
    pub(super) most_share: f64,
    /// The smallest.
    pub(super) least_share: f64,
    pub(super) eligible: bool,
}

/// What is kept of a member from one observation to the next.
#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    totals: Option<[u64; 3]>,
    /// Its share in the last two observations.
    shares: [f64; 2],
}

/// The members, and what they had.
#[derive(Clone, Debug, Default)]
pub(super) struct Roster {
    names: Vec<Arc<str>>,
    places: HashMap<Arc<str>, usize>,
    kept: Vec<Kept>,
    last_s: Option<f64>,
    since_change: u32,
}

/// Observations that a table which changed casts doubt on: counts and shares are not read in one moment.
const DOUBT: u32 = 3;

fn came_since(before: u64, now: u64) -> u64 {
    // A smaller number means that counting began anew: all of it is new.
    now.checked_sub(before).unwrap_or(now)
}

fn same(name: &Arc<str>, member: &Member) -> bool {
    Arc::ptr_eq(name, &member.name) || *name == member.name
}

impl Roster {
    pub(super) fn names(&self) -> &[Arc<str>] {
        &self.names
    }

    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.places.get(name).copied()
    }

    /// Takes the members as they are now; where they had been, if there are others than before.
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
        self.kept = rearranged(&self.kept, &places);
        self.names = members.iter().map(|member| member.name.clone()).collect();
        self.places = self.names.iter().cloned().zip(0..).collect();
        self.since_change = 0;
        Some(places)
    }

    /// What came since the last observation. False when that can't be told: it is the first, time
    /// went back, or too much of it went by.
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
        step.suspended = seen.in_transition && !facts.tcp;
        for (kept, member) in self.kept.iter_mut().zip(seen.members) {
            let came = kept.came(member);
            if came.share != kept.shares[0] {
                self.since_change = 0;
            }
            kept.shares = [came.share, kept.shares[0]];
            step.flows += came.flows;
            step.eligible += usize::from(came.eligible);
            step.has_volume |= came.packets > 0.0;
            step.members.push(came);
        }
        step.stable = self.since_change >= DOUBT;
        length_s.is_some_and(|length_s| length_s <= LONGEST_STEP_S)
    }
}

impl Kept {
    fn came(&mut self, member: &Member) -> Came {
        let now = [member.new_flows, member.packets, member.bytes];
        let before = self.totals.replace(now).unwrap_or(now);
        let came = |which: usize| came_since(before[which], now[which]) as f64;
        let share = member.table_share;
        let [last, last_but_one] = self.shares;
        Came {
            flows: came(0),
            packets: came(1),
            bytes: came(2),
            share,
            most_share: share.max(last).max(last_but_one).max(LEAST_SHARE),
            least_share: share.min(last).min(last_but_one),
            eligible: member.phase.is_eligible() && share > 0.0,
        }
    }
}

/// The same things for other members: for each, what it had where it was.
pub(super) fn rearranged<T: Clone + Default>(had: &[T], places: &[Option<usize>]) -> Vec<T> {
    places
        .iter()
        .map(|place| place.map_or_else(T::default, |place| had[place].clone()))
        .collect()
}
