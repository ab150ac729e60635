//! The demonstration: every forwarding mode under real traffic, changed while it flows.
//!
//! For each mode and address family: connections are opened that carry data until the end, then
//! requests are made by `curl` all the time while one backend is added and another one drained, and then
//! as many again, of which the shares are taken. Shares are seen three ways: what the weights intend,
//! what the ring in the kernel gives, and what the kernel has counted; the last is compared with who
//! answered the clients.

mod report;
mod scenario;

use anyhow::{Context, Result};

pub use report::{BackendReport, ModeReport, Report};

use crate::balancer::binary;
use crate::configuration::{Configuration, Forward};
use crate::node::Node;
use crate::service::{FAMILIES, Kind, Servers, vip};
use crate::stats::damage;
use crate::topology::{Lab, Layout, Plan};

/// How much traffic there is in each mode and family.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Requests during each of the two changes.
    pub during_change: u32,
    /// Requests after them, of which the shares are taken.
    pub after: u32,
    /// Long-lived connections.
    pub connections: usize,
}

impl Size {
    /// Enough for shares that a person believes.
    pub fn full() -> Self {
        Self {
            during_change: 1000,
            after: 3000,
            connections: 200,
        }
    }

    /// Enough to see that everything works.
    pub fn quick() -> Self {
        Self {
            during_change: 100,
            after: 300,
            connections: 20,
        }
    }
}

/// Weights of the backends that are there from the start.
const WEIGHTS: [u32; 3] = [100, 100, 50];

/// Clients: one is there from the start, the other one comes after the changes.
///
/// A client that uses a port again gets the backend that had the connection before, be it drained, if the
/// balancer did not see that one closed (`docs/adr/0001-connection-consistency.md`). So the shares are taken
/// of a client that was not there before.
const CLIENTS: u8 = 2;

/// Says what is going on; standard output is for the result.
fn say(line: &str) {
    eprintln!("demo: {line}");
}

/// Runs all of it.
pub fn run(size: Size) -> Result<Report> {
    let binary = binary()?;
    let mut report = Report::default();
    for forward in [Forward::L2, Forward::Ipip, Forward::Nat] {
        run_forward(forward, size, &binary, &mut report)
            .with_context(|| format!("forwarding mode {}", forward.name()))?;
    }
    Ok(report)
}

/// One segment is the usual place for direct server return; `nat` stands between two.
fn layout(forward: Forward) -> Layout {
    match forward {
        Forward::L2 | Forward::Ipip => Layout::OneArm,
        Forward::Nat => Layout::TwoArm,
    }
}

fn run_forward(
    forward: Forward,
    size: Size,
    binary: &std::path::Path,
    report: &mut Report,
) -> Result<()> {
    let backends = WEIGHTS.len() as u8 + 1;
    say(&format!(
        "{}: building a network of {CLIENTS} clients, one balancer and {backends} backends with nginx",
        forward.name()
    ));
    let lab = Lab::build(Plan {
        clients: CLIENTS,
        backends,
        ..Plan::new(layout(forward))
    })?;
    let mut servers = Servers::start(&lab, forward, &[Kind::Web, Kind::Echo], binary)?;
    let mut configuration = Configuration::new(&lab.balancers[0]);
    for family in FAMILIES {
        for kind in [Kind::Web, Kind::Echo] {
            let vip = vip(&lab, forward, kind, family, &WEIGHTS);
            configuration.vips.push(vip);
        }
    }
    say(&format!("{}: starting `evenkeel run`", forward.name()));
    let mut node = Node::start(&lab.balancers[0], binary, configuration)?;
    for family in FAMILIES {
        let mode = scenario::run(&lab, &mut node, forward, family, size);
        let mode = mode.with_context(|| match node.reasons() {
            Ok(reasons) => format!("what became of packets on the balancer: {reasons:?}"),
            Err(error) => format!("the balancer's counters can't be read: {error:#}"),
        })?;
        report.modes.push(mode);
    }
    servers.check_running()?;
    for (host, counter, count) in damage(&lab)? {
        report.damage.push(format!(
            "{}: {host} counted {count} {counter}",
            forward.name()
        ));
    }
    Ok(())
}
