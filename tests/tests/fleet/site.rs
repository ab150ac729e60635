//! Balancer nodes that share their VIP's traffic, and an etcd.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use lab::balancer::{Balancer, binary};
use lab::configuration::node_tables;
use lab::deadline;
use lab::etcd::Cluster;
use lab::host::Host;
use lab::link::ip;
use lab::nginx::Nginx;
use lab::operator::CommandResult;
use lab::topology::{Family, Lab, Layout, Plan, VIP_NETWORK_V4};
use lab::traffic::steady::{Finished, Outcome, SOURCES, SteadyLoad};
use lb_api::{FleetNodeState, FleetState, RevisionInfo, RevisionState, Status};

/// Generous: a busy machine is slow.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);
/// Nodes of a site with steady load.
pub(crate) const NODES: usize = 3;
/// Backends that serve; one more host has no server.
pub(crate) const SERVING: usize = 3;
/// Port at which nodes exchange flows, if they do.
pub(crate) const EXCHANGE_PORT: u16 = 7946;
/// New connections per second.
const RATE: u64 = 150;
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn can_run(test: &str) -> bool {
    lab::skip::can_run(
        &format!("fleet {test}"),
        &["ip", "ethtool", "etcd", "etcdctl", "nginx"],
    )
}

/// What a site has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    /// Whether nodes have `[announce]`, with routes in the kernel.
    pub(crate) announces: bool,
    /// Whether nodes have `fleet.exchange`.
    pub(crate) exchange: bool,
    /// Further keys of `[node]`.
    pub(crate) node: &'static str,
    /// Further keys of the VIP.
    pub(crate) vip: &'static str,
    /// Health checks that are rare until one fails, instead of frequent ones.
    pub(crate) slow_checks: bool,
    /// The node whose certificate has another node's name, and that name.
    pub(crate) impostor: Option<(usize, &'static str)>,
}

/// Builds the network: the client spreads connections over all nodes, as a router with ECMP does.
pub(crate) fn build(nodes: usize) -> Lab {
    let lab = Lab::build(Plan {
        balancers: nodes as u8,
        backends: SERVING as u8 + 1,
        ..Plan::new(Layout::OneArm)
    })
    .unwrap();
    let client = &lab.clients[0];
    client
        .ns
        .set_sysctl("net.ipv4.fib_multipath_hash_policy", "1")
        .unwrap();
    ip(&client.ns, &[format!("route add local {SOURCES} dev lo")]).unwrap();
    let all: Vec<usize> = (0..nodes).collect();
    route(&lab, &all);
    let gateway = client.address(Family::V4);
    for backend in &lab.backends {
        ip(&backend.ns, &[format!("route add {SOURCES} via {gateway}")]).unwrap();
        backend.hold_vip(lab.vip(Family::V4, 1)).unwrap();
    }
    lab
}

/// Gives the client's route to the VIPs these nodes as next hops.
pub(crate) fn route(lab: &Lab, nodes: &[usize]) {
    let hop = |node: &usize| format!("nexthop via {}", lab.balancers[*node].address(Family::V4));
    let hops: Vec<String> = nodes.iter().map(hop).collect();
    let line = format!("route replace {VIP_NETWORK_V4} {}", hops.join(" "));
    ip(&lab.clients[0].ns, &[line]).unwrap();
}

pub(crate) struct Site<'lab> {
    pub(crate) lab: &'lab Lab,
    pub(crate) etcd: Cluster,
    pub(crate) nodes: Vec<Balancer<'lab>>,
    options: Options,
    load: Option<SteadyLoad>,
    _nginx: Vec<Nginx>,
}

impl<'lab> Site<'lab> {
    /// Starts servers and nodes, makes the fleet, and sends steady load through it.
    pub(crate) fn start(lab: &'lab Lab) -> Self {
        let any = "0.0.0.0:80".parse().unwrap();
        let serving = lab.backends.iter().take(SERVING);
        let nginx = serving.map(|host| Nginx::start(host, &[any]).unwrap());
        let nginx = nginx.collect();
        let site = Self::start_nodes(lab, Options::default());
        let to = SocketAddr::new(lab.vip(Family::V4, 1), 80);
        let load = SteadyLoad::start(&lab.clients[0], to, RATE, REQUEST_LIMIT).unwrap();
        Self {
            load: Some(load),
            _nginx: nginx,
            ..site
        }
    }

    /// Starts the nodes, makes the fleet, and waits until all have its VIP, with all backends. These must
    /// serve already.
    pub(crate) fn start_nodes(lab: &'lab Lab, options: Options) -> Self {
        let etcd = Cluster::start(lab).unwrap();
        let binary = binary().unwrap();
        let nodes = lab.balancers.iter().enumerate().map(|(index, host)| {
            let mut node = Balancer::new(host, &binary).unwrap();
            // Only the first node has VIPs of its own; the others get those of the fleet.
            let vips = if index == 0 {
                vips(lab, &options, 100, false)
            } else {
                String::new()
            };
            let text = local(host, index, &etcd, &options) + &vips;
            let attached = || Balancer::is_attached(host);
            node.start(&text, attached).unwrap();
            node
        });
        let nodes: Vec<Balancer<'_>> = nodes.collect();
        let site = Self {
            lab,
            etcd,
            nodes,
            options,
            load: None,
            _nginx: Vec::new(),
        };
        site.expect(0, 0, &["fleet", "init", "--why", "the first"]);
        for node in 1..site.nodes.len() {
            site.expect(0, node, &["fleet", "join"]);
        }
        site.wait_in_sync(1);
        site.wait_serving(0..site.nodes.len(), SERVING);
        site
    }

