//! Events and alerts.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;
use utoipa::ToSchema;

use super::RevisionNumber;

/// An entry of the event log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Number of the event; it increases with time.
    pub id: u64,
    /// Time of the event.
    pub at: Timestamp,
    /// `revision`, `health`, `alert`, `rollback`, `source`, `start` or `upgrade`.
    pub kind: String,
    /// The VIP concerned, if any.
    pub vip: Option<String>,
    /// The backend concerned, if any.
    pub backend: Option<String>,
    /// Description for people.
    pub message: String,
}

/// Severity of an alert.
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
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Needs attention.
    Warning,
    /// Needs attention now.
    Critical,
}

/// A firing alert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Alert {
    /// Identifier for `alerts ack` and `alerts silence`; the same each time the same condition fires.
    pub id: String,
    /// Kind: `share_skew`, `concentration`, `backend_down`, `few_backends`, `panic`, `capacity`,
    /// `data_path`, `generic_xdp`, `black_hole`, …
    pub kind: String,
    /// Severity.
    pub severity: Severity,
    /// The VIP concerned, if it is one.
    pub vip: Option<String>,
    /// The VIPs concerned, if there are several.
    #[serde(default)]
    pub vips: Vec<String>,
    /// The backends concerned.
    pub backends: Vec<String>,
    /// What is wrong, in one sentence.
    pub summary: String,
    /// The likeliest cause, with its evidence.
    pub cause: Option<String>,
    /// The revision that caused it, if one did.
    pub revision: Option<RevisionNumber>,
    /// When it started to fire.
    pub since: Timestamp,
    /// Who acknowledged it.
    pub acknowledged_by: Option<String>,
    /// When its silence ends: no notifications are sent until then.
    pub silenced_until: Option<Timestamp>,
    /// It is clearing: its condition has ended, and it is resolved at this time unless the condition
    /// returns. None while the condition is present.
    #[serde(default)]
    pub resolves_at: Option<Timestamp>,
}

/// Result of a test notification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TestedReceiver {
    /// `alertmanager` or `webhook`.
    pub kind: String,
    /// Scheme, host and port of the receiver's URL.
    pub receiver: String,
    /// Why the delivery failed; none if it succeeded.
    pub error: Option<String>,
}
