//! Errors of the store.

use std::{fmt, io, path::PathBuf};

use super::info::{RevisionNumber, RevisionState};
use crate::durable::FileError;

/// A damaged file. It is left in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub number: RevisionNumber,
    pub path: PathBuf,
    /// What is wrong with the file, as a sentence without its subject.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, path, what } = self;
        write!(
            f,
            "revision {number} is damaged and not used: {} {what}; the file is left in place",
            path.display()
        )
    }
}

/// An operation on the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("can't {what} {}: {source}", path.display())]
    System {
        /// The operation: `write`, `rename`.
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("no revision {number}{}; run `evenkeel history` for a list", newest_hint(*newest))]
    Missing {
        number: RevisionNumber,
        /// The newest revision.
        newest: Option<RevisionNumber>,
    },
    /// The revision's file was damaged while the controller ran.
    #[error("{0}")]
    Damaged(Damage),
    /// Final states do not change, and no revision is applied twice.
    #[error("revision {number} is {} and cannot become {}", name(has), name(new))]
    NotAStep {
        number: RevisionNumber,
        has: RevisionState,
        new: RevisionState,
    },
    /// The revision cannot be encoded.
    #[error("cannot write revision {number}: {why}")]
    Header { number: RevisionNumber, why: String },
}

fn newest_hint(newest: Option<RevisionNumber>) -> String {
    newest.map_or_else(
        || " (there are none)".to_owned(),
        |newest| format!(" (the newest is {newest})"),
    )
}

impl From<FileError> for StoreError {
    fn from(error: FileError) -> Self {
        Self::System {
            what: error.operation,
            path: error.path,
            source: error.source,
        }
    }
}

const fn name(state: &RevisionState) -> &'static str {
    match state {
        RevisionState::Applying => "being applied",
        RevisionState::Baking { .. } => "baking",
        RevisionState::AwaitingConfirm { .. } => "awaiting confirmation",
        RevisionState::Applied => "applied",
        RevisionState::RolledBack { .. } => "rolled back",
        RevisionState::Failed { .. } => "failed",
    }
}
