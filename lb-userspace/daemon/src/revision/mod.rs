//! Revisions: stores every accepted configuration on disk, with its state.
//!
//! ```text
//! state_dir/revisions/            0700
//!   00000041.revision             0600  header and text; written once, never changed
//!   00000041.state                0600  its state; replaced as a whole
//! ```
//!
//! Both kinds of file begin with a line that names the kind, the version of the format and the
//! SHA-256 of everything that follows, so that truncated and changed files are detected. A revision's
//! second line is its header (JSON); the rest is the text, byte for byte (`tail -n +3` shows it). The
//! text may contain the hash seed, so only the owner may read these files; everyone else
//! gets it masked ([`lb_model::secrets`]).
//!
//! # Recovery after a crash
//!
//! Files are replaced atomically ([`crate::durable`]). Which configuration is active after a start
//! follows from the states alone ([`Store::at_start`]):
//!
//! | newest state | after a crash |
//! | --- | --- |
//! | applying | Failed: the kernel's tables may be half written. The revision before is active. |
//! | baking, awaiting confirm | Active until its deadline (wall clock), then rolled back. |
//! | applied | Active. |
//! | rolled back, failed | Not active; the same rules apply to the revision before. |
//!
//! A revision with a damaged file is skipped, and one with a damaged state counts as failed: only
//! revisions known to be good become active. Damaged files are left in place for inspection, and their
//! numbers are not reused.
//!
//! The state's file names its revision, so that exchanged files are detected, and the states in them still
//! found. `change.keep_revisions` limits the number of revisions.
//!
//! If the disk is full or read-only, what may not fail (a rollback, the end of a trial, a drain) is kept
//! in memory and written later ([`OnFailure::Keep`]).

mod damage;
mod file;
mod folder;
mod info;
mod states;
mod store;
#[cfg(test)]
mod tests;

pub use damage::{Damage, StoreError};
pub use folder::OnFailure;
pub use info::{RevisionInfo, RevisionNumber, RevisionState};
pub use states::{AtStart, is_final};
pub(crate) use states::{not_confirmed, to_the_second};
pub(crate) use store::unified;
pub use store::{New, Record, Revision, Store, digest};
