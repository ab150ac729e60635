//! The whole outage, beside other balancers: a weight with two zeros too many, and at the same moment three
//! times the clients. Nobody undoes the change.
//!
//! Each run has its own lab with four servers that crash when too many requests wait ([`server`]). Their load
//! is a quarter of what they can take together, and three quarters in the spike: a balancer that spreads it
//! loses nothing. The traffic and the servers are the same for every balancer. HAProxy is a proxy, nftables
//! rewrites addresses in both directions, and Evenkeel forwards with direct server return.

pub mod contestant;
pub mod drawing;
mod evenkeel;
mod haproxy;
mod nftables;
pub mod report;
pub mod result;
pub mod server;

use std::net::SocketAddr;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

pub use contestant::Contestant;
pub use report::Report;
pub use result::Run;

use super::progress;
use super::site;
use crate::balancer::binary;
use crate::deadline;
use crate::topology::{Family, Lab};
use crate::traffic::steady::{SteadyLoad, can_connect};
use server::Supervised;

/// New connections per second before and after the spike: a quarter of what four servers can take.
pub const ORDINARY: u64 = server::CAPACITY;
/// New connections per second in the spike.
pub const SPIKE: u64 = 3 * ORDINARY;

const READY_LIMIT: Duration = Duration::from_secs(10);
/// Client timeout of a request.
const CLIENT_LIMIT: Duration = Duration::from_secs(5);

/// Lengths of the parts of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeline {
    pub before: Duration,
    pub spike: Duration,
    pub after: Duration,
}

impl Timeline {
    /// That of `cargo xtask outage spike`.
    pub const FULL: Self = Self::of(10, 30, 10);
    /// Long enough for a crash.
    pub const SHORT: Self = Self::of(2, 8, 1);

    const fn of(before: u64, spike: u64, after: u64) -> Self {
        Self {
            before: Duration::from_secs(before),
            spike: Duration::from_secs(spike),
            after: Duration::from_secs(after),
        }
    }

    /// Returns the seconds from the change to the end.
    pub fn end_s(self) -> f64 {
        (self.spike + self.after).as_secs_f64()
    }
}

/// Runs these contestants one after the other, `rounds` times.
pub fn run(contestants: &[Contestant], rounds: u32, timeline: Timeline) -> Result<Report> {
    let binary = binary()?;
    let mut report = Report::new(contestants);
    for _ in 0..rounds {
        for contestant in contestants {
            let name = contestant.name();
            let run = replay(*contestant, timeline, &binary);
            let run = run.with_context(|| format!("run `{name}`"))?;
            progress(&format!("{name}: {}", run.summary()));
            report.add(run);
        }
    }
    Ok(report)
}

fn replay(contestant: Contestant, timeline: Timeline, binary: &Path) -> Result<Run> {
    let lab = site::build()?;
    let vip = SocketAddr::new(lab.vip(Family::V4, 1), 80);
    let servers = lab.backends.iter().map(Supervised::start);
    let servers = servers.collect::<Result<Vec<_>>>()?;
    for backend in &lab.backends {
        nftables::count_connections(backend, vip.port())?;
    }
    let mut balancer = contestant.start(&lab, vip, binary)?;
    deadline::until("the VIP accepts connections", READY_LIMIT, || {
        Ok(can_connect(&lab.clients[0], vip))
    })?;
    let load = SteadyLoad::start(&lab.clients[0], vip, ORDINARY, CLIENT_LIMIT)?;
    sleep(timeline.before);
    let before = connections(&lab)?;
    let change = balancer.change_weight()?;
    load.set_rate(SPIKE);
    let start = Instant::now();
    sleep(timeline.spike);
    load.set_rate(ORDINARY);
    let during = connections(&lab)?;
    let during = during.iter().zip(&before).map(|(now, then)| now - then);
    sleep(timeline.after);
    let requests = load.finish();
    balancer.check_running()?;
    let crashes = servers.iter().map(Supervised::crashes);
    Ok(Run::new(result::Observed {
        contestant,
        change,
        timeline,
        start,
        requests,
        crashes: crashes.collect::<Result<_>>()?,
        connections: during.collect(),
    }))
}

/// Returns the connections that have reached each backend, also while its server was down.
fn connections(lab: &Lab) -> Result<Vec<u64>> {
    let backends = lab.backends.iter();
    backends
        .map(|backend| nftables::connections(&backend.ns))
        .collect()
}
