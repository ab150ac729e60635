//! Spikes: the new flows of the whole VIP exceed a multiple of their usual rate.

use super::{Thresholds, counts::Step};

/// Observations over which the usual rate is averaged.
const USUAL: f64 = 600.0;
/// The same during a spike, which changes the usual rate only slowly.
const USUAL_IN_SPIKE: f64 = 3600.0;
/// Observations until the usual rate is known.
const LEARNED: f64 = 120.0;
/// Observations over which the current rate is averaged.
const PRESENT: f64 = 5.0;

#[derive(Clone, Debug, Default)]
pub(super) struct Spike {
    usual: f64,
    now: f64,
    count: f64,
    raised_s: Option<f64>,
    high_count: u32,
}

impl Spike {
    /// When it was raised, and the multiple of the usual rate.
    pub(super) fn raised(&self) -> Option<(f64, f64)> {
        self.raised_s.map(|since_s| (since_s, self.times()))
    }

    fn times(&self) -> f64 {
        self.now / self.usual.max(1e-9)
    }

    /// New flows per second: usual and current.
    pub(super) fn rates(&self) -> (f64, f64) {
        (self.usual, self.now)
    }

    pub(super) fn observe(&mut self, step: &Step, thresholds: &Thresholds) {
        let rate = step.flows / step.length_s;
        self.now += (rate - self.now) / PRESENT.min(self.count + 1.0);
        let known = self.count >= LEARNED;
        let limit = match self.raised_s {
            None => thresholds.spike,
            Some(_) => f64::midpoint(1.0, thresholds.spike),
        };
        // Random variation of few flows is no spike.
        let chance = 4.0 * (self.usual / PRESENT).sqrt();
        let is_high = known
            && self.now >= thresholds.spike_floor_per_s
            && self.now > limit * self.usual + chance;
        self.high_count = if is_high { self.high_count + 1 } else { 0 };
        if self.high_count >= thresholds.short_s / 2 {
            self.raised_s.get_or_insert(step.now_s);
        } else if !is_high {
            self.raised_s = None;
        }
        self.count += 1.0;
        let memory = if self.raised_s.is_some() {
            USUAL_IN_SPIKE
        } else {
            USUAL
        };
        // A rising rate must not raise the usual rate before the spike is detected.
        let learned = if known && self.raised_s.is_none() {
            rate.min(2.0 * self.usual + thresholds.spike_floor_per_s)
        } else {
            rate
        };
        self.usual += (learned - self.usual) / memory.min(self.count);
    }
}
