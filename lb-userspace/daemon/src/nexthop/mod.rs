//! Next hops: which MAC address, through which interface, frames for a backend go to.
//!
//! The data path never looks a route up. A [`Resolver`] asks the kernel for the route to each backend
//! and for the neighbour on it, watches for changes, and keeps the kernel asking: frames that XDP
//! sends don't count as use of a neighbour entry, so without being told the kernel would forget it.

mod kernel;
mod resolver;
mod state;

pub use resolver::{NextHopError, Resolver};
pub use state::{Reason, Resolved, State, Table};
