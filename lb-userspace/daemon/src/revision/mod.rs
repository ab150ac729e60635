//! Revisions: every configuration that was accepted, on disk, and what became of it.
//!
//! ```text
//! state_dir/revisions/            0700
//!   00000041.revision             0600  header and text; written once, never changed
//!   00000041.state                0600  what became of it; replaced as a whole
//! ```
//!
//! Both kinds of file begin with a line that names the kind, the version of the format and the
//! SHA-256 of all that follows, so that a file that was cut short or changed is seen. A revision's
//! second line is its header (JSON), and the rest the text, byte for byte: `tail -n +3` shows it. The
//! text may have the hash seed in it, so only the owner may read these files; [`without_secrets`] is
//! for everybody else.
//!
//! # What a crash leaves
//!
//! A file is written under another name, flushed to the disk, renamed, and the folder is flushed. At
//! any moment there is the old file or the new one. Which configuration is in force then follows from
//! the states alone ([`Store::at_start`]):
//!
//! | newest state | after a crash |
//! | --- | --- |
//! | applying | The kernel may have anything. It was not proven good: the one before is in force, this one failed. |
//! | baking, awaiting confirm | In force until its deadline, by the clock on the wall; then rolled back. |
//! | applied | In force. |
//! | rolled back, failed | Not in force; look at the one before. |
//!
//! A revision whose file is damaged is passed over, and one whose state is damaged counts as failed:
//! what is not known to be good is never put in force. Damaged files stay where they are, for a
//! person to look at, and their numbers are not used again.
//!
//! All revisions are kept: a text of 10 kB every hour is 90 MB a year. Files of old revisions (both of
//! a number) may be deleted by hand while the controller does not run.

mod damage;
mod file;
mod info;
mod secrets;
mod states;
mod store;
#[cfg(test)]
mod tests;

pub use damage::{Damage, StoreError};
pub use info::{RevisionInfo, RevisionNumber, RevisionState};
pub use secrets::without_secrets;
pub use states::{AtStart, is_final, is_in_force};
pub(crate) use states::{not_confirmed, to_the_second};
pub use store::{New, Record, Revision, Store, digest};
