//! The library of the Evenkeel controller.
//!
//! Data flows one way: [`config`] (what the operator asked for) → [`ring`] and [`transition`] (who
//! has which slot, and who had it before) → [`controller`] (indexes, entries, the order of changes) →
//! [`dataplane`] (the kernel's maps and programs). [`nexthop`] tells the ways to the backends,
//! [`simulate`] runs packets of its own, [`cli`] is the command line.

pub mod api;
pub mod capture;
pub mod cli;
pub mod config;
pub mod controller;
pub mod dataplane;
pub mod decap;
pub mod nexthop;
pub mod ring;
pub mod simulate;
pub mod skew;
pub mod transition;
