//! An alert as it is shown and sent.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::revision::RevisionNumber;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Info,
    Warning,
    Critical,
}

impl Severity {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// A firing alert. Webhooks get it in this form.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alert {
    /// The same for the same cause.
    pub id: String,
    pub kind: String,
    pub severity: Severity,
    pub vip: Option<String>,
    /// The VIPs, if there are several.
    pub vips: Vec<String>,
    pub backends: Vec<String>,
    /// One sentence: what is wrong.
    pub summary: String,
    /// The likeliest cause, with its evidence.
    pub cause: Option<String>,
    /// The revision that caused it, if one did.
    pub revision: Option<RevisionNumber>,
    pub since: Timestamp,
    pub acknowledged_by: Option<String>,
    pub silenced_until: Option<Timestamp>,
    /// When it is resolved unless its condition returns; none while the condition is present.
    pub resolves_at: Option<Timestamp>,
}
