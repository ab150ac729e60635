//! What was raised, until it is over.

use super::{
    Thresholds,
    evidence::{Direction, Stretch},
};

/// Flows that should have come in a window that may clear a finding.
const ENOUGH: f64 = 100.0;
/// Observations after which a window ends, however few came.
const LONGEST: u32 = 300;

/// A deviation that is on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raised {
    pub(super) direction: Direction,
    pub(super) since_s: f64,
    pub(super) raised_s: f64,
    /// What came since it began.
    pub(super) got: f64,
    /// What should have come.
    pub(super) expected: f64,
    window: Window,
    /// Windows in a row in which all was well.
    calm: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    got: f64,
    expected: f64,
    observations: u32,
}

impl Raised {
    pub(super) fn new(direction: Direction, stretch: Stretch, now_s: f64) -> Self {
        Self {
            direction,
            since_s: stretch.since_s,
            raised_s: now_s,
            got: stretch.got,
            expected: stretch.expected,
            window: Window::default(),
            calm: 0,
        }
    }

    pub(super) fn add(&mut self, got: f64, expected: f64) {
        self.got += got;
        self.expected += expected;
        self.window.got += got;
        self.window.expected += expected;
        self.window.observations += 1;
    }

    /// What came over what should have come, since it began.
    pub(super) fn ratio(&self) -> f64 {
        self.got / self.expected.max(f64::MIN_POSITIVE)
    }

    /// Whether enough windows in a row were calm, which `is_calm` tells of a ratio.
    pub(super) fn is_over(
        &mut self,
        thresholds: &Thresholds,
        is_calm: impl Fn(&Self, f64) -> bool,
    ) -> bool {
        let Window {
            got,
            expected,
            observations,
        } = self.window;
        let full = observations >= thresholds.short_s && expected >= ENOUGH;
        if !full && observations < LONGEST {
            return false;
        }
        self.window = Window::default();
        let calm = expected > 0.0 && is_calm(self, got / expected);
        self.calm = if calm { self.calm + 1 } else { 0 };
        self.calm >= thresholds.clear_windows
    }
}
