//! The runner: a task for every target.

use std::collections::BTreeMap;

use tokio::sync::mpsc;

use super::{HealthChange, Target};
use crate::api::types::HealthStatus;

/// The checks that run. They end when it is dropped.
#[derive(Debug)]
pub struct Health {
    changes: mpsc::UnboundedSender<HealthChange>,
}

impl Health {
    /// Begins, with nothing to check yet. The receiver gets every change at once, in order.
    ///
    /// Checks run as tasks of the runtime that is current when [`Health::set_targets`] is called, in the network
    /// namespace of its threads. `seed` decides the jitter.
    #[must_use]
    pub fn start(seed: u64) -> (Self, mpsc::UnboundedReceiver<HealthChange>) {
        let _ = seed;
        let (changes, receiver) = mpsc::unbounded_channel();
        (Self { changes }, receiver)
    }

    /// Sets what is checked. Targets that stay (the same names, address and ports) keep their state,
    /// also when the way they are checked changes; those that are gone are forgotten.
    pub fn set_targets(&mut self, targets: Vec<Target>) {
        let _ = (targets, &self.changes);
    }

    /// What is known about a backend of a VIP; `None` when it is not checked.
    #[must_use]
    pub fn status(&self, vip: &str, backend: &str) -> Option<HealthStatus> {
        let _ = (vip, backend);
        None
    }

    /// What is known about all, by VIP and backend.
    #[must_use]
    pub fn statuses(&self) -> BTreeMap<(String, String), HealthStatus> {
        BTreeMap::new()
    }
}
