//! Traffic, and what became of it.
//!
//! - [`http`]: requests by `curl`, each on a connection of its own.
//! - [`echo`] and [`flows`]: long-lived TCP connections and UDP flows that carry numbered data all the time,
//!   so that a break, a move to another backend or a damaged byte shows.
//! - [`flood`]: SYNs from nobody.
//! - [`steady`]: so many new connections a second, from many addresses; an elephant.
//! - [`iperf`]: throughput by `iperf3`.

pub mod echo;
pub mod flood;
pub mod flows;
pub mod http;
pub mod iperf;
mod runtime;
pub mod steady;
