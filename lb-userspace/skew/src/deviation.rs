//! A raised deviation of a member's share, from the finding until it is cleared.

use super::{
    Thresholds,
    evidence::{Cusum, Direction},
};

/// Expected flows of a window that can clear a finding.
const ENOUGH: f64 = 100.0;
/// Observations after which a window ends regardless of its flows.
const LONGEST: u32 = 300;

#[derive(Clone, Copy, Debug)]
pub(super) struct Deviation {
    pub(super) direction: Direction,
    pub(super) since_s: f64,
    pub(super) raised_s: f64,
    /// Flows since the onset.
    pub(super) observed: f64,
    /// Expected flows since the onset.
    pub(super) expected: f64,
    window: Window,
    /// Consecutive windows without deviation.
    normal_windows: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    observed: f64,
    expected: f64,
    observations: u32,
}

impl Deviation {
    pub(super) fn new(direction: Direction, cusum: Cusum, now_s: f64) -> Self {
        Self {
            direction,
            since_s: cusum.since_s,
            raised_s: now_s,
            observed: cusum.observed,
            expected: cusum.expected,
            window: Window::default(),
            normal_windows: 0,
        }
    }

    pub(super) fn add(&mut self, observed: f64, expected: f64) {
        self.observed += observed;
        self.expected += expected;
        self.window.observed += observed;
        self.window.expected += expected;
        self.window.observations += 1;
    }

    /// Observed divided by expected flows, since the onset.
    pub(super) fn ratio(&self) -> f64 {
        self.observed / self.expected.max(f64::MIN_POSITIVE)
    }

    /// Whether enough consecutive windows were normal; `is_normal` tests the ratio of a window.
    pub(super) fn is_cleared(
        &mut self,
        thresholds: &Thresholds,
        is_normal: impl Fn(&Self, f64) -> bool,
    ) -> bool {
        let Window {
            observed,
            expected,
            observations,
        } = self.window;
        let full = observations >= thresholds.short_s && expected >= ENOUGH;
        if !full && observations < LONGEST {
            return false;
        }
        self.window = Window::default();
        let normal = expected > 0.0 && is_normal(self, observed / expected);
        self.normal_windows = if normal { self.normal_windows + 1 } else { 0 };
        self.normal_windows >= thresholds.clear_windows
    }
}
