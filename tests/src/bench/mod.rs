//! The benchmark: what a packet costs, beside the least that any program would cost.
//!
//! A workload is a balancer of its own with the tables it needs ([`balancer`]) and the packets that are
//! sent through it ([`packets`]). Each round measures every workload right after its floor, through
//! the same wrapper (`wrapper`, [`lb_common::bench`]), and **proves that the workload did what its name says**: a
//! packet that was forwarded for another reason makes an error, not a number ([`measure`]).

pub mod balancer;
pub mod measure;
pub mod packets;
pub mod workloads;
mod wrapper;

use serde::Serialize;

use crate::table::{Align, Table};

/// One line of the result.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Name of the workload.
    pub workload: &'static str,
    /// Median of the rounds, nanoseconds a packet.
    pub ns: f64,
    /// What it is compared with.
    pub floor: &'static str,
    /// Median of the floor's rounds.
    pub floor_ns: f64,
    /// `ns` over `floor_ns`.
    pub ratio: f64,
    /// The fastest round over the fastest of the floor: a cross-check on a noisy machine.
    #[serde(skip)]
    pub best_ratio: f64,
}

/// The result as a table for people.
#[must_use]
pub fn table(lines: &[Line]) -> Table {
    let mut table = Table::new(&[
        ("workload", Align::Left),
        ("ns", Align::Right),
        ("floor", Align::Left),
        ("ns", Align::Right),
        ("ratio", Align::Right),
        ("best", Align::Right),
    ]);
    for line in lines {
        table.row([
            line.workload.to_owned(),
            format!("{:.1}", line.ns),
            line.floor.to_owned(),
            format!("{:.1}", line.floor_ns),
            format!("{:.2}", line.ratio),
            format!("{:.2}", line.best_ratio),
        ]);
    }
    table
}
