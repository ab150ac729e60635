//! Conditions, and how long each kind must last before it becomes an alert.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Severity;
use crate::revision::RevisionNumber;

/// Something that is wrong now. All current conditions are passed to [`super::Alerts`] on every tick,
/// which raises alerts for those that last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Identifies the cause: conditions with the same key are one alert. Names separated by colons, as in
    /// `backends:api`.
    pub key: String,
    pub kind: String,
    pub severity: Severity,
    pub vip: Option<String>,
    /// The VIPs, if there are several.
    #[serde(default)]
    pub vips: Vec<String>,
    pub backends: Vec<String>,
    /// One sentence: what is wrong.
    pub summary: String,
    /// The likeliest cause, with its evidence.
    pub cause: Option<String>,
    /// The revision that caused it.
    pub revision: Option<RevisionNumber>,
    /// Key of a condition that explains this one, which therefore raises no alert of its own. An alert
    /// that was raised before keeps firing.
    pub part_of: Option<String>,
}

impl Condition {
    /// A condition that concerns no VIP.
    #[must_use]
    pub fn new(
        key: impl Into<String>,
        kind: impl Into<String>,
        severity: Severity,
        summary: impl Into<String>,
    ) -> Self {
        Self {
            key: key.into(),
            kind: kind.into(),
            severity,
            vip: None,
            vips: Vec::new(),
            backends: Vec::new(),
            summary: summary.into(),
            cause: None,
            revision: None,
            part_of: None,
        }
    }

    #[must_use]
    pub fn vip(mut self, vip: impl Into<String>) -> Self {
        self.vip = Some(vip.into());
        self
    }

    #[must_use]
    pub fn backends(mut self, backends: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.backends = backends.into_iter().map(Into::into).collect();
        self
    }

    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Merges a condition of the same key: the more severe one wins, with the backends of both.
    pub(super) fn merge(&mut self, other: &Self) {
        let mut backends = std::mem::take(&mut self.backends);
        backends.extend(other.backends.iter().cloned());
        backends.sort_unstable();
        backends.dedup();
        if other.severity > self.severity {
            *self = other.clone();
        }
        self.backends = backends;
    }
}

/// Debounce windows of a kind of condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// How long it must last before an alert is raised.
    pub raise_after: Duration,
    /// How long it must be gone before the alert is resolved.
    pub clear_after: Duration,
    /// Whether the alert escalates while it keeps firing.
    pub escalates: bool,
}

const fn patience(raise_s: u64, clear_s: u64, escalates: bool) -> Patience {
    Patience {
        raise_after: Duration::from_secs(raise_s),
        clear_after: Duration::from_secs(clear_s),
        escalates,
    }
}

/// Health checks have `rise` and `fall`, and the share monitor has windows of its own: their conditions
/// become alerts at once, or nearly so.
const KINDS: &[(&str, Patience)] = &[
    ("few_backends", patience(2, 10, true)),
    ("panic", patience(2, 10, true)),
    ("backend_down", patience(3, 15, true)),
    ("no_next_hop", patience(5, 15, true)),
    ("checks", patience(10, 15, true)),
    ("drops", patience(10, 60, true)),
    ("track_full", patience(10, 60, true)),
    ("capacity", patience(30, 120, true)),
    ("nat_ports", patience(30, 120, true)),
    ("source_failing", patience(5, 10, true)),
    ("limit", patience(3, 60, false)),
    ("bound", patience(10, 60, false)),
    ("data_path", patience(3, 10, true)),
    ("state_dir", patience(3, 10, true)),
    ("announcer", patience(5, 5, true)),
    ("announce_session", patience(5, 10, true)),
    ("not_announced", patience(5, 10, true)),
    ("fleet_etcd", patience(60, 10, true)),
    ("fleet_refused", patience(5, 10, true)),
    ("fleet_behind", patience(30, 10, true)),
    ("fleet_differs", patience(60, 10, true)),
    ("fleet_exchange", patience(15, 10, true)),
    // The votes have a time of their own.
    ("fleet_health", patience(0, 10, true)),
    ("nodes_disagree", patience(3, 10, true)),
    ("ecmp_skew", patience(10, 30, true)),
    ("fleet_rollout_failed", patience(0, 10, false)),
    ("generic_xdp", patience(0, 10, false)),
];

impl Patience {
    /// Kinds that are not listed come from the share monitor, which has windows of its own.
    #[must_use]
    pub fn with(kind: &str) -> Self {
        let known = KINDS.iter().find(|(name, _)| *name == kind);
        known.map_or(patience(0, 5, true), |(_, patience)| *patience)
    }

    /// The listed kinds.
    pub fn kinds() -> impl Iterator<Item = &'static str> {
        KINDS.iter().map(|(kind, _)| *kind)
    }
}
