//! Shares that each revision moved: the basis for judging a concentration.
//!
//! Stored in a file, so that a controller that restarts does not take the effect of a change made a
//! minute ago for normal.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::{clock::later, durable, revision::RevisionNumber};
use lb_model::planner::{MemberSide, Plan};
use lb_skew::{Change, MovedMember};

/// Changes of a VIP that are remembered.
const REMEMBERED: usize = 8;

/// Longest time that a change is remembered: the upper limit of `vip.skew.revision_memory`.
const LONGEST: SignedDuration = SignedDuration::from_hours(24);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Remembered {
    revision: RevisionNumber,
    at: Timestamp,
    /// Backend, and its share of the table before and after.
    moved: Vec<(String, f64, f64)>,
}

/// The newest changes of each VIP, by its name.
#[derive(Debug, Default)]
pub(in crate::engine) struct Changes {
    path: Option<PathBuf>,
    vips: BTreeMap<String, Vec<Remembered>>,
}

impl Changes {
    /// Reads the changes recorded by the previous process.
    pub(super) fn open(state_dir: &Path) -> Self {
        let path = state_dir.join("changes.json");
        let bytes = std::fs::read(&path).unwrap_or_default();
        // A damaged or missing file only makes causes less certain.
        let vips = serde_json::from_slice(&bytes).unwrap_or_default();
        Self {
            path: Some(path),
            vips,
        }
    }

    /// Records the shares that a revision moved.
    pub(super) fn add(&mut self, revision: RevisionNumber, at: Timestamp, plan: &Plan) {
        for vip in &plan.vips {
            let sides = vip.members.iter().map(|member| {
                let share =
                    |side: &Option<MemberSide>| side.as_ref().map_or(0.0, |side| side.table_share);
                let (before, after) = (share(&member.before), share(&member.after));
                (member.backend.clone(), before, after)
            });
            let moved: Vec<_> = sides.filter(|(_, before, after)| before != after).collect();
            // A new VIP moves nothing.
            let is_new = moved.iter().all(|(_, before, _)| *before == 0.0);
            if moved.is_empty() || is_new {
                continue;
            }
            let changes = self.vips.entry(vip.vip.clone()).or_default();
            changes.retain(|change| at.duration_since(change.at) < LONGEST);
            if changes.len() == REMEMBERED {
                changes.remove(0);
            }
            changes.push(Remembered {
                revision,
                at,
                moved,
            });
        }
        self.save();
    }

    /// Shifts all times, after the system clock was set.
    pub(in crate::engine) fn move_by(&mut self, by: SignedDuration) {
        for change in self.vips.values_mut().flatten() {
            change.at = later(change.at, by);
        }
        self.save();
    }

    /// Removes a revision that was rolled back.
    pub(in crate::engine) fn forget(&mut self, revision: RevisionNumber) {
        for changes in self.vips.values_mut() {
            changes.retain(|change| change.revision != revision);
        }
        self.vips.retain(|_, changes| !changes.is_empty());
        self.save();
    }

    /// The newest change of a VIP, in the seconds of a clock that shows `now_s`.
    pub(super) fn newest(&self, vip: &str, now_s: f64) -> Option<Change> {
        let change = self.vips.get(vip)?.last()?;
        let ago = super::super::now().duration_since(change.at);
        let moved = change
            .moved
            .iter()
            .map(|(name, before, after)| MovedMember {
                name: name.as_str().into(),
                before: *before,
                after: *after,
            });
        Some(Change {
            revision: change.revision,
            at_s: now_s - ago.as_secs_f64(),
            moved: moved.collect(),
        })
    }

    /// A member's share of the table before a revision, if that moved it.
    pub(super) fn before(&self, vip: &str, revision: RevisionNumber, member: &str) -> Option<f64> {
        let mut changes = self.vips.get(vip)?.iter();
        let change = changes.find(|change| change.revision == revision)?;
        let mut moved = change.moved.iter();
        let (_, before, _) = moved.find(|(name, _, _)| name == member)?;
        Some(*before)
    }

    fn save(&self) {
        let Some(path) = &self.path else { return };
        let written = serde_json::to_vec(&self.vips)
            .map_err(std::io::Error::other)
            .and_then(|bytes| durable::replace(path, &bytes));
        if let Err(error) = written {
            warn!(%error, "can't write the record of recent changes: after a restart, alerts may not name the revision \
                   that caused them");
        }
    }
}
