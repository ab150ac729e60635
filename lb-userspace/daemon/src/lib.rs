//! The controller: loads or adopts the data path, keeps it as the configuration says, checks health, watches shares,
//! serves the API and the metrics.

#![cfg_attr(not(test), warn(clippy::too_many_lines))]

pub mod alerts;
pub mod announcer;
pub mod caller;
pub mod capture;
pub mod clock;
pub mod config_file;
pub mod durable;
pub mod engine;
pub mod events;
pub mod fault;
pub mod fleet;
pub mod health;
pub mod http;
pub mod membership;
pub mod metrics;
pub mod nexthop;
pub mod node;
pub mod reconciler;
pub mod revision;
pub mod traffic;
