//! A fleet: balancer nodes that share their VIP's traffic and its configuration, and an etcd.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use lb_api::{FleetNodeState, FleetState, Status};

use crate::balancer::{Balancer, binary};
use crate::configuration::node_tables;
use crate::deadline;
use crate::etcd::Cluster;
use crate::host::Host;
use crate::link::ip;
use crate::operator::CommandResult;
use crate::topology::{Family, Lab, Layout, Plan, VIP_NETWORK_V4};
use crate::traffic::steady::SOURCES;

/// Generous: a busy machine is slow.
pub const LIMIT: Duration = Duration::from_secs(90);
/// Backends that serve; one more host has no server.
pub const SERVING: usize = 3;
/// Port at which nodes exchange flows, if they do.
pub const EXCHANGE_PORT: u16 = 7946;

/// What a fleet has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// Whether nodes have `fleet.exchange`.
    pub exchange: bool,
    /// Further keys of `[node]`.
    pub node: &'a str,
    /// Further keys of the VIP.
    pub vip: &'a str,
    /// Health checks that are rare until one fails, instead of frequent ones.
    pub slow_checks: bool,
    /// The node whose certificate has another node's name, and that name.
    pub impostor: Option<(usize, &'a str)>,
    /// Further tables of a node, such as `[announce]`.
    pub tables: Option<fn(&Host) -> String>,
}

/// Builds the network: the client spreads connections over all nodes, as a router with ECMP does.
pub fn build(nodes: usize) -> Result<Lab> {
    let lab = Lab::build(Plan {
        balancers: u8::try_from(nodes)?,
        backends: SERVING as u8 + 1,
        ..Plan::new(Layout::OneArm)
    })?;
    let client = &lab.clients[0];
    client
        .ns
        .set_sysctl("net.ipv4.fib_multipath_hash_policy", "1")?;
    ip(&client.ns, &[format!("route add local {SOURCES} dev lo")])?;
    let all: Vec<usize> = (0..nodes).collect();
    route(&lab, &all)?;
    let gateway = client.address(Family::V4);
    for backend in &lab.backends {
        ip(&backend.ns, &[format!("route add {SOURCES} via {gateway}")])?;
        backend.hold_vip(lab.vip(Family::V4, 1))?;
    }
    Ok(lab)
}

/// Gives the client's route to the VIPs these nodes as next hops.
pub fn route(lab: &Lab, nodes: &[usize]) -> Result<()> {
    let hop = |node: &usize| format!("nexthop via {}", lab.balancers[*node].address(Family::V4));
    let hops: Vec<String> = nodes.iter().map(hop).collect();
    let line = format!("route replace {VIP_NETWORK_V4} {}", hops.join(" "));
    ip(&lab.clients[0].ns, &[line])
}

/// Running nodes and their etcd.
#[derive(Debug)]
pub struct Fleet<'lab> {
    pub lab: &'lab Lab,
    pub etcd: Cluster,
    pub nodes: Vec<Balancer<'lab>>,
    options: Options<'lab>,
}

impl<'lab> Fleet<'lab> {
    /// Starts etcd and the nodes. Only the first one has the VIP, and none has joined.
    pub fn start(lab: &'lab Lab, options: Options<'lab>) -> Result<Self> {
        let etcd = Cluster::start(lab)?;
        Self::start_with(lab, etcd, options, |index, host, etcd| {
            let mut text = local(host, index, etcd, &options);
            if index == 0 {
                text += &vips(lab, &options, 100, false);
            }
            Ok(text)
        })
    }

    /// Starts the nodes with these configurations.
    pub fn start_with(
        lab: &'lab Lab,
        etcd: Cluster,
        options: Options<'lab>,
        configuration: impl Fn(usize, &Host, &Cluster) -> Result<String>,
    ) -> Result<Self> {
        let binary = binary()?;
        let mut nodes = Vec::new();
        for (index, host) in lab.balancers.iter().enumerate() {
            let mut node = Balancer::new(host, &binary)?;
            let text = configuration(index, host, &etcd)?;
            node.start(&text, || Balancer::is_attached(host))?;
            nodes.push(node);
        }
        Ok(Self {
            lab,
            etcd,
            nodes,
            options,
        })
    }

    /// Makes the fleet, and waits until all nodes have its VIP, with all backends. These must serve already.
    pub fn join(&self) -> Result<()> {
        self.expect(0, 0, &["fleet", "init", "--why", "the first"])?;
        for node in 1..self.nodes.len() {
            self.expect(0, node, &["fleet", "join"])?;
        }
        self.wait_in_sync(1)?;
        self.wait_serving(0..self.nodes.len(), SERVING)
    }

    /// Waits until so many backends have a share of the ring on these nodes.
    pub fn wait_serving(&self, nodes: Range<usize>, count: usize) -> Result<()> {
        for node in nodes {
            self.wait(&format!("node {node} has {count} backends"), || {
                let status = self.status(node)?;
                let share = |member: &lb_api::MemberStatus| member.table_share > 0.2;
                let vip = status.vips.first();
                Ok(vip.is_some_and(|vip| vip.members.iter().filter(|m| share(m)).count() == count))
            })?;
        }
        Ok(())
    }

