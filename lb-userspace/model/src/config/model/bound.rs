//! `[vip.bound]`.

use super::BoundFactor;
use crate::config::kind;

table! {
    /// How many new flows a backend may get, however skewed the clients are.
    #[derive(Copy)]
    Bound as TypedBound, "vip.bound", with Default;
    keys {
        /// No backend gets more than this multiple of its share of the VIP's new flows: its weight over
        /// the sum of the weights of the eligible backends.
        factor: BoundFactor, [optional "no bound by share"], kind::bound_factor(), Live;
        /// Whether no backend gets more new flows per second than its `capacity`. Backends without
        /// `capacity` are not bounded by it.
        capacity: bool, [default false], kind::boolean(), Live;
    }
}

impl Bound {
    /// Whether there is a bound.
    #[must_use]
    pub const fn is_set(&self) -> bool {
        self.factor.is_some() || self.capacity
    }
}
