//! Spikes: the whole VIP gets far more new flows than usual.

use super::{Thresholds, counts::Step};

/// Observations of which the usual rate is learned.
const USUAL: f64 = 600.0;
/// The same while a spike is on: it becomes usual only slowly.
const USUAL_IN_SPIKE: f64 = 3600.0;
/// Observations before a usual rate is known.
const LEARNED: f64 = 120.0;
/// Observations that the present is averaged over.
const PRESENT: f64 = 5.0;

/// The watch for spikes.
#[derive(Clone, Debug, Default)]
pub(super) struct Spike {
    usual: f64,
    now: f64,
    count: f64,
    on: Option<f64>,
    yes: u32,
}

impl Spike {
    /// Raised when, and how many times the usual rate it is.
    pub(super) fn raised(&self) -> Option<(f64, f64)> {
        self.on.map(|since_s| (since_s, self.times()))
    }

    pub(super) fn times(&self) -> f64 {
        self.now / self.usual.max(1e-9)
    }

    /// New flows a second: usual, and now.
    pub(super) fn rates(&self) -> (f64, f64) {
        (self.usual, self.now)
    }

    pub(super) fn observe(&mut self, step: &Step, thresholds: &Thresholds) {
        let rate = step.flows / step.length_s;
        self.now += (rate - self.now) / PRESENT.min(self.count + 1.0);
        let known = self.count >= LEARNED;
        let limit = match self.on {
            None => thresholds.spike,
            Some(_) => f64::midpoint(1.0, thresholds.spike),
        };
        // That few flows come at random must not be a spike.
        let chance = 4.0 * (self.usual / PRESENT).sqrt();
        let yes = known
            && self.now >= thresholds.spike_floor_per_s
            && self.now > limit * self.usual + chance;
        self.yes = if yes { self.yes + 1 } else { 0 };
        if self.yes >= thresholds.short_s / 2 {
            self.on.get_or_insert(step.now_s);
        } else if !yes {
            self.on = None;
        }
        self.count += 1.0;
        let memory = if self.on.is_some() {
            USUAL_IN_SPIKE
        } else {
            USUAL
        };
        // What is far more than usual must not become usual before it was noticed.
        let learned = if known && self.on.is_none() {
            rate.min(2.0 * self.usual + thresholds.spike_floor_per_s)
        } else {
            rate
        };
        self.usual += (learned - self.usual) / memory.min(self.count);
    }
}
