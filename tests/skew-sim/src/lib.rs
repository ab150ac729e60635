//! The judge of the watch over shares: traffic that could be real, with and without faults.
//!
//! A [`world::World`] is a VIP with its traffic, second by second; a [`rules::Rule`] is something that watches it. Two
//! questions are asked: how often a rule cries while nothing is wrong ([`faultless`]), and how long it
//! takes to see what is ([`power`]). [`bake`] asks the same of the test after a change. Everything
//! follows from a seed.

pub mod bake;
pub mod clients;
pub mod cost;
pub mod deaf;
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
mod volume;
pub mod world;
