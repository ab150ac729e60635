//! Windows over the last two minutes.
//!
//! All accounts share one list of reading times. Each account keeps its running sum at each of them, so
//! the traffic in a window of any length is the difference of two sums.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{LONGEST_WINDOW, Totals};

/// Readings that are kept: one per second, the start of the window, and some spare.
const MOMENTS: usize = LONGEST_WINDOW.as_secs() as usize + 8;

/// Readings jitter; a window must not be a second shorter for that.
const TOLERANCE: Duration = Duration::from_millis(500);

/// The times of the readings.
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

    /// Number of readings between the start of a window of this length and the last reading.
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

/// Running sums of an account, the newest last.
#[derive(Clone, Debug, Default)]
pub(super) struct Cumulative {
    sums: VecDeque<Totals>,
    /// Since the last reading.
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
            // Nothing before the first reading.
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

    /// Traffic in the last `back` readings.
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

    /// Whether there was no traffic in the kept time.
    pub(super) fn is_quiet(&self) -> bool {
        self.over(MOMENTS) == Totals::default()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