    /// Runs a command on a node.
    pub fn run(&self, node: usize, arguments: &[&str]) -> Result<CommandResult> {
        self.nodes[node].operator().run(arguments)
    }

    /// Runs a command that must exit with `code`.
    pub fn expect(&self, code: i32, node: usize, arguments: &[&str]) -> Result<CommandResult> {
        let result = self.run(node, arguments)?;
        if result.code != code {
            let nodes = 0..self.nodes.len();
            let states: Result<Vec<FleetState>> = nodes.map(|node| self.fleet(node)).collect();
            bail!(
                "{arguments:?} exited with {}, not {code}:\n{}\n{}\n{}\n{states:#?}",
                result.code,
                result.out,
                result.err,
                self.logs()
            );
        }
        Ok(result)
    }

    pub fn status(&self, node: usize) -> Result<Status> {
        let status = self.nodes[node].operator().get("/v1/status")?;
        serde_json::from_value(status).context("status")
    }

    pub fn fleet(&self, node: usize) -> Result<FleetState> {
        let state = self.nodes[node].operator().get("/v1/fleet")?;
        serde_json::from_value(state).context("state of the fleet")
    }

    /// Waits until something holds, and returns how long that took.
    pub fn wait(&self, what: &str, holds: impl FnMut() -> Result<bool>) -> Result<Duration> {
        let start = Instant::now();
        deadline::until(what, LIMIT, holds).with_context(|| self.logs())?;
        Ok(start.elapsed())
    }

    /// Waits until all nodes say that they run and confirmed a fleet revision.
    pub fn wait_in_sync(&self, revision: u64) -> Result<Duration> {
        let what = format!("all nodes have confirmed revision {revision}");
        self.wait(&what, || {
            for node in 0..self.nodes.len() {
                let state = self.fleet(node)?;
                let confirmed = state.confirmed.map(|it| it.revision);
                if state.state != FleetNodeState::InSync || confirmed != Some(revision) {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    /// Writes a file with the VIP, and returns its path.
    pub fn file(&self, name: &str, weight: u32, with_dead: bool) -> Result<String> {
        self.write(name, &vips(self.lab, &self.options, weight, with_dead))
    }

    /// Writes a file, and returns its path.
    pub fn write(&self, name: &str, text: &str) -> Result<String> {
        let path = self.lab.balancers[0].directory().join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    }

    /// Returns the end of each node's log.
    pub fn logs(&self) -> String {
        let log = |node: &Balancer<'_>| {
            let log = node.log();
            let lines: Vec<&str> = log.lines().collect();
            lines[lines.len().saturating_sub(25)..].join("\n")
        };
        let logs: Vec<String> = self.nodes.iter().map(log).collect();
        logs.join("\n----\n")
    }
}

/// Returns the tables of a node itself.
fn local(host: &Host, index: usize, etcd: &Cluster, options: &Options<'_>) -> String {
    let files = etcd.files();
    let certified = match options.impostor {
        Some((node, name)) if node == index => name.to_owned(),
        _ => format!("lb-{index}"),
    };
    let (certificate, key) = files.node(&certified);
    let exchange = match options.exchange {
        true => format!(
            "exchange = \"{}:{EXCHANGE_PORT}\"\n",
            host.address(Family::V4)
        ),
        false => String::new(),
    };
    let node = node_tables(host.directory(), "native");
    let node = node.replacen("[node]\n", &format!("[node]\n{}", options.node), 1);
    format!(
        "{node}
[change]
bake = \"1s\"

[fleet]
name = \"lab\"
node = \"lb-{index}\"
endpoints = {endpoints:?}
ca_file = {ca:?}
cert_file = {cert:?}
key_file = {key:?}
confirm = \"10s\"
{exchange}{more}",
        endpoints = etcd.endpoints(),
        ca = files.ca,
        cert = certificate,
        more = options.tables.map(|of| of(host)).unwrap_or_default(),
    )
}

/// Returns the VIP, with a weight of the first backend, and perhaps with a backend that serves nothing.
fn vips(lab: &Lab, options: &Options<'_>, weight: u32, with_dead: bool) -> String {
    let mut text = format!(
        "
[[vip]]
name = \"web\"
address = \"{}\"
port = 80
protocol = \"tcp\"
forward = \"l2\"
health = {{ kind = \"tcp\", via = \"direct\"{} }}
{}",
        lab.vip(Family::V4, 1),
        if options.slow_checks {
            ", interval = \"5s\", fast_interval = \"250ms\""
        } else {
            ", interval = \"300ms\", timeout = \"250ms\", rise = 1"
        },
        options.vip
    );
    let count = SERVING + usize::from(with_dead);
    for (index, host) in lab.backends.iter().take(count).enumerate() {
        let weight = if index == 0 { weight } else { 100 };
        text += &format!(
            "\n[[vip.backend]]\nname = \"{}\"\naddress = \"{}\"\nweight = {weight}\n",
            host.name,
            host.address(Family::V4)
        );
    }
    text
}
