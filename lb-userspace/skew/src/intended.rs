//! Compares the table share of each member with its intended share. No statistics: both are exact
//! numbers.

use super::{Observation, Thresholds, counts::Step};

/// Consecutive observations that raise a finding, or clear it.
const STEADY: u32 = 5;
/// Allowed difference, relative to the intended share.
const ROUNDING: f64 = 0.01;
/// Allowed difference in slots.
const ROUNDING_SLOTS: f64 = 2.0;

/// A member whose table share is wrong.
#[derive(Clone, Copy, Debug)]
pub(super) struct TableDeviation {
    pub(super) member: usize,
    pub(super) intended: f64,
    pub(super) table: f64,
}

impl TableDeviation {
    pub(super) fn ratio(&self) -> f64 {
        self.table / self.intended.max(1e-9)
    }

    /// Whether the difference exceeds the tolerance, and so cannot be rounding.
    pub(super) fn matters(&self, thresholds: &Thresholds) -> bool {
        let most = 1.0 + thresholds.tolerance;
        !(1.0 / most..=most).contains(&self.ratio())
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Intended {
    wrong: u32,
    right: u32,
    since_s: f64,
    raised_s: Option<f64>,
    deviations: Vec<TableDeviation>,
}

impl Intended {
    /// Onset, time of the finding, and the members.
    pub(super) fn raised(&self) -> Option<(f64, f64, &[TableDeviation])> {
        self.raised_s
            .map(|raised_s| (self.since_s, raised_s, &*self.deviations))
    }

    pub(super) fn rearrange(&mut self) {
        // The indexes refer to the old members.
        self.deviations.clear();
    }

    pub(super) fn observe(&mut self, seen: &Observation<'_>, step: &Step) {
        let deviations = deviations(seen);
        if deviations.is_empty() {
            self.wrong = 0;
            self.right += 1;
            if self.right >= STEADY {
                self.raised_s = None;
                self.deviations.clear();
            }
            return;
        }
        self.right = 0;
        self.deviations = deviations;
        // While the table changes, intended and table shares are from different moments.
        self.wrong = if step.stable { self.wrong + 1 } else { 0 };
        if self.wrong == 1 && self.raised_s.is_none() {
            self.since_s = step.now_s;
        }
        if self.wrong >= STEADY && self.raised_s.is_none() {
            self.raised_s = Some(step.now_s);
        }
    }
}

fn deviations(seen: &Observation<'_>) -> Vec<TableDeviation> {
    let sum = |share: fn(&super::Member) -> f64| seen.members.iter().map(share).sum::<f64>();
    if sum(|m| m.intended_share) < 0.5 || sum(|m| m.table_share) < 0.5 {
        return Vec::new();
    }
    let slots = ROUNDING_SLOTS / f64::from(seen.ring_size.max(1));
    let members = seen.members.iter().enumerate();
    let deviations = members.filter(|(_, member)| {
        let missed = (member.table_share - member.intended_share).abs();
        missed > slots.max(ROUNDING * member.intended_share)
    });
    deviations
        .map(|(member, shares)| TableDeviation {
            member,
            intended: shares.intended_share,
            table: shares.table_share,
        })
        .collect()
}
