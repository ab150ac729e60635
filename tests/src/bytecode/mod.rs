//! Runs the real bytecode on frames, and checks every counter.
//!
//! [`tables`] writes VIPs and members directly into the maps, with one member per VIP, so that the member of a
//! packet does not depend on the ring. [`Bench`] runs a frame and compares verdict, bytes and the changes of
//! all counters with the expectation.

mod bench;
mod counts;
pub mod path;
pub mod tables;

pub use bench::{Bench, Expect, Output, Verdict};
pub use counts::{Counts, counts};