    /// Waits until so many backends have a share of the ring on these nodes.
    pub(crate) fn wait_serving(&self, nodes: Range<usize>, count: usize) {
        for node in nodes {
            self.wait(&format!("node {node} has {count} backends"), || {
                let status = self.status(node);
                let share = |member: &lb_api::MemberStatus| member.table_share > 0.2;
                let vip = status.vips.first();
                vip.is_some_and(|vip| vip.members.iter().filter(|m| share(m)).count() == count)
            });
        }
    }

    pub(crate) fn run(&self, node: usize, arguments: &[&str]) -> CommandResult {
        self.nodes[node].operator().run(arguments).unwrap()
    }

    /// Runs a command, and returns it if it exits with `code`.
    #[track_caller]
    pub(crate) fn expect(&self, code: i32, node: usize, arguments: &[&str]) -> CommandResult {
        let result = self.run(node, arguments);
        if result.code != code {
            let nodes = 0..self.nodes.len();
            let states: Vec<FleetState> = nodes.map(|node| self.fleet(node)).collect();
            eprintln!("{}\n{states:#?}", self.logs());
        }
        result.assert_code(code)
    }

    pub(crate) fn status(&self, node: usize) -> Status {
        let status = self.nodes[node].operator().get("/v1/status").unwrap();
        serde_json::from_value(status).unwrap()
    }

    pub(crate) fn fleet(&self, node: usize) -> FleetState {
        let state = self.nodes[node].operator().get("/v1/fleet").unwrap();
        serde_json::from_value(state).unwrap()
    }

    /// The local revisions of a node that the fleet made, oldest first.
    pub(crate) fn fleet_changes(&self, node: usize) -> Vec<RevisionInfo> {
        let all = self.nodes[node].operator().get("/v1/revisions").unwrap();
        let all: Vec<RevisionInfo> = serde_json::from_value(all).unwrap();
        all.into_iter()
            .filter(|revision| revision.how.starts_with("fleet revision"))
            .collect()
    }

    /// The number of the active local revision.
    pub(crate) fn active(&self, node: usize) -> u64 {
        self.status(node).revision.unwrap().number
    }

    /// The share of the first backend in the ring of a node.
    pub(crate) fn first_share(&self, node: usize) -> f64 {
        self.status(node).vips[0].members[0].table_share
    }

    pub(crate) fn wait(&self, what: &str, mut holds: impl FnMut() -> bool) -> Duration {
        let start = Instant::now();
        let waited = deadline::until(what, LIMIT, || Ok(holds()));
        waited.unwrap_or_else(|error| panic!("{error:#}\n{}", self.logs()));
        start.elapsed()
    }

    /// Waits until a node says that all nodes run and confirmed a fleet revision.
    pub(crate) fn wait_in_sync(&self, revision: u64) -> Duration {
        self.wait(
            &format!("all nodes have confirmed revision {revision}"),
            || {
                (0..self.nodes.len()).all(|node| {
                    let state = self.fleet(node);
                    state.state == FleetNodeState::InSync
                        && state.confirmed.is_some_and(|it| it.revision == revision)
                })
            },
        )
    }

    /// Writes a file with the VIP, and returns its path.
    pub(crate) fn file(&self, name: &str, weight: u32, with_dead: bool) -> String {
        self.write(name, &vips(self.lab, &self.options, weight, with_dead))
    }

    /// Writes a file, and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.lab.balancers[0].directory().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    pub(crate) fn logs(&self) -> String {
        let log = |node: &Balancer<'_>| {
            let log = node.log();
            let lines: Vec<&str> = log.lines().collect();
            lines[lines.len().saturating_sub(25)..].join("\n")
        };
        let logs: Vec<String> = self.nodes.iter().map(log).collect();
        logs.join("\n----\n")
    }

    /// Ends the traffic, of which nothing may have been lost.
    pub(crate) fn assert_nothing_lost(self) -> usize {
        let finished = self.load.unwrap().finish();
        let lost: Vec<&Finished> = finished
            .iter()
            .filter(|request| request.outcome != Outcome::Answered)
            .collect();
        assert!(
            lost.is_empty(),
            "{} of {}: {lost:?}",
            lost.len(),
            finished.len()
        );
        finished.len()
    }
}

/// Whether a revision was rolled back.
pub(crate) fn rolled_back(revision: &RevisionInfo) -> bool {
    matches!(revision.state, RevisionState::RolledBack { .. })
}

/// The tables of a node itself.
fn local(host: &Host, index: usize, etcd: &Cluster, options: &Options) -> String {
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
    let announce = match options.announces {
        true => format!(
            "\n[announce]\nsocket = \"{}/announce.sock\"\nvia = \"kernel\"\ntable = 7411\n",
            host.directory().display()
        ),
        false => String::new(),
    };
    let node = node_tables(host.directory(), "native");
    let node = node.replacen("[node]\n", &format!("[node]\n{}", options.node), 1);
    format!(
        "{node}{announce}
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
{exchange}",
        endpoints = etcd.endpoints(),
        ca = files.ca,
        cert = certificate,
    )
}

/// The VIP, with a weight of the first backend, and perhaps with a backend that serves nothing.
fn vips(lab: &Lab, options: &Options, weight: u32, with_dead: bool) -> String {
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
