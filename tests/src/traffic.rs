//! Traffic loads and their results.
//!
//! - [`http`]: requests by `curl`, each on a new connection.
//! - [`echo`] and [`flows`]: long-lived TCP connections and UDP flows that carry numbered data, so that
//!   a reset, a move to another backend or a damaged byte is detected.
//! - [`datagrams`]: numbered datagrams at a constant rate, of which none may be lost.
//! - [`flood`]: SYNs from spoofed addresses.
//! - [`syn`]: one connection, and whether its first SYN was answered.
//! - [`steady`]: a constant rate of new connections from many addresses; an elephant flow.
//! - [`iperf`]: throughput by `iperf3`.

pub mod datagrams;
pub mod echo;
pub mod flood;
pub mod flows;
pub mod http;
pub mod iperf;
mod runtime;
pub mod steady;
pub mod syn;
