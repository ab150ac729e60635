//! What Prometheus gets: one page, read-only, made when it is asked for.
//!
//! It is rendered from what the engine published ([`NodeState`], totals of [`crate::traffic`], [`Facts`]), never from the kernel's
//! tables, and in a thread of its own: a scrape holds up neither the engine nor the data path.
//!
//! Labels are names of the configuration (`vip`, `backend`, `interface`) or words of a fixed list: the number of
//! series is bounded by the configuration.

mod family;
mod page;
mod process;
mod render;
mod server;

#[cfg(test)]
pub(crate) mod example;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc};

pub use family::{FAMILIES, Family, Kind};
pub use render::render;
pub use server::{MetricsError, bind, run, serve};
use tokio::sync::watch;

use crate::{
    alerts::{Alerts, Firing, ReceiverCounts},
    node::NodeState,
    traffic::{SharedTraffic, TotalsCopy},
};
use lb_model::config::Config;

/// What the engine knows besides the status.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Where the page is to be served; none until a configuration is in force.
    pub listen: Option<SocketAddr>,
    /// Changes by what became of them.
    pub changes: Changes,
    /// Rings built since the start.
    pub ring_builds: u64,
    /// Seconds spent on that.
    pub ring_build_seconds: f64,
    /// Changes of health that are in the rings.
    pub reactions: Reactions,
    /// Tables in the kernel.
    pub maps: Vec<MapFacts>,
}

impl Facts {
    /// Takes in what a configuration says.
    pub fn configure(&mut self, config: &Config) {
        self.listen = Some(config.metrics.listen);
    }
}

/// How many changes there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// In the kernel, for good.
    pub applied: u64,
    /// There was nothing to do.
    pub unchanged: u64,
    /// A guard refused, or the configuration was wrong.
    pub refused: u64,
    /// Undone.
    pub rolled_back: u64,
    /// The kernel refused.
    pub failed: u64,
}

/// How long backends that came up or went down were so before the rings said the same: from the end
/// of the check that decided it to the swap.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reactions {
    /// How many.
    pub count: u64,
    /// Seconds of all together.
    pub seconds: f64,
    /// Seconds of the slowest since the start.
    pub slowest: f64,
}

impl Reactions {
    /// Counts one.
    pub const fn add(&mut self, seconds: f64) {
        self.count += 1;
        self.seconds += seconds;
        self.slowest = self.slowest.max(seconds);
    }
}

/// A table in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapFacts {
    /// Its name.
    pub name: String,
    /// Entries in use, where that can be known.
    pub entries: Option<u64>,
    /// Entries that it can have.
    pub max_entries: u64,
    /// Its memory.
    pub bytes: Option<u64>,
}

/// Where the page comes from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// What the engine publishes once a second.
    pub state: watch::Receiver<Arc<NodeState>>,
    /// The accounts of the traffic.
    pub traffic: SharedTraffic,
    /// What else the engine publishes.
    pub facts: watch::Receiver<Arc<Facts>>,
    /// The alerts.
    pub alerts: Alerts,
}

/// Everything on the page, at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub state: Arc<NodeState>,
    /// The totals.
    pub totals: TotalsCopy,
    /// What else the engine knows.
    pub facts: Arc<Facts>,
    /// Alerts that are on.
    pub firing: Vec<Firing>,
    /// Alerts that were refused.
    pub refused: u64,
    /// What receivers got.
    pub receivers: Vec<ReceiverCounts>,
}

impl Sources {
    /// Everything as it is now.
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
