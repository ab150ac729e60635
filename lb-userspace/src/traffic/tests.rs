//! Totals over everything that can happen to counters.
