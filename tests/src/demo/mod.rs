//! The demonstration: every forwarding mode, changed under real traffic.
//!
//! For each mode and address family, long-lived connections carry data until the end. `curl` makes
//! requests while one backend is added and another one drained, and then the requests from which the
//! shares are computed. There are three shares: by weight, of the ring in the kernel, and of the new
//! flows that the kernel counted. The last is compared with the replies that the clients received.

pub mod fleet;
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

/// Amount of traffic per mode and family.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Requests during each of the two changes.
    pub during_change: u32,
    /// Requests after the changes, from which shares are computed.
    pub after: u32,
    pub connections: usize,
}

impl Size {
    /// Enough for meaningful shares.
    pub fn full() -> Self {
        Self {
            during_change: 1000,
            after: 3000,
            connections: 200,
        }
    }

    /// Enough to show that everything works.
    pub fn quick() -> Self {
        Self {
            during_change: 100,
            after: 300,
            connections: 20,
        }
    }
}

/// Weights of the initial backends.
const WEIGHTS: [u32; 3] = [100, 100, 50];

/// One client for the changes, and one for the shares after them.
///
/// If a client reuses a port and the balancer did not see the old connection close, the new one goes to
/// the same backend, even if it is drained (`docs/adr/0001-connection-consistency.md`). So the shares are
/// computed from a client without earlier connections.
const CLIENTS: u8 = 2;

/// Prints progress to stderr; stdout is for the result.
fn progress(line: &str) {
    eprintln!("demo: {line}");
}

/// Runs the demonstration.
pub fn run(size: Size) -> Result<Report> {
    let binary = binary()?;
    let mut report = Report::default();
    for forward in [Forward::L2, Forward::Ipip, Forward::Nat] {
        run_forward(forward, size, &binary, &mut report)
            .with_context(|| format!("forwarding mode {}", forward.name()))?;
    }
    Ok(report)
}

/// Returns the usual layout: one segment for direct server return, two for `nat`.
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
    progress(&format!(
        "{}: creating {CLIENTS} clients, one balancer and {backends} backends with nginx",
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
    progress(&format!("{}: starting `evenkeel run`", forward.name()));
    let mut node = Node::start(&lab.balancers[0], binary, configuration)?;
    for family in FAMILIES {
        let mode = scenario::run(&lab, &mut node, forward, family, size);
        let mode = mode.with_context(|| match node.reasons() {
            Ok(reasons) => format!("packets of the balancer by reason: {reasons:?}"),
            Err(error) => format!("can't read the balancer's counters: {error:#}"),
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
