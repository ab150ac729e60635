//! Revisions: accepted configurations and their states.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;
use utoipa::ToSchema;

use super::{FileStatus, Guard, Plan, RevisionNumber};

/// State of a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoStaticStr)]
#[serde(tag = "state", rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum RevisionState {
    /// The kernel maps are being updated.
    Applying,
    /// Active, and watched for regressions.
    Baking {
        /// End of the bake.
        until: Timestamp,
    },
    /// Active, and rolled back unless it is confirmed in time.
    AwaitingConfirm {
        /// Deadline of the confirmation.
        until: Timestamp,
    },
    /// Applied for good.
    Applied,
    /// Rolled back.
    RolledBack {
        /// Why. Not `why` in JSON: a revision has a field of this name.
        #[serde(rename = "reason")]
        why: String,
        /// When. Not `at` in JSON: a revision has a field of this name.
        #[serde(rename = "undone_at")]
        at: Timestamp,
    },
    /// The kernel maps could not be updated; the previous state was restored.
    Failed {
        /// Why.
        #[serde(rename = "reason")]
        why: String,
    },
}

/// A revision without its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RevisionInfo {
    /// Number of the revision.
    pub number: RevisionNumber,
    /// The revision that it replaced.
    pub parent: Option<RevisionNumber>,
    /// When it was accepted.
    pub at: Timestamp,
    /// Who requested it: user and process, as reported by the kernel.
    pub who: String,
    /// Origin: `start`, `reload`, `apply FILE`, `backend drain api-1`, `rollback to 3`.
    pub how: String,
    /// Reason given by the caller.
    pub why: Option<String>,
    /// Guards that were overridden.
    pub forced: Vec<Guard>,
    /// State of the revision.
    #[serde(flatten)]
    pub state: RevisionState,
    /// SHA-256 of the text, in hexadecimal.
    pub digest: String,
}

/// A revision with its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Revision {
    /// Metadata.
    #[serde(flatten)]
    pub info: RevisionInfo,
    /// The configuration (TOML). Secrets are masked, unless root asked for them.
    pub text: String,
    /// Folder that relative paths in the text start at.
    #[serde(default)]
    pub base: String,
}

/// Result of an apply or a rollback.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Applied {
    /// The new revision; none if there were no changes.
    pub revision: Option<RevisionInfo>,
    /// The plan that was applied.
    pub plan: Plan,
}

/// Result of a reload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Reloaded {
    /// The result; none if the reload waits for a change in progress.
    pub applied: Option<Applied>,
    /// The change in progress, if the reload waits for it.
    pub waits_for: Option<Progress>,
    /// The configuration file, compared with the revision that is active now.
    pub file: FileStatus,
}

/// Progress of a revision: poll until it is neither baking nor awaiting confirmation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// The revision.
    pub revision: RevisionInfo,
    /// Seconds until the end of the bake or the deadline of the confirmation.
    pub remaining_s: f64,
    /// What is being watched, with its current values.
    pub notes: Vec<String>,
}

/// Difference between two revisions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Diff {
    /// The old revision.
    pub from: RevisionNumber,
    /// The new revision.
    pub to: RevisionNumber,
    /// Unified diff of the texts with masked secrets; empty if they are identical.
    pub unified: String,
}

/// Difference between the active revision and the configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileDiff {
    /// The active revision.
    pub revision: RevisionNumber,
    /// Path of the file.
    pub file: String,
    /// Unified diff of the texts with masked secrets; empty if they are identical.
    pub unified: String,
}
