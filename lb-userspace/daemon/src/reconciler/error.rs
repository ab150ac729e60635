//! What can go wrong when the tables are to hold a configuration.

use lb_dataplane::DataplaneError;
use lb_model::transition::RingError;

/// A change was refused or failed. What was there before is there again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReconcilerError {
    /// A setting of the node that the maps were made with.
    #[error(
        "{what} can't be changed from {has} to {new} while the data path is loaded: keep it, or run \
         `evenkeel unload` (forwarding stops) and start again"
    )]
    NodeFixed {
        /// The key of the configuration.
        what: &'static str,
        /// What it is.
        has: String,
        /// What it was to be.
        new: String,
    },
    /// No index is free.
    #[error("there is no place for {what}: all {limit} are taken; {hint}")]
    Full {
        /// What was to be added.
        what: String,
        /// How many places there are.
        limit: u32,
        /// What to do.
        hint: &'static str,
    },
    /// There is no such VIP or backend.
    #[error("there is no backend {backend} of a VIP {vip}")]
    Unknown {
        /// Name of the VIP.
        vip: String,
        /// Name of the backend.
        backend: String,
    },
    /// The state changed after the change was planned.
    #[error("the data path's state changed while the change was being planned; try again")]
    Outdated,
    /// A table does not hold what was written.
    #[error(
        "{table} entry {index} does not read back as it was written: something else writes to the maps"
    )]
    Readback {
        /// The table.
        table: &'static str,
        /// The entry.
        index: u32,
    },
    /// What is pinned makes no sense.
    #[error(
        "the pinned data path can't be adopted: {what}; run `evenkeel unload` (forwarding stops) and \
         start again"
    )]
    Adoption {
        /// What is wrong with it.
        what: String,
    },
    /// The data path.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    /// A fault that a test asked for.
    #[error(transparent)]
    Fault(std::io::Error),
    /// A ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A change failed, and so did going back.
    #[error("{first}; and going back to what was there before failed as well: {second}")]
    NotUndone {
        /// Why the change failed.
        first: Box<ReconcilerError>,
        /// Why it could not be undone.
        second: Box<ReconcilerError>,
    },
}

/// Result of a change.
pub type Result<T> = std::result::Result<T, ReconcilerError>;
