//! Probes: one try each, that succeeds or says what was met.

mod failure;

pub use failure::Failure;
