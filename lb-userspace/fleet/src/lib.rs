//! Rolls one configuration of the VIPs out to many nodes.
//!
//! The desired configuration is in etcd, which is asked, but never needed: without it, a node changes
//! nothing but undoing a candidate that was not confirmed.

#![cfg_attr(not(test), warn(clippy::too_many_lines))]
#![warn(missing_docs)]

mod agent;
mod commands;
pub mod differences;
pub mod exchange;
mod handle;
mod judge;
mod leader;
mod member;
mod memory;
mod node;
mod records;
#[cfg(test)]
mod sim;
mod snapshot;
mod store;
pub mod votes;
mod waves;

pub use handle::{Fleet, Settings, Tls, Who};
/// The state that the agent publishes. The records in etcd have the same types.
pub use lb_api::{
    FleetDisagreement, FleetDown, FleetExchange, FleetHead, FleetHealth, FleetNode, FleetNodeState,
    FleetOpinion, FleetPeer, FleetRollout, FleetRolloutState, FleetState, FleetSuspect, FleetWave,
};
pub use node::{Facts, How, Node, NodeError, Observed, Outcome, Running, Trial};

/// The digest of a fleet configuration: SHA-256 of the text as it is, in hexadecimal.
#[must_use]
pub fn digest(text: &str) -> String {
    use sha2::{Digest as _, Sha256};
    let hash = Sha256::digest(text.as_bytes());
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
