//! Health: which backends can serve, found out by trying.
//!
//! ```text
//! Targets ─→ runner: a task each ──→ probe: one try, ok or what was met
//!                   │                   │
//!                   │     judge: rise, fall, damping  ─→ up or down?
//!                   ├──→ HealthChange, at once, to the engine
//!                   └──→ HealthStatus, for whoever asks
//! ```
//!
//! Nothing here touches the data path. The engine says what is to be checked
//! ([`Health::set_targets`]), and turns the changes that it is told into rings; how much of its weight a
//! backend gets that has just come up ([`effective_weight`]) and when all checks together are not to be
//! believed ([`is_panicking`]) are plain functions for that.
//!
//! A backend is down until proven otherwise, unless the caller knows better: a controller that adopts a
//! running data path says what was so before ([`Target::initial`]).

use std::{net::IpAddr, sync::Arc, time::Instant};

use jiff::Timestamp;
use lb_model::config;

mod effect;
pub mod judge;
pub mod probe;
mod random;
mod runner;
#[cfg(test)]
mod tests;

pub use effect::{effective_weight, is_panicking, next_step};
pub use runner::Health;

/// What is to be checked: one backend of one VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name of the VIP.
    pub vip: String,
    /// Name of the backend.
    pub backend: String,
    /// Address of the backend.
    pub address: IpAddr,
    /// Port that the backend serves; 0 for any, then the check has its own.
    pub port: u16,
    /// Address of the VIP.
    pub vip_address: IpAddr,
    /// Port of the VIP; 0 for any.
    pub vip_port: u16,
    /// How it is checked.
    pub health: Arc<config::Health>,
    /// Whether it counts as healthy before the first check. Only looked at when the target is new.
    pub initial: bool,
    /// Address that probes are sent from; without it the kernel chooses.
    pub source: Option<IpAddr>,
    /// Index in the member table, for probes by the way of the VIP's traffic; without it, or when
    /// [`takes_vip_path`] says no, they go straight to the backend.
    pub member: Option<u32>,
}

impl Target {
    /// The port that is tried; 0 when there is none (only for [`config::HealthKind::Exec`]).
    #[must_use]
    pub fn probe_port(&self) -> u16 {
        match self.health.port {
            0 => self.port,
            port => port,
        }
    }

    /// What makes it another target than one of the same names.
    fn is_same_server(&self, other: &Self) -> bool {
        (self.address, self.port, self.vip_address, self.vip_port)
            == (other.address, other.port, other.vip_address, other.vip_port)
    }
}

/// Whether probes of this VIP's backend at `backend` can go the way of the VIP's traffic.
///
/// With `nat`, that way is the direct one: backends see packets from the node to their own address.
/// Where the families differ (`ipip` alone allows it), a socket of the backend's family can't be told
/// what happens to packets of the VIP's family, and probes are direct as well.
#[must_use]
pub fn takes_vip_path(vip: &config::Vip, backend: IpAddr) -> bool {
    let via = vip.health.as_ref().map(|health| health.via);
    via == Some(config::Via::Vip)
        && vip.forward != config::Forward::Nat
        && vip.address.is_ipv4() == backend.is_ipv4()
}

/// What the checks of a backend report.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthStatus {
    pub healthy: bool,
    /// When it last changed.
    pub since: Timestamp,
    /// Whether the newest check succeeded; none before the first.
    pub last_ok: Option<bool>,
    /// Error of the newest failed check.
    pub last_error: Option<String>,
    /// Duration of the newest check.
    pub latency_ms: Option<f64>,
    /// Whether it is held down because of flapping.
    pub damped: bool,
}

/// A backend came up or went down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthChange {
    /// Name of the VIP.
    pub vip: String,
    /// Name of the backend.
    pub backend: String,
    /// Whether it is healthy now.
    pub healthy: bool,
    /// Whether it will be held down for a while, since it goes up and down again and again.
    pub damped: bool,
    /// Why, in words: `3 checks in a row failed: connection refused by 10.0.1.11:443`.
    pub why: String,
    /// When the check that decided it ended.
    pub at: Instant,
}
