//! Table ≠ intended: no statistics, two numbers that should be one.

use super::{Observation, Thresholds, counts::Step};

/// Observations in a row in which the table is wrong until it is said, and right until it is over.
const STEADY: u32 = 5;
/// Part of its intended share by which a member's slots may miss it.
const ROUNDING: f64 = 0.01;
/// Slots by which they may.
const ROUNDING_SLOTS: f64 = 2.0;

/// A member that does not have the slots it should have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Off {
    pub(super) member: usize,
    pub(super) intended: f64,
    pub(super) table: f64,
}

impl Off {
    pub(super) fn ratio(&self) -> f64 {
        self.table / self.intended.max(1e-9)
    }

    /// Whether it is more than rounding could ever be.
    pub(super) fn matters(&self, thresholds: &Thresholds) -> bool {
        let most = 1.0 + thresholds.tolerance;
        !(1.0 / most..=most).contains(&self.ratio())
    }
}

/// The watch over the table.
#[derive(Clone, Debug, Default)]
pub(super) struct Intended {
    wrong: u32,
    right: u32,
    since_s: f64,
    raised_s: Option<f64>,
    off: Vec<Off>,
}

impl Intended {
    /// Since when, raised when, and who.
    pub(super) fn raised(&self) -> Option<(f64, f64, &[Off])> {
        self.raised_s
            .map(|raised_s| (self.since_s, raised_s, &*self.off))
    }

    pub(super) fn rearrange(&mut self) {
        // The places in `off` are those of other members now.
        self.off.clear();
    }

    pub(super) fn observe(&mut self, seen: &Observation<'_>, step: &Step) {
        let off = off(seen);
        if off.is_empty() {
            self.wrong = 0;
            self.right += 1;
            if self.right >= STEADY {
                self.raised_s = None;
                self.off.clear();
            }
            return;
        }
        self.right = 0;
        self.off = off;
        // While the table changes, what is intended and what is there are of different moments.
        self.wrong = if step.stable { self.wrong + 1 } else { 0 };
        if self.wrong == 1 && self.raised_s.is_none() {
            self.since_s = step.now_s;
        }
        if self.wrong >= STEADY && self.raised_s.is_none() {
            self.raised_s = Some(step.now_s);
        }
    }
}

fn off(seen: &Observation<'_>) -> Vec<Off> {
    let sum = |share: fn(&super::Member) -> f64| seen.members.iter().map(share).sum::<f64>();
    if sum(|m| m.intended_share) < 0.5 || sum(|m| m.table_share) < 0.5 {
        return Vec::new();
    }
    let slots = ROUNDING_SLOTS / f64::from(seen.ring_size.max(1));
    let members = seen.members.iter().enumerate();
    let off = members.filter(|(_, member)| {
        let missed = (member.table_share - member.intended_share).abs();
        missed > slots.max(ROUNDING * member.intended_share)
    });
    off.map(|(member, shares)| Off {
        member,
        intended: shares.intended_share,
        table: shares.table_share,
    })
    .collect()
}
