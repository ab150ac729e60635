//! What `docs/fleet.md` sets up: a client behind a router, three nodes, three backends, and an etcd.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use super::document;
use crate::balancer::{Balancer, start_announce};
use crate::deadline;
use crate::etcd::Cluster;
use crate::fleet::{Fleet, Options};
use crate::host::Host;
use crate::link::ip;
use crate::nginx::Nginx;
use crate::process::Daemon;
use crate::router::bird::Bird;
use crate::router::frr::Frr;
use crate::router::next_hops;
use crate::topology::{Family, Lab, Layout, Plan};
use crate::traffic::echo::EchoServer;
use crate::traffic::steady::SOURCES;

/// Number of nodes, and of backends.
pub const NODES: usize = 3;
/// Generous: a busy machine is slow.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at the router's route while nothing is measured in milliseconds.
const LOOK: Duration = Duration::from_millis(20);

/// Port of the VIP for connections that stay open.
pub const ECHO_PORT: u16 = 7000;

/// The routing daemon of the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bird,
    Frr,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::Bird, Self::Frr];

    pub fn name(self) -> &'static str {
        match self {
            Self::Bird => "BIRD",
            Self::Frr => "FRR",
        }
    }
}

/// Returns the name of a node in the fleet.
pub fn name(node: usize) -> String {
    format!("lb-{}", node + 1)
}

/// The hosts.
#[derive(Debug)]
pub struct Network {
    pub lab: Lab,
    pub router: Host,
    pub client: Host,
}

impl Network {
    pub fn build() -> Result<Self> {
        let lab = Lab::build(Plan {
            clients: 0,
            balancers: NODES as u8,
            backends: NODES as u8,
            fabric_mtu: 1500,
            ..Plan::new(Layout::OneArm)
        })?;
        let (router, client) = (Host::new("router")?, Host::new("client")?);
        let links = [
            "link add router type veth peer name eth1 netns ".to_owned() + router.ns.name(),
            "link set router master front".to_owned(),
            "link set router up".to_owned(),
        ];
        ip(&lab.switch, &links)?;
        let links = [
            "link add eth0 type veth peer name eth0 netns ".to_owned() + client.ns.name(),
            "addr add 198.19.0.1/24 dev eth0".to_owned(),
            "addr add 10.77.0.1/24 dev eth1".to_owned(),
            "link set eth0 up".to_owned(),
            "link set eth1 up".to_owned(),
            format!("route add {SOURCES} via 198.19.0.2"),
        ];
        ip(&router.ns, &links)?;
        router.ns.set_sysctl("net.ipv4.ip_forward", "1")?;
        router
            .ns
            .set_sysctl("net.ipv4.fib_multipath_hash_policy", "1")?;
        let links = [
            "addr add 198.19.0.2/24 dev eth0".to_owned(),
            "link set eth0 up".to_owned(),
            "route add default via 198.19.0.1".to_owned(),
            format!("route add local {SOURCES} dev lo"),
        ];
        ip(&client.ns, &links)?;
        for backend in &lab.backends {
            ip(&backend.ns, &["route add default via 10.77.0.1"])?;
            backend.hold_vip(vip().into())?;
        }
        Ok(Self {
            lab,
            router,
            client,
        })
    }

    /// Sets the link of a node up or down, at the switch.
    pub fn set_link(&self, node: usize, state: &str) -> Result<()> {
        let port = &self.lab.balancers[node].ports[0].switch_port;
        ip(&self.lab.switch, &[format!("link set {port} {state}")])
    }
}

/// Returns the address of the VIPs.
pub fn vip() -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 1)
}

#[derive(Debug)]
enum Router {
    Bird(Bird),
    Frr(Frr),
}

/// The running processes.
#[derive(Debug)]
pub struct Site<'net> {
    pub network: &'net Network,
    pub fleet: Fleet<'net>,
    announcers: Vec<Option<Daemon>>,
    router: Router,
    _nginx: Vec<Nginx>,
    _echo: Vec<EchoServer>,
}

impl<'net> Site<'net> {
    /// Starts everything. No node has joined the fleet, so none has a VIP but the first, which has no route yet.
    pub fn start(network: &'net Network, kind: Kind) -> Result<Self> {
        let Network { lab, router, .. } = network;
        let backends = &lab.backends;
        let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let nginx = backends.iter().map(|host| Nginx::start(host, &[any(80)]));
        let nginx = nginx.collect::<Result<_>>()?;
        let echo = |host| EchoServer::start(host, &[any(ECHO_PORT)]);
        let echo = backends.iter().map(echo).collect::<Result<_>>()?;
        let text = document::router(kind)?;
        let router = match kind {
            Kind::Bird => {
                let log = router.directory().join("bird/bird.log");
                let to = format!("log {:?} all;", log.display().to_string());
                let text = document::replace(&text, &[("log syslog all;", to)])?;
                Router::Bird(Bird::start(router, &text)?)
            }
            Kind::Frr => Router::Frr(Frr::start_integrated(router, &text)?),
        };
        let etcd = Cluster::start(lab)?;
        let fleet = Fleet::start_with(lab, etcd, Options::default(), document::node)?;
        let nodes = fleet.nodes.iter().zip(&lab.balancers);
        let announcers = nodes.map(|(node, host)| Ok(Some(start_announce(host, node)?)));
        Ok(Self {
            network,
            announcers: announcers.collect::<Result<_>>()?,
            fleet,
            router,
            _nginx: nginx,
            _echo: echo,
        })
    }

    /// Makes the fleet, and waits until the router has a route to all nodes. Returns how long that took.
    pub fn join(&self) -> Result<Duration> {
        self.fleet.join()?;
        self.wait_hops(&[0, 1, 2], LOOK)
    }

