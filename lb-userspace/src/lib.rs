//! The library of the Evenkeel controller.
//!
//! Data flows one way: [`config`] (what the operator asked for) → [`ring`] and [`transition`] (who
//! has which slot, and who had it before) → [`dataplane`] (the kernel's maps and programs).

pub mod capture;
pub mod config;
pub mod dataplane;
pub mod decap;
pub mod nexthop;
pub mod ring;
pub mod transition;
