//! Next hops: the interface and MAC address to which frames for a backend are sent.
//!
//! The data path does no route lookups. A [`Resolver`] asks the kernel for the route to each backend and
//! its neighbour, watches for changes, and keeps neighbour entries fresh: frames sent by XDP do not
//! count as use of an entry, so the kernel would let it expire.

mod kernel;
mod resolver;
mod stacked;
mod state;

pub use resolver::{NextHopError, Resolver};
pub use state::{
    NativeEgress, NextHopState, NextHops, ResolvedNextHop, Stations, UnresolvedReason,
};
