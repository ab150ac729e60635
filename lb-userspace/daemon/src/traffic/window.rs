//! The last two minutes, second by second.
//!
//! All accounts share one list of the moments at which was read. Each account keeps its running sum at each
//! of these moments: what it got in a window is the difference of two of them, whatever the window's length.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{LONGEST_WINDOW, Totals};

/// Moments that are kept: one a second, the first of the window, and some to spare.
const MOMENTS: usize = LONGEST_WINDOW.as_secs() as usize + 8;

/// A reading comes a little early or late; a window is not to be a second shorter for that.
const TOLERANCE: Duration = Duration::from_millis(500);

/// The moments of the readings.
#[derive(Debug, Default)]
pub(super) struct Frames {
    moments: VecDeque<Instant>,
}

impl Frames {
    pub(super) fn is_empty(&self) -> bool {
        self.moments.is_empty()
    }

    pub(super) fn begin(&mut self, at: Instant) {
        if self.moments.len() == MOMENTS {
            self.moments.pop_front();
        }
        self.moments.push_back(at);
    }

    /// How many readings before the last one a window of this length began.
    pub(super) fn back(&self, span: Duration) -> usize {
        let Some(last) = self.moments.back() else {
            return 0;
        };
        let wanted = span.min(LONGEST_WINDOW).saturating_sub(TOLERANCE);
        let is_inside = |at: &Instant| last.duration_since(*at) < wanted;
        let inside = self.moments.iter().rev().take_while(|at| is_inside(at));
        inside.count().min(self.moments.len() - 1)
    }

    /// Seconds from that reading to the last one.
    pub(super) fn seconds(&self, back: usize) -> f64 {
        let newest = self.moments.len().checked_sub(1);
        let first = newest.and_then(|newest| self.moments.get(newest.checked_sub(back)?));
        match (first, self.moments.back()) {
            (Some(first), Some(last)) => last.duration_since(*first).as_secs_f64(),
            _ => 0.0,
        }
    }
}

/// Running sums of an account, the last one at the last moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Cumulative {
    sums: VecDeque<Totals>,
    /// What came since.
    open: Totals,
}

impl Cumulative {
    pub(super) fn add(&mut self, amount: &Totals) {
        self.open.packets += amount.packets;
        self.open.bytes += amount.bytes;
        self.open.new_flows += amount.new_flows;
    }

    /// Ends the reading.
    pub(super) fn end_frame(&mut self) {
        if self.sums.is_empty() {
            // It had nothing before it was there.
            self.sums.push_back(Totals::default());
        }
        let mut sum = self.sums.back().copied().unwrap_or_default();
        let open = std::mem::take(&mut self.open);
        sum.packets += open.packets;
        sum.bytes += open.bytes;
        sum.new_flows += open.new_flows;
        if self.sums.len() == MOMENTS {
            self.sums.pop_front();
        }
        self.sums.push_back(sum);
    }

    /// What came in the last `back` readings.
    pub(super) fn over(&self, back: usize) -> Totals {
        let Some(last) = self.sums.back() else {
            return Totals::default();
        };
        let first = self.sums.len().saturating_sub(1 + back);
        let first = self.sums[first];
        Totals {
            packets: last.packets - first.packets,
            bytes: last.bytes - first.bytes,
            new_flows: last.new_flows - first.new_flows,
        }
    }

    /// Whether anything came in the time that is kept.
    pub(super) fn is_quiet(&self) -> bool {
        self.over(MOMENTS) == Totals::default()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
