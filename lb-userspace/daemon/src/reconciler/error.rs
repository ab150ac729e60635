//! Errors of the reconciler.

use lb_dataplane::DataplaneError;
use lb_model::transition::RingError;

/// A change was rejected or failed. The tables hold what they held before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReconcilerError {
    /// A setting that the maps were created with.
    #[error(
        "{what} can't be changed from {has} to {new} while the data path is loaded: keep it, or run \
         `evenkeel unload` (forwarding stops) and start again"
    )]
    NodeFixed {
        /// The configuration key.
        what: &'static str,
        has: String,
        new: String,
    },
    #[error("no room for {what}: all {limit} indexes are in use; {hint}")]
    Full {
        what: String,
        limit: u32,
        hint: &'static str,
    },
    /// The state changed after the change was planned.
    #[error("the data path's state changed while the change was being planned; try again")]
    Outdated,
    #[error(
        "{table} entry {index} does not read back as written: another process writes to the maps"
    )]
    Readback { table: &'static str, index: u32 },
    /// The pinned tables are inconsistent.
    #[error(
        "the pinned data path can't be adopted: {what}; run `evenkeel unload` (forwarding stops) and \
         start again"
    )]
    Adoption { what: String },
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    /// A fault injected by a test.
    #[error(transparent)]
    Fault(std::io::Error),
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A change failed, and so did undoing it.
    #[error("{first}; restoring the previous state failed as well: {second}")]
    NotUndone {
        first: Box<ReconcilerError>,
        second: Box<ReconcilerError>,
    },
}

pub type Result<T> = std::result::Result<T, ReconcilerError>;