    /// Returns the nodes that the router's kernel has as next hops of the VIP.
    pub fn hops(&self) -> Result<BTreeSet<usize>> {
        let hops = next_hops(&self.network.router, vip().into())?;
        let nodes = self.network.lab.balancers.iter().enumerate();
        let is_hop = |host: &Host| hops.contains(&host.address(Family::V4));
        Ok(nodes
            .filter(|(_, host)| is_hop(host))
            .map(|(node, _)| node)
            .collect())
    }

    /// Waits until these are the next hops, and returns how long that took.
    pub fn wait_hops(&self, nodes: &[usize], look: Duration) -> Result<Duration> {
        let start = Instant::now();
        let nodes: BTreeSet<usize> = nodes.iter().copied().collect();
        let names: Vec<String> = nodes.iter().map(|node| name(*node)).collect();
        let what = format!("the router routes {} to {}", vip(), names.join(", "));
        let waited = deadline::until(&what, LIMIT, || {
            let is_so = self.hops()? == nodes;
            if !is_so {
                std::thread::sleep(look);
            }
            Ok(is_so)
        });
        waited.with_context(|| self.logs())?;
        Ok(start.elapsed())
    }

    /// Returns what the router shows about its neighbours, and the ends of the nodes' logs.
    pub fn logs(&self) -> String {
        let shown = self.show_neighbours();
        let shown = shown.unwrap_or_else(|error| format!("{error:#}"));
        let announcers = self.announcers.iter().flatten().map(Daemon::log);
        let announcers: Vec<String> = announcers.collect();
        format!("{shown}\n{}\n{}", announcers.join("\n"), self.fleet.logs())
    }

    /// Returns what the router shows about its sessions of BGP and BFD.
    pub fn show_neighbours(&self) -> Result<String> {
        let host = &self.network.router;
        Ok(match &self.router {
            Router::Bird(bird) => {
                bird.command(host, "show protocols")? + &bird.command(host, "show bfd sessions")?
            }
            Router::Frr(frr) => frr.vtysh(host, &["show bgp summary", "show bfd peers brief"])?,
        })
    }

    /// Returns the path of the announcer's socket.
    pub fn announce_socket(&self, node: usize) -> PathBuf {
        let folder = self.network.lab.balancers[node].directory();
        folder.join("announce.sock")
    }

    fn evenkeel(&self, node: usize, arguments: &[&str]) -> std::process::Command {
        let folder = self.network.lab.balancers[node].directory();
        let mut command = self.fleet.nodes[node].command();
        command.args(arguments).env("NO_COLOR", "1");
        command.env("EVENKEEL_SOCKET", folder.join("api.sock"));
        command.env("EVENKEEL_ANNOUNCE_SOCKET", self.announce_socket(node));
        command
    }

    /// Starts a command of `evenkeel` on a node.
    pub fn command(&self, node: usize, arguments: &[&str]) -> Result<Command> {
        let host = &self.network.lab.balancers[node];
        let command = self.evenkeel(node, arguments);
        let log = tempfile::NamedTempFile::new_in(host.directory())?;
        let log = log.into_temp_path().keep()?;
        let daemon = Daemon::start(arguments[0], &host.ns.entry(), command, &log)?;
        Ok(Command { daemon })
    }

    /// Kills a node: no packet and no end of a connection reaches anybody.
    pub fn cut_power(&mut self, node: usize) -> Result<()> {
        self.network.set_link(node, "down")?;
        self.announcers[node] = None;
        self.fleet.nodes[node].kill();
        Ok(())
    }

    /// Stops the processes of a node, as `systemctl reboot` does, but does not wait for the announcer.
    pub fn shut_down(&mut self, node: usize) -> Result<()> {
        let announcer = self.announcers[node].as_ref().context("no announcer")?;
        announcer.signal(Signal::SIGTERM)?;
        self.fleet.nodes[node].stop().map(drop)
    }

    /// Removes what a node has in memory, and starts its processes.
    pub fn boot(&mut self, node: usize) -> Result<()> {
        let host = &self.network.lab.balancers[node];
        self.announcers[node] = None;
        let balancer: &mut Balancer<'_> = &mut self.fleet.nodes[node];
        balancer.unload()?;
        ip(&host.ns, &["neigh flush all"])?;
        self.network.set_link(node, "up")?;
        self.announcers[node] = Some(start_announce(host, balancer)?);
        if !balancer.try_start(&[])? {
            anyhow::bail!(
                "the controller of {} exited:\n{}",
                name(node),
                balancer.log()
            );
        }
        Ok(())
    }

    /// Returns the new flows of all VIPs that each node has counted.
    pub fn new_flows(&self) -> Result<Vec<u64>> {
        let flows = |node| {
            let status = self.fleet.status(node)?;
            let members = status.vips.iter().flat_map(|vip| &vip.members);
            Ok(members.map(|member| member.totals.new_flows).sum())
        };
        (0..NODES).map(flows).collect()
    }
}

/// A running command.
#[derive(Debug)]
pub struct Command {
    daemon: Daemon,
}

impl Command {
    /// Returns its exit code if it has exited, -1 if it was killed.
    pub fn exited(&mut self) -> Result<Option<i32>> {
        let status = self.daemon.exited()?;
        Ok(status.map(|status| status.code().unwrap_or(-1)))
    }

    /// Waits for its end, and returns exit code and output.
    pub fn finish(mut self) -> Result<(i32, String)> {
        let status = self.daemon.wait(LIMIT)?;
        Ok((status.code().unwrap_or(-1), self.daemon.log()))
    }
}
