//! What the nodes of a fleet say of the health of backends.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What the nodes of the fleet say of the health of backends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetHealth {
    /// Nodes that are heard, with this one.
    pub nodes: usize,
    /// Backends that more than half of the nodes see down.
    pub down: Vec<FleetDown>,
    /// Backends that nodes see differently for more than some seconds.
    pub disagreements: Vec<FleetDisagreement>,
    /// The node that is itself suspect: it alone sees more than a quarter of its backends down.
    pub suspect: Option<FleetSuspect>,
}

/// A backend that is down for the fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetDown {
    /// Name of the VIP.
    pub vip: String,
    /// Name of the backend.
    pub backend: String,
    /// Nodes that see it down.
    pub nodes: usize,
    /// Nodes that have checked it.
    pub of: usize,
    /// Since when.
    pub since: Timestamp,
}

/// A backend that nodes see differently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetDisagreement {
    /// Name of the VIP.
    pub vip: String,
    /// Name of the backend.
    pub backend: String,
    /// Nodes that see it down.
    pub down: Vec<FleetOpinion>,
    /// Nodes that see it up.
    pub up: Vec<FleetOpinion>,
    /// Since when.
    pub since: Timestamp,
}

/// What a node says of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetOpinion {
    /// Name of the node.
    pub node: String,
    /// Why it says so.
    pub why: String,
}

/// A node that is itself suspect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetSuspect {
    /// Name of the node.
    pub node: String,
    /// Backends that it alone sees down.
    pub backends: usize,
    /// Backends that it has checked.
    pub of: usize,
}
