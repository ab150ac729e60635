//! Changes, and how they are asked for.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::RevisionNumber;

/// What is to become of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// A whole configuration.
    Config {
        /// The file's name, for messages; relative paths in it begin at its folder.
        file: String,
        /// The TOML text.
        text: String,
    },
    /// Edits of the running configuration, in this order; all or none.
    Edits {
        /// The edits.
        #[schema(min_items = 1)]
        edits: Vec<Edit>,
    },
    /// The configuration of an earlier revision.
    Revision {
        /// Its number; without it, the one before the last change.
        revision: Option<RevisionNumber>,
    },
}

/// An edit of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "edit", rename_all = "snake_case", deny_unknown_fields)]
pub enum Edit {
    /// Adds a VIP with its backends.
    AddVip {
        /// Its keys, as in a `[[vip]]` table of the configuration.
        vip: VipSpec,
    },
    /// Removes a VIP with its backends.
    RemoveVip {
        /// Its name.
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
    /// Serve, drain or disable.
    SetState {
        /// Name of the VIP; without it, of every VIP that has the backend.
        vip: Option<String>,
        /// Name of the backend.
        backend: String,
        /// What is wanted.
        state: WantedState,
    },
    /// Another weight.
    SetWeight {
        /// Name of the VIP.
        vip: String,
        /// Name of the backend.
        backend: String,
        /// The weight.
        weight: u32,
    },
}

/// A VIP as it is added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VipSpec {
    /// Its name.
    pub name: String,
    /// Its address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Its port; 0 for any.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// `l2`, `ipip` or `nat`.
    pub forward: String,
    /// Kind of health check with defaults, if it is to be checked: `tcp`, `http` and so on.
    pub health: Option<String>,
    /// Its backends; one at least.
    pub backends: Vec<BackendSpec>,
}

/// A backend as it is added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackendSpec {
    /// Its name.
    pub name: String,
    /// Its address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Its port, if it is not the VIP's.
    pub port: Option<u16>,
    /// Its weight, if it is not 100.
    pub weight: Option<u32>,
    /// New flows a second that it can take, if that is known.
    pub capacity: Option<u32>,
}

/// What the operator wants of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WantedState {
    /// Serve.
    Up,
    /// Keep its flows, get no new ones.
    Drain,
    /// Get nothing.
    Disabled,
}

/// A guard: what a change may not do unless it is forced by this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Guard {
    /// A table share further from the intended one than rounding explains.
    ShareError,
    /// A member with weight and without slots.
    NoSlots,
    /// A share above `vip.guard.max_share`.
    MaxShare,
    /// More of the table moved than `vip.guard.max_moved`.
    MaxMoved,
    /// Fewer backends than `vip.guard.min_backends`.
    MinBackends,
    /// Eligible capacity under the peak of new flows, with headroom; or a member's part above its capacity.
    Capacity,
    /// Nobody left to serve the VIP.
    NothingLeft,
    /// The VIP is removed or replaced while it has traffic: its connections break.
    VipRemoved,
}

/// What to plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// The change.
    pub change: Change,
    /// Guards that may be broken.
    #[serde(default)]
    pub force: Vec<Guard>,
}

/// What to apply, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    /// The change.
    pub change: Change,
    /// Guards that may be broken.
    #[serde(default)]
    pub force: Vec<Guard>,
    /// Refuse unless this is the running revision: what the caller saw.
    pub base: Option<RevisionNumber>,
    /// Go back unless it is confirmed within this many seconds.
    pub confirm_s: Option<u32>,
    /// Watch for this many seconds, and go back when something is wrong; 0: don't. Without it,
    /// `change.bake` of the configuration.
    pub bake_s: Option<u32>,
    /// Why, for the history.
    pub why: Option<String>,
}

/// Which revision to confirm.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfirmRequest {
    /// Its number; without it, the one that waits.
    pub revision: Option<RevisionNumber>,
}

/// Where to go back to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// The revision whose configuration is wanted; without it, the one before the last change.
    pub revision: Option<RevisionNumber>,
    /// Why, for the history.
    pub why: Option<String>,
}
