//! Changes of the configuration and the requests that make them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};
use utoipa::ToSchema;

use super::RevisionNumber;

/// A change of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// Replaces the whole configuration.
    Config {
        /// Name of the file, for messages; relative paths in it start at its directory.
        file: String,
        /// The configuration (TOML).
        text: String,
    },
    /// Edits the active configuration, in this order; all edits or none.
    Edits {
        /// The edits.
        #[schema(min_items = 1)]
        edits: Vec<Edit>,
    },
    /// Restores the configuration of an earlier revision.
    Revision {
        /// The revision; if absent, the one before the last change.
        revision: Option<RevisionNumber>,
    },
}

/// An edit of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "edit", rename_all = "snake_case", deny_unknown_fields)]
pub enum Edit {
    /// Adds a VIP with its backends.
    AddVip {
        /// The VIP: keys of a `[[vip]]` table of the configuration.
        vip: VipSpec,
    },
    /// Removes a VIP with its backends.
    RemoveVip {
        /// Name of the VIP.
        vip: String,
    },
    /// Adds a backend to a VIP.
    AddBackend {
        /// Name of the VIP.
        vip: String,
        /// The backend.
        backend: BackendSpec,
    },
    /// Removes a backend from a VIP.
    RemoveBackend {
        /// Name of the VIP.
        vip: String,
        /// Name of the backend.
        backend: String,
    },
    /// Enables, drains or disables a backend.
    SetState {
        /// Name of the VIP; if absent, every VIP that has the backend.
        vip: Option<String>,
        /// Name of the backend.
        backend: String,
        /// The new administrative state.
        state: WantedState,
    },
    /// Sets the weight of a backend.
    SetWeight {
        /// Name of the VIP.
        vip: String,
        /// Name of the backend.
        backend: String,
        /// The new weight; 0: no new flows.
        weight: u32,
    },
}

/// A VIP to add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VipSpec {
    /// Name of the VIP.
    pub name: String,
    /// Address that clients connect to.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Port that clients connect to; 0: any port.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Forwarding mode: `l2`, `ipip` or `nat`.
    pub forward: String,
    /// Kind of health check (`tcp`, `http`, …), with default settings; if absent, none.
    pub health: Option<String>,
    /// The backends, at least one.
    pub backends: Vec<BackendSpec>,
}

/// A backend to add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackendSpec {
    /// Name of the backend.
    pub name: String,
    /// Address of the backend.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Port of the backend; if absent, the VIP's.
    pub port: Option<u16>,
    /// Weight; if absent, 100.
    pub weight: Option<u32>,
    /// Capacity in new flows per second; if absent, unknown.
    pub capacity: Option<u32>,
}

/// Administrative state of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum WantedState {
    /// Serves.
    Up,
    /// Keeps its flows and gets no new ones.
    Drain,
    /// Gets no packets.
    Disabled,
}

/// A guard: a check that refuses a change unless it is forced by name.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    ToSchema,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Guard {
    /// A table share deviates from the intended share by more than rounding explains.
    ShareError,
    /// A member has weight but no slots.
    NoSlots,
    /// A share exceeds `vip.guard.max_share`; without it, the change concentrates the traffic.
    MaxShare,
    /// More of the ring moves than `vip.guard.max_moved`.
    MaxMoved,
    /// Fewer backends remain than `vip.guard.min_backends`.
    MinBackends,
    /// Eligible capacity is below the peak of new flows plus headroom, or a member would exceed its
    /// own capacity.
    Capacity,
    /// No backend would serve the VIP.
    NothingLeft,
    /// A VIP with traffic is removed or replaced: its connections break.
    VipRemoved,
}

/// Request to plan a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// The change.
    pub change: Change,
    /// Guards to override.
    #[serde(default)]
    pub force: Vec<Guard>,
}

/// Request to apply a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    /// The change.
    pub change: Change,
    /// Guards to override.
    #[serde(default)]
    pub force: Vec<Guard>,
    /// Refuse unless this is the active revision.
    pub base: Option<RevisionNumber>,
    /// Roll back unless the change is confirmed within this many seconds.
    pub confirm_s: Option<u32>,
    /// Bake time in seconds: roll back if health or shares get worse within it; 0: do not bake. If
    /// absent, `change.bake` of the configuration.
    pub bake_s: Option<u32>,
    /// Reason for the change, for the history.
    pub why: Option<String>,
}

/// Request to apply the configuration file of the controller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReloadRequest {
    /// Whether the reload waits for a change in progress; otherwise that is a conflict.
    #[serde(default)]
    pub wait: bool,
}

/// Request to confirm a revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfirmRequest {
    /// The revision; if absent, the one that awaits confirmation.
    pub revision: Option<RevisionNumber>,
}

/// Request to roll back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// The revision to restore; if absent, the one before the last change.
    pub revision: Option<RevisionNumber>,
    /// Reason for the rollback, for the history.
    pub why: Option<String>,
}
