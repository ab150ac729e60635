//! The Prometheus metrics: one read-only page, rendered on request.
//!
//! It is rendered from what the engine published ([`NodeState`], totals of [`crate::traffic`],
//! [`Facts`]), never from the kernel's maps, and on another thread: a scrape delays neither the engine
//! nor the data path.
//!
//! Labels are names from the configuration (`vip`, `backend`, `interface`) or from fixed lists, so the
//! configuration bounds the number of series.

mod announce;
mod family;
mod fleet;
mod page;
mod process;
mod render;
mod server;
mod sources;

#[cfg(test)]
pub(crate) mod example;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc};

pub use family::{FAMILIES, Family, Kind};
pub use render::render;
pub use server::run;
use tokio::sync::watch;

use crate::{
    alerts::{Alerts, Firing, ReceiverCounts},
    node::NodeState,
    traffic::{SharedTraffic, TotalsCopy},
};
use lb_model::config::Config;

/// Facts that the engine publishes for the metrics only.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Address of the metrics endpoint; none until a configuration is active.
    pub listen: Option<SocketAddr>,
    pub changes: Changes,
    /// Since the start.
    pub ring_builds: u64,
    pub ring_build_seconds: f64,
    pub reactions: Reactions,
    pub maps: Vec<MapFacts>,
}

impl Facts {
    pub fn configure(&mut self, config: &Config) {
        self.listen = Some(config.metrics.listen);
    }
}

/// Number of changes by result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub applied: u64,
    pub unchanged: u64,
    pub refused: u64,
    /// The configuration has errors or could not be read.
    pub invalid: u64,
    pub rolled_back: u64,
    pub failed: u64,
}

/// Times from the end of the check that decided a change of health to the swap of the ring.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reactions {
    pub count: u64,
    /// Sum.
    pub seconds: f64,
    /// Maximum since the start, seconds.
    pub slowest: f64,
}

impl Reactions {
    pub const fn add(&mut self, seconds: f64) {
        self.count += 1;
        self.seconds += seconds;
        self.slowest = self.slowest.max(seconds);
    }
}

/// A BPF map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapFacts {
    pub name: String,
    /// Used entries, if known.
    pub entries: Option<u64>,
    pub max_entries: u64,
    pub bytes: Option<u64>,
}

/// Sources of the page.
#[derive(Clone, Debug)]
pub struct Sources {
    pub state: watch::Receiver<Arc<NodeState>>,
    pub traffic: SharedTraffic,
    pub facts: watch::Receiver<Arc<Facts>>,
    pub alerts: Alerts,
}

/// The contents of the page.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub state: Arc<NodeState>,
    pub totals: TotalsCopy,
    pub facts: Arc<Facts>,
    pub firing: Vec<Firing>,
    pub refused: u64,
    pub receivers: Vec<ReceiverCounts>,
}

impl Sources {
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            state: Arc::clone(&self.state.borrow()),
            totals: self.traffic.lock().copy(),
            facts: Arc::clone(&self.facts.borrow()),
            firing: self.alerts.firing(),
            refused: self.alerts.refused(),
            receivers: self.alerts.receiver_counts(),
        }
    }
}
