//! The library of the Evenkeel controller.
//!
//! Data flows one way: [`config`] (what the operator asked for) → [`ring`] and [`transition`] (who
//! has which slot, and who had it before) → [`controller`] (indexes, entries, the order of changes) →
//! [`dataplane`] (the kernel's maps and programs). [`nexthop`] tells the ways to the backends,
//! [`simulate`] runs packets of its own, [`cli`] is the command line.

pub mod alerts;
pub mod api;
pub mod capture;
pub mod change;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod controller;
pub mod dataplane;
pub mod decap;
pub mod doctor;
pub mod durable;
pub mod edit;
pub mod engine;
pub mod events;
pub mod explain;
pub mod fault;
pub mod health;
pub mod metrics;
pub mod nexthop;
pub mod revision;
pub mod ring;
pub mod simulate;
#[cfg(test)]
mod skip;
pub mod traffic;
pub mod transition;

/// The watch over shares: a crate of its own, which knows nothing of maps, sockets or clocks.
pub use lb_skew as skew;
