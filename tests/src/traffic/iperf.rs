//! Throughput by `iperf3`.
//!
//! A test has two connections, for control and data, which must reach the same server: a VIP in between
//! needs `affinity = "source"` or a single backend.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::Host;
use crate::process::{Daemon, is_listening, output};
use crate::tool;

const START_LIMIT: Duration = Duration::from_secs(10);

/// An iperf3 server for any number of consecutive tests. Killed when dropped.
#[derive(Debug)]
pub struct IperfServer {
    _daemon: Daemon,
}

impl IperfServer {
    /// Starts a server that listens on a port of all addresses of a host.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        let mut command = tool::command("iperf3")?;
        command.args(["--server", "--port", &port.to_string()]);
        let name = format!("iperf3 on {}", host.name);
        let log = host.directory().join(format!("iperf3-{port}.log"));
        let mut daemon = Daemon::start(&name, &host.ns.entry(), command, &log)?;
        // It would report a connection that only probes it as a failed test.
        daemon.wait_ready(START_LIMIT, || is_listening(&host.ns, port))?;
        Ok(Self { _daemon: daemon })
    }
}

/// Result of a TCP test.
#[derive(Clone, Copy, Debug)]
pub struct IperfReport {
    pub received_bytes: u64,
    pub received_bits_per_second: f64,
    /// Retransmitted segments.
    pub retransmits: u64,
}

/// Sends TCP data from a host for this time.
pub fn measure(host: &Host, to: SocketAddr, seconds: u32) -> Result<IperfReport> {
    let mut command = tool::command("iperf3")?;
    let family = match to.ip() {
        IpAddr::V4(_) => "-4",
        IpAddr::V6(_) => "-6",
    };
    command
        .args(["--json", family, "--client", &to.ip().to_string()])
        .args(["--port", &to.port().to_string()])
        .args(["--time", &seconds.to_string()])
        .args(["--connect-timeout", "3000"]);
    let text = output(&host.ns.entry(), command, "")
        .with_context(|| format!("iperf3 from {} to {to}", host.name))?;
    let value: serde_json::Value =
        serde_json::from_str(&text).context("parse the output of iperf3")?;
    let end = &value["end"];
    let report = || {
        Some(IperfReport {
            received_bytes: end["sum_received"]["bytes"].as_u64()?,
            received_bits_per_second: end["sum_received"]["bits_per_second"].as_f64()?,
            retransmits: end["sum_sent"]["retransmits"].as_u64()?,
        })
    };
    report().with_context(|| format!("no TCP result from iperf3: {text}"))
}
