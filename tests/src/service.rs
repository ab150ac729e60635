//! Services behind VIPs: the servers on the backends, and their part of the balancer's configuration.
//!
//! A lab uses one forwarding mode at a time, because backends need different preparation: with direct
//! server return they hold the VIPs on their loopback, for `ipip` they also run `evenkeel decap`, and
//! for `nat` they listen on other ports than the VIPs, to show that ports are rewritten.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};

use crate::balancer::start_decap;
use crate::configuration::{Backend, Forward, Guard, State, Vip};
use crate::host::Host;
use crate::nginx::Nginx;
use crate::process::Daemon;
use crate::topology::{Family, Lab};
use crate::traffic::echo::EchoServer;

/// Service of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Pages, served by nginx.
    Web,
    /// Long-lived connections, served by [`EchoServer`].
    Echo,
}

pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl Kind {
    /// Returns the port of the VIP.
    pub fn port(self) -> u16 {
        match self {
            Self::Web => 80,
            Self::Echo => 7000,
        }
    }

    /// Returns the port that backends listen on.
    pub fn backend_port(self, forward: Forward) -> u16 {
        match (self, forward) {
            (_, Forward::L2 | Forward::Ipip) => self.port(),
            (Self::Web, Forward::Nat) => 8080,
            (Self::Echo, Forward::Nat) => 7777,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Echo => "echo",
        }
    }

    fn listen(self, forward: Forward) -> [SocketAddr; 2] {
        let port = self.backend_port(forward);
        let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        any.map(|any| SocketAddr::new(any, port))
    }
}

/// Returns the name of a service's VIP in the configuration.
pub fn vip_name(kind: Kind, family: Family) -> String {
    let family = match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    };
    format!("{}-{family}", kind.name())
}

/// Returns the address of a service's VIP.
pub fn address(lab: &Lab, kind: Kind, family: Family) -> SocketAddr {
    SocketAddr::new(lab.vip(family, 1), kind.port())
}

/// Returns the VIP of a service, with one of the lab's backends per weight.
pub fn vip(lab: &Lab, forward: Forward, kind: Kind, family: Family, weights: &[u32]) -> Vip {
    let pairs = lab.backends.iter().zip(weights);
    Vip {
        name: vip_name(kind, family),
        at: address(lab, kind, family),
        udp: false,
        forward,
        health: None,
        guard: Guard::default(),
        limit: String::new(),
        bound: String::new(),
        source_affinity: false,
        backends: pairs
            .map(|(host, weight)| backend(host, forward, kind, family, *weight))
            .collect(),
    }
}

pub fn backend(host: &Host, forward: Forward, kind: Kind, family: Family, weight: u32) -> Backend {
    Backend {
        name: host.name.clone(),
        address: host.address(family),
        port: (!forward.is_direct()).then(|| kind.backend_port(forward)),
        weight,
        state: State::Up,
    }
}

/// The servers on all backends of a lab, stopped when dropped.
#[derive(Debug)]
pub struct Servers {
    forward: Forward,
    nginx: Vec<Nginx>,
    echo: Vec<Option<EchoServer>>,
    decap: Vec<Daemon>,
}

impl Servers {
    /// Prepares the backends for the forwarding mode and starts the servers. `binary` is `evenkeel`.
    pub fn start(lab: &Lab, forward: Forward, kinds: &[Kind], binary: &Path) -> Result<Self> {
        let mut servers = Self {
            forward,
            nginx: Vec::new(),
            echo: Vec::new(),
            decap: Vec::new(),
        };
        for host in &lab.backends {
            if forward.is_direct() {
                for family in FAMILIES {
                    host.hold_vip(lab.vip(family, 1))?;
                }
            }
            if forward == Forward::Ipip {
                servers.decap.push(start_decap(host, binary)?);
            }
            if kinds.contains(&Kind::Web) {
                let listen = Kind::Web.listen(forward);
                servers.nginx.push(Nginx::start(host, &listen)?);
            }
            let echo = kinds.contains(&Kind::Echo);
            servers.echo.push(if echo {
                Some(start_echo(host, forward)?)
            } else {
                None
            });
        }
        Ok(servers)
    }

    pub fn kill_nginx(&mut self, backend: usize) {
        self.nginx[backend].daemon().kill();
    }

    pub fn restart_nginx(&mut self, lab: &Lab, backend: usize) -> Result<()> {
        let listen = Kind::Web.listen(self.forward);
        self.nginx[backend] = Nginx::start(&lab.backends[backend], &listen)?;
        Ok(())
    }

    pub fn kill_echo(&mut self, backend: usize) {
        if let Some(server) = self.echo[backend].take() {
            server.kill();
        }
    }

    pub fn restart_echo(&mut self, lab: &Lab, backend: usize) -> Result<()> {
        self.echo[backend] = Some(start_echo(&lab.backends[backend], self.forward)?);
        Ok(())
    }

    /// Fails if a process has exited.
    pub fn check_running(&mut self) -> Result<()> {
        for nginx in &mut self.nginx {
            nginx.daemon().check_running()?;
        }
        for decap in &mut self.decap {
            decap.check_running().context("decap of a backend")?;
        }
        Ok(())
    }
}

fn start_echo(host: &Host, forward: Forward) -> Result<EchoServer> {
    EchoServer::start(host, &Kind::Echo.listen(forward))
}
