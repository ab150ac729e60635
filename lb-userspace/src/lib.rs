//! Evenkeel.

pub mod dataplane;
pub mod nexthop;
