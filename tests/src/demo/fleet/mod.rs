//! The demonstration of a fleet: three nodes behind a router, as `docs/fleet.md` sets them up, with traffic the
//! whole time, while a change is wrong and while nodes are killed, drained and rebooted.

pub mod document;
mod proof;
pub mod report;
mod scenes;
pub mod site;
pub mod traffic;

use anyhow::{Context as _, Result};

use self::report::Report;
use self::site::{Kind, NODES, Network, Site, name, vip};
use self::traffic::{CONNECTIONS, RATE, Traffic};
use super::progress;

/// Runs the demonstration. With `json`, stdout is for the report.
pub fn run(kind: Kind, json: bool) -> Result<Report> {
    let router = kind.name();
    progress(&format!(
        "creating a client, a router ({router}) with ECMP, {NODES} nodes and {NODES} backends in network namespaces"
    ));
    let network = Network::build()?;
    progress(
        "starting the router, nginx on the backends, an etcd of three members, and on each node `evenkeel run` and \
         `evenkeel announce`, with the configurations of docs/fleet.md",
    );
    let mut site = Site::start(&network, kind)?;
    progress(
        "making a fleet: `evenkeel fleet init` on lb-1, `evenkeel fleet join` on lb-2 and lb-3",
    );
    let routed = site.join()?;
    progress(&format!(
        "the router has three next hops for the VIP {}: {}, {} and {} ({:.1} s after all had joined)",
        vip(),
        name(0),
        name(1),
        name(2),
        routed.as_secs_f64()
    ));
    progress(&format!(
        "until the end, {RATE} HTTP requests per second, each on a new connection, and {CONNECTIONS} connections that \
         stay open and send data four times per second; all through the router to the VIP"
    ));
    let traffic = Traffic::start(&network)?;
    let mut report = Report::new(json);
    scenes::play(&mut site, traffic, &mut report).with_context(|| {
        match site.show_neighbours() {
            Ok(shown) => format!("the router's neighbours:\n{shown}"),
            Err(error) => format!("can't ask the router: {error:#}"),
        }
    })?;
    Ok(report)
}
