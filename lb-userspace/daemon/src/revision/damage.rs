//! Errors of the store.

use std::{fmt, io, path::PathBuf};

use super::info::{RevisionNumber, RevisionState};
use crate::durable::{FileError, is_unwritable};

/// A damaged file. It is left in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub number: RevisionNumber,
    pub path: PathBuf,
    /// What is wrong with the file, as a sentence without its subject.
    pub what: String,
    /// Whether the revision is used all the same: its state was in another file.
    pub is_used: bool,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            number,
            path,
            what,
            is_used,
        } = self;
        let result = if *is_used {
            "its state was found in another file"
        } else {
            "it is not used, and damaged files are left in place"
        };
        let path = path.display();
        write!(f, "revision {number} is damaged: {path} {what}; {result}")
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

impl StoreError {
    /// Whether the disk is full or read-only.
    #[must_use]
    pub fn is_unwritable(&self) -> bool {
        matches!(self, Self::System { source, .. } if is_unwritable(source))
    }
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
