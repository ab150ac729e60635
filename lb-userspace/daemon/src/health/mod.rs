//! Health checks: which backends can serve.
//!
//! ```text
//! Targets ─→ runner: a task each ──→ probe: one check, ok or a failure
//!                   │                   │
//!                   │     judge: rise, fall, damping ─→ up or down
//!                   ├──→ HealthChange, to the engine
//!                   └──→ HealthStatus, on request
//! ```
//!
//! Nothing here touches the data path. The engine sets the targets ([`Health::set_targets`]) and builds
//! rings from the changes; [`effective_weight`] is the weight of a backend in its slow start.
//!
//! A backend is down until its checks succeed, unless the caller knows its state: a controller that
//! adopts a running data path passes the states found there ([`Target::initial`]).

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use lb_model::config;

mod effect;
pub mod judge;
pub mod probe;
mod runner;
#[cfg(test)]
mod tests;

pub use effect::effective_weight;
pub use runner::{Health, SILENT};

/// A backend of a VIP to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub vip: String,
    pub backend: String,
    pub address: IpAddr,
    /// Port of the backend; 0 for any, then the check has a port of its own.
    pub port: u16,
    pub vip_address: IpAddr,
    /// 0 for any port.
    pub vip_port: u16,
    pub health: Arc<config::Health>,
    /// Whether the backend counts as healthy before its first check. Ignored unless the target is new.
    pub initial: bool,
    /// Source address of probes; without it the kernel chooses.
    pub source: Option<IpAddr>,
    /// Index in the member table, for probes through the VIP's data path; without it probes go directly
    /// to the backend. See [`takes_vip_path`].
    pub member: Option<u32>,
}

impl Target {
    /// Returns the port to check; 0 if there is none (only for [`config::HealthKind::Exec`]).
    #[must_use]
    pub fn probe_port(&self) -> u16 {
        match self.health.port {
            0 => self.port,
            port => port,
        }
    }

    /// Whether a target of the same names is the same server.
    fn is_same_server(&self, other: &Self) -> bool {
        (self.address, self.port, self.vip_address, self.vip_port)
            == (other.address, other.port, other.vip_address, other.vip_port)
    }
}

/// Whether probes of this VIP's backend at `backend` can take the path of the VIP's traffic.
///
/// With `nat` the direct path is the same: backends see packets from the node to their own address.
/// Where the families differ (`ipip` only), errors for packets of the VIP's family do not reach a
/// socket of the backend's family, so probes are direct as well.
#[must_use]
pub fn takes_vip_path(vip: &config::Vip, backend: IpAddr) -> bool {
    let via = vip.health.as_ref().map(|health| health.via);
    via == Some(config::Via::Vip)
        && vip.forward != config::Forward::Nat
        && vip.address.is_ipv4() == backend.is_ipv4()
}

/// The result of the checks of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthStatus {
    pub healthy: bool,
    /// Whether the last checks contradict `healthy`, but are too few to change it.
    pub uncertain: bool,
    /// The last change of `healthy`.
    pub since: Instant,
    /// Whether the last check succeeded; `None` before the first.
    pub last_ok: Option<bool>,
    pub last_error: Option<String>,
    /// `last_error` without addresses: the same for all backends that fail for one reason.
    pub last_cause: Option<String>,
    /// Why the last check cannot tell whether the backend is healthy, if so.
    pub inconclusive: Option<String>,
    /// Duration of the last check.
    pub latency: Option<Duration>,
    /// Whether the backend is held down because it is flapping.
    pub damped: bool,
}

impl HealthStatus {
    /// What other nodes are told: whether it is healthy, whether that is uncertain, and whether it was
    /// checked at all.
    pub(crate) const fn says(&self) -> (bool, bool, bool) {
        (self.healthy, self.uncertain, self.last_ok.is_some())
    }
}

/// A backend came up or went down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthChange {
    pub vip: String,
    pub backend: String,
    pub healthy: bool,
    /// Whether it is held down because it is flapping.
    pub damped: bool,
    /// The reason: `3 consecutive checks failed: connection refused by 10.0.1.11:443`.
    pub why: String,
    /// End of the check that decided it.
    pub at: Instant,
}
