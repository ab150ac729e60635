//! Traffic through the router until the end: requests, counted by scene, and connections that stay open.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::site::{ECHO_PORT, LIMIT, Network, vip};
use crate::traffic::flows::{FlowLoad, FlowPlan, Transport};
use crate::traffic::steady::{Finished, Outcome, SteadyLoad};

/// New connections per second, with one request each.
pub const RATE: u64 = 200;
/// Connections that stay open.
pub const CONNECTIONS: usize = 200;
/// Between a reply and the next text of a connection.
const PAUSE: Duration = Duration::from_millis(250);
/// Longer than TCP needs to send again what was lost in a second.
const REPLY_LIMIT: Duration = Duration::from_secs(10);
/// Replies of each open connection after a scene.
const REPLIES: u64 = 2;

/// What happened to the traffic in a scene.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    pub requests: Vec<Finished>,
    pub connections: usize,
    /// Connections that broke, by fault.
    pub faults: BTreeMap<String, u64>,
}

impl Counted {
    /// Returns the requests without a reply.
    pub fn failed(&self) -> impl Iterator<Item = &Finished> {
        let failed = |it: &&Finished| it.outcome != Outcome::Answered;
        self.requests.iter().filter(failed)
    }

    pub fn broken(&self) -> u64 {
        self.faults.values().sum()
    }

    /// Returns the time of the slowest request that was answered.
    pub fn slowest(&self) -> Duration {
        let answered = |it: &&Finished| it.outcome == Outcome::Answered;
        let took = self
            .requests
            .iter()
            .filter(answered)
            .map(|request| request.took);
        took.max().unwrap_or_default()
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
        for request in self.failed() {
            *kinds.entry(outcome(request.outcome)).or_default() += 1;
        }
        write!(
            f,
            "{} requests: {} failed{} (slowest reply: {} ms); {} open connections: {} broken{}",
            self.requests.len(),
            self.failed().count(),
            list(kinds.iter().map(|(kind, count)| (*kind, *count))),
            self.slowest().as_millis(),
            self.connections,
            self.broken(),
            list(
                self.faults
                    .iter()
                    .map(|(kind, count)| (kind.as_str(), *count))
            ),
        )
    }
}

fn list<'a>(counts: impl Iterator<Item = (&'a str, u64)>) -> String {
    let counts: Vec<String> = counts
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    match counts.is_empty() {
        true => String::new(),
        false => format!(" [{}]", counts.join(", ")),
    }
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Answered => "answered",
        Outcome::Refused => "refused",
        Outcome::Reset => "reset",
        Outcome::TimedOut => "timed out",
    }
}

/// Running traffic.
#[derive(Debug)]
pub struct Traffic<'net> {
    network: &'net Network,
    requests: SteadyLoad,
    connections: FlowLoad,
    /// Faults of connections in the scenes before.
    known: BTreeMap<String, u64>,
}

impl<'net> Traffic<'net> {
    /// Opens the connections, and starts the requests.
    pub fn start(network: &'net Network) -> Result<Self> {
        let plan = FlowPlan {
            pause: PAUSE,
            answer_limit: REPLY_LIMIT,
            ..FlowPlan::new(
                Transport::Tcp,
                SocketAddr::new(vip().into(), ECHO_PORT),
                CONNECTIONS,
            )
        };
        let connections = FlowLoad::start(&network.client, &plan)?;
        connections.wait_answers(1, LIMIT)?;
        let faults = connections.snapshot().faults();
        if !faults.is_empty() {
            bail!("connections through the router failed to open: {faults:?}");
        }
        Ok(Self {
            network,
            requests: request(network)?,
            connections,
            known: BTreeMap::new(),
        })
    }

    /// Ends a scene: returns what happened to the requests that began in it, and to the open connections, each of
    /// which has had replies since or is broken. The traffic goes on.
    pub fn cut(&mut self) -> Result<Counted> {
        let requests = std::mem::replace(&mut self.requests, request(self.network)?);
        let requests = requests.finish();
        self.connections.wait_answers(REPLIES, LIMIT)?;
        let now = self.connections.snapshot();
        let mut faults = now.faults();
        for (fault, count) in &mut faults {
            *count -= self.known.get(fault).copied().unwrap_or_default();
        }
        faults.retain(|_, count| *count > 0);
        let broken_before: u64 = self.known.values().sum();
        self.known = now.faults();
        Ok(Counted {
            requests,
            connections: CONNECTIONS - broken_before as usize,
            faults,
        })
    }
}

fn request(network: &Network) -> Result<SteadyLoad> {
    let to = SocketAddr::new(vip().into(), 80);
    SteadyLoad::start(&network.client, to, RATE, REPLY_LIMIT)
}

/// Returns the requests that began after `since` and failed.
pub fn failed_since(counted: &Counted, since: Instant) -> usize {
    let late = |request: &&Finished| request.began > since;
    counted.failed().filter(late).count()
}
