//! What can be wrong with the store.

use std::{fmt, io, path::PathBuf};

use super::info::{RevisionNumber, RevisionState};

/// A file that can't be trusted. It is left as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The revision that it belongs to.
    pub number: RevisionNumber,
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, path, what } = self;
        write!(
            f,
            "revision {number} is damaged and is not used: {}: {what}; the file is left as it is",
            path.display()
        )
    }
}

/// The store can't do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refused.
    #[error("can't {what} {}: {source}", path.display())]
    System {
        /// What was tried: `write`, `rename`.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no revision of this number.
    #[error("there is no revision {number}{}; `evenkeel history` lists those there are", newest_hint(*newest))]
    Missing {
        /// The number.
        number: RevisionNumber,
        /// The newest there is.
        newest: Option<RevisionNumber>,
    },
    /// The file of the revision was damaged since it was read last.
    #[error("{0}")]
    Damaged(Damage),
    /// A state that is final can't change, and a revision is applied once only.
    #[error("revision {number} is {} and can't become {}", name(has), name(new))]
    NotAStep {
        /// The revision.
        number: RevisionNumber,
        /// Its state.
        has: RevisionState,
        /// The state that it can't have.
        new: RevisionState,
    },
    /// The header can't be written.
    #[error("can't write down revision {number}: {why}")]
    Header {
        /// The revision.
        number: RevisionNumber,
        /// Why.
        why: String,
    },
}

fn newest_hint(newest: Option<RevisionNumber>) -> String {
    newest.map_or_else(
        || " (there is none at all)".to_owned(),
        |newest| format!(" (the newest is {newest})"),
    )
}

/// A state as people call it.
const fn name(state: &RevisionState) -> &'static str {
    match state {
        RevisionState::Applying => "being applied",
        RevisionState::Baking { .. } => "baking",
        RevisionState::AwaitingConfirm { .. } => "waiting to be confirmed",
        RevisionState::Applied => "applied",
        RevisionState::RolledBack { .. } => "rolled back",
        RevisionState::Failed { .. } => "failed",
    }
}
