//! Measures the share monitor with simulated traffic, with and without faults.
//!
//! A [`world::World`] is a VIP with its traffic, second by second; a [`rules::Rule`] monitors it.
//! [`faultless`] counts false alarms, [`power`] and [`black_holes`] measure the time to detection,
//! [`bake`] does both for the test after a change. The seed determines every result.

pub mod bake;
pub mod black_holes;
pub mod clients;
pub mod cost;
pub mod faultless;
pub mod plot;
pub mod power;
pub mod random;
pub mod report;
pub mod rules;
pub mod scenario;
mod sources;
#[cfg(test)]
mod tests;
mod trials;
mod volume;
pub mod world;
