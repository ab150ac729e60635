//! The benchmark: cost per packet, compared with a minimal program, the floor.
//!
//! A workload is a balancer with its tables ([`balancer`]) and packets ([`packets`]). Each round measures every
//! workload directly after its floor, through the same wrapper (`wrapper`, [`lb_common::bench`]), and **verifies
//! that the workload did what its name says**: a packet with another reason is an error ([`measure`]).

pub mod against;
pub mod balancer;
pub mod measure;
pub mod packets;
pub mod scaling;
pub mod workloads;
mod wrapper;

use serde::Serialize;

use crate::table::{Align, Table};

/// Result of a workload.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    pub workload: &'static str,
    /// Median of the rounds, in nanoseconds per packet.
    pub ns: f64,
    /// Name of the floor.
    pub floor: &'static str,
    /// Median of the floor's rounds.
    pub floor_ns: f64,
    /// What the program costs of itself: `ns` without `floor_ns`.
    pub own_ns: f64,
    /// `ns` over `floor_ns`.
    pub ratio: f64,
    /// Fastest round over the fastest of the floor: a cross-check on a noisy machine.
    #[serde(skip)]
    pub best_ratio: f64,
}

/// Returns the result as a table.
#[must_use]
pub fn table(lines: &[Line]) -> Table {
    let mut table = Table::new(&[
        ("workload", Align::Left),
        ("ns", Align::Right),
        ("floor", Align::Left),
        ("ns", Align::Right),
        ("own", Align::Right),
        ("ratio", Align::Right),
        ("best", Align::Right),
    ]);
    for line in lines {
        table.row([
            line.workload.to_owned(),
            format!("{:.1}", line.ns),
            line.floor.to_owned(),
            format!("{:.1}", line.floor_ns),
            format!("{:.1}", line.own_ns),
            format!("{:.2}", line.ratio),
            format!("{:.2}", line.best_ratio),
        ]);
    }
    table
}
