//! HAProxy on the balancer host, as a TCP proxy.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::contestant::{Change, Started};
use super::server::WORKERS;
use crate::host::Host;
use crate::process::{Daemon, is_listening};
use crate::tool;
use crate::topology::{Family, Lab};

const START_LIMIT: Duration = Duration::from_secs(10);

/// Weight of every server. With a weight of 1, consistent hashing would have so few points per server that
/// the shares were uneven.
const WEIGHT: u32 = 2;
/// The wrong weight, with two zeros too many: 97 % of the sum. (HAProxy's largest weight is 256.)
const WRONG_WEIGHT: u32 = 200;

/// How HAProxy selects a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    LeastConn,
    /// With as many connections per server as it has workers; HAProxy queues the others.
    LeastConnMaxConn,
    /// A consistent hash of the source, bounded to 1.25 times the share of each server.
    BoundedHash,
}

#[derive(Debug)]
pub(super) struct HaProxy {
    daemon: Daemon,
    socket: PathBuf,
    /// The server whose weight is changed.
    first: String,
}

impl HaProxy {
    /// Starts HAProxy on the VIP and waits until it listens.
    pub(super) fn start(lab: &Lab, vip: SocketAddr, method: Method) -> Result<Self> {
        let host = &lab.balancers[0];
        host.hold_vip(vip.ip())?;
        let socket = host.directory().join("haproxy.sock");
        let file = host.directory().join("haproxy.cfg");
        std::fs::write(&file, configuration(lab, vip, method, &socket))
            .with_context(|| format!("write configuration {}", file.display()))?;
        let mut command = tool::command("haproxy")?;
        command.arg("-db").arg("-f").arg(&file);
        let log = host.directory().join("haproxy.log");
        let mut daemon = Daemon::start("haproxy", &host.ns.entry(), command, &log)?;
        daemon.wait_ready(START_LIMIT, || is_listening(&host.ns, vip.port()))?;
        Ok(Self {
            daemon,
            socket,
            first: lab.backends[0].name.clone(),
        })
    }
}

impl Started for HaProxy {
    fn change_weight(&mut self) -> Result<Change> {
        let command = format!("set server api/{} weight {WRONG_WEIGHT}", self.first);
        let mut stream =
            UnixStream::connect(&self.socket).context("connect to HAProxy's socket")?;
        writeln!(stream, "{command}")?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        // Success is an empty line.
        if !reply.trim().is_empty() {
            bail!("haproxy: {command}: {}", reply.trim());
        }
        Ok(Change::Active)
    }

    fn check_running(&mut self) -> Result<()> {
        self.daemon.check_running()
    }
}

fn configuration(lab: &Lab, vip: SocketAddr, method: Method, socket: &std::path::Path) -> String {
    let balance = match method {
        Method::LeastConn | Method::LeastConnMaxConn => "balance leastconn",
        Method::BoundedHash => "balance source\n  hash-type consistent\n  hash-balance-factor 125",
    };
    let mut text = format!(
        "global
  stats socket {socket} mode 600 level admin
  maxconn 8000

defaults
  mode tcp
  option redispatch
  timeout connect 5s
  timeout client 30s
  timeout server 30s

listen api
  bind {vip}
  {balance}
",
        socket = socket.display()
    );
    let most = match method {
        Method::LeastConnMaxConn => format!(" maxconn {WORKERS}"),
        Method::LeastConn | Method::BoundedHash => String::new(),
    };
    for host in &lab.backends {
        // Checks as often as Evenkeel's defaults.
        text += &server_line(host, vip.port(), &most);
    }
    text
}

fn server_line(host: &Host, port: u16, most: &str) -> String {
    let (name, address) = (&host.name, host.address(Family::V4));
    format!(
        "  server {name} {address}:{port} weight {WEIGHT}{most} check inter 1s fastinter 250ms\n"
    )
}
