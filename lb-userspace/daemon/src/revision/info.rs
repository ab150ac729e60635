//! Facts about a revision and its state. [`RevisionState`] is stored as JSON.

use jiff::Timestamp;
use lb_model::planner::Guard;
pub use lb_model::planner::RevisionNumber;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum RevisionState {
    /// Being written to the kernel.
    Applying,
    /// In the kernel and watched until then.
    Baking {
        until: Timestamp,
    },
    /// In the kernel; rolled back unless confirmed by then.
    AwaitingConfirm {
        until: Timestamp,
    },
    Applied,
    RolledBack {
        #[serde(rename = "reason")]
        why: String,
        #[serde(rename = "undone_at")]
        at: Timestamp,
    },
    /// Could not be applied; the state before it was restored.
    Failed {
        #[serde(rename = "reason")]
        why: String,
    },
}

/// A revision without its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionInfo {
    pub number: RevisionNumber,
    /// The revision that it changed.
    pub parent: Option<RevisionNumber>,
    /// When it was accepted.
    pub at: Timestamp,
    /// User and process, as reported by the kernel.
    pub who: String,
    /// `start`, `reload`, `apply FILE`, `backend drain api-1`, `rollback to 3`.
    pub how: String,
    pub why: Option<String>,
    /// Guards that were overridden.
    pub forced: Vec<Guard>,
    pub state: RevisionState,
    /// SHA-256 of the text, in hex.
    pub digest: String,
}
