//! What is wrong at a moment, and how long it must be so before anybody is told.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Severity;
use crate::revision::RevisionNumber;

/// Something that is wrong now. Whoever watches gives all of them, again and again; [`super::Alerts`] makes
/// alerts of those that stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Names the cause, and is the same as long as it is the same: conditions with one key are one alert.
    /// As in `backends:api`: parts of names, with colons between them.
    pub key: String,
    /// Kind, as in [`super::Alert::kind`].
    pub kind: String,
    /// How bad it is now.
    pub severity: Severity,
    /// The VIP it is about.
    pub vip: Option<String>,
    /// The backends it is about.
    pub backends: Vec<String>,
    /// One sentence: what is wrong.
    pub summary: String,
    /// The likeliest cause, with its evidence.
    pub cause: Option<String>,
    /// The revision that explains it.
    pub revision: Option<RevisionNumber>,
    /// Key of a condition that explains this one: as long as that is there, this raises no alert of
    /// its own. One that was raised before stays.
    pub part_of: Option<String>,
}

impl Condition {
    /// A condition about nothing in particular.
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
            backends: Vec::new(),
            summary: summary.into(),
            cause: None,
            revision: None,
            part_of: None,
        }
    }

    /// About this VIP.
    #[must_use]
    pub fn vip(mut self, vip: impl Into<String>) -> Self {
        self.vip = Some(vip.into());
        self
    }

    /// About these backends.
    #[must_use]
    pub fn backends(mut self, backends: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.backends = backends.into_iter().map(Into::into).collect();
        self
    }

    /// Because of this.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Takes another condition of the same key in: the graver one speaks.
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

/// How patient one is with a kind of condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// How long it must be there before it is an alert.
    pub raise_after: Duration,
    /// How long it must be gone before the alert is over.
    pub clear_after: Duration,
    /// Whether it gets graver when it stays.
    pub escalates: bool,
}

const fn patience(raise_s: u64, clear_s: u64, escalates: bool) -> Patience {
    Patience {
        raise_after: Duration::from_secs(raise_s),
        clear_after: Duration::from_secs(clear_s),
        escalates,
    }
}

/// The kinds that are known, and the patience with them. Checks have `rise` and `fall` and the watch of shares has windows
/// of its own: what they say is believed at once, or nearly.
const KINDS: &[(&str, Patience)] = &[
    ("few_backends", patience(2, 10, true)),
    ("panic", patience(2, 10, true)),
    ("backend_down", patience(3, 15, true)),
    ("no_next_hop", patience(5, 15, true)),
    ("drops", patience(10, 60, true)),
    ("capacity", patience(30, 120, true)),
    ("data_path", patience(3, 10, true)),
    ("generic_xdp", patience(0, 10, false)),
];

impl Patience {
    /// With a kind. One that is not known comes from a watch with windows of its own.
    #[must_use]
    pub fn with(kind: &str) -> Self {
        let known = KINDS.iter().find(|(name, _)| *name == kind);
        known.map_or(patience(0, 5, true), |(_, patience)| *patience)
    }

    /// The kinds that are known.
    pub fn kinds() -> impl Iterator<Item = &'static str> {
        KINDS.iter().map(|(kind, _)| *kind)
    }
}
