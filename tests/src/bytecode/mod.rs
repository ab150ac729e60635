//! The real bytecode on frames of ours: tables filled by hand, and every counter watched.
//!
//! [`tables`] writes VIPs and members straight into the maps, one member for each VIP, so that a test knows
//! where a packet must go without knowing the ring. [`Bench`] runs a frame and compares the verdict,
//! the bytes and the difference of all counters with what was expected.

mod bench;
mod counts;
pub mod tables;

pub use bench::{Bench, Expect, Output, Verdict};
pub use counts::{Counts, counts};
