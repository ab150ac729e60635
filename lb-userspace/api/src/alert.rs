//! What happened, and what is wrong.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::RevisionNumber;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its number; they grow.
    pub id: u64,
    /// When.
    pub at: Timestamp,
    /// What kind: `revision`, `health`, `alert`, `rollback`, `start`, `upgrade`.
    pub kind: String,
    /// The VIP it is about, if it is about one.
    pub vip: Option<String>,
    /// The backend it is about, if it is about one.
    pub backend: Option<String>,
    /// What happened, in words.
    pub message: String,
}

/// How bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Somebody should look.
    Warning,
    /// Somebody must look now.
    Critical,
}

/// An alert that is on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Alert {
    /// What names it, for `alerts ack` and `alerts silence`; the same for the same cause.
    pub id: String,
    /// Kind: `share_skew`, `concentration`, `backend_down`, `few_backends`, `panic`, `capacity`,
    /// `data_path`, `generic_xdp`, `black_hole`, …
    pub kind: String,
    /// How bad.
    pub severity: Severity,
    /// The VIP it is about.
    pub vip: Option<String>,
    /// The backends it is about.
    pub backends: Vec<String>,
    /// One sentence: what is wrong.
    pub summary: String,
    /// The likeliest cause, with its evidence.
    pub cause: Option<String>,
    /// The revision that explains it, if one does.
    pub revision: Option<RevisionNumber>,
    /// Since when.
    pub since: Timestamp,
    /// Who has seen it.
    pub acknowledged_by: Option<String>,
    /// Not sent until then.
    pub silenced_until: Option<Timestamp>,
}
