//! Revisions, and what became of them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Guard, Plan, RevisionNumber};

/// What became of a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum RevisionState {
    /// Being put into the kernel.
    Applying,
    /// In the kernel, and watched.
    Baking {
        /// Until then.
        until: Timestamp,
    },
    /// In the kernel, and waits to be confirmed.
    AwaitingConfirm {
        /// It is rolled back then.
        until: Timestamp,
    },
    /// Applied, for good.
    Applied,
    /// Undone.
    RolledBack {
        /// Why. Not `why` in JSON: a revision has that beside it.
        #[serde(rename = "reason")]
        why: String,
        /// When. Not `at` in JSON, for the same reason.
        #[serde(rename = "undone_at")]
        at: Timestamp,
    },
    /// It could not be put into the kernel; the old state came back.
    Failed {
        /// Why.
        #[serde(rename = "reason")]
        why: String,
    },
}

/// A revision, without its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RevisionInfo {
    /// Its number.
    pub number: RevisionNumber,
    /// The one that it changed.
    pub parent: Option<RevisionNumber>,
    /// When it was accepted.
    pub at: Timestamp,
    /// Who asked for it: user and process, as the kernel told.
    pub who: String,
    /// How: `start`, `reload`, `apply FILE`, `backend drain api-1`, `rollback to 3`.
    pub how: String,
    /// Why, if the caller said.
    pub why: Option<String>,
    /// Guards that were forced.
    pub forced: Vec<Guard>,
    /// What became of it.
    #[serde(flatten)]
    pub state: RevisionState,
    /// SHA-256 of the text, in hex.
    pub digest: String,
}

/// A revision with its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Revision {
    /// What is known of it.
    #[serde(flatten)]
    pub info: RevisionInfo,
    /// The configuration (TOML), with the hash seed taken out.
    pub text: String,
}

/// What came of an apply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Applied {
    /// The new revision; none when there was nothing to do.
    pub revision: Option<RevisionInfo>,
    /// What it did.
    pub plan: Plan,
}

/// How a revision is doing: ask again until it is neither baking nor waiting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// The revision.
    pub revision: RevisionInfo,
    /// Seconds until the bake or the time to confirm ends.
    pub remaining_s: f64,
    /// What is being watched and how it stands, in words.
    pub notes: Vec<String>,
}

/// The difference of two revisions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Diff {
    /// The older side.
    pub from: RevisionNumber,
    /// The newer side.
    pub to: RevisionNumber,
    /// Unified diff of the texts, secrets taken out; empty when they are the same.
    pub unified: String,
}
