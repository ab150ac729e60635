//! Set-up of a run: a lab with four nginx, the controller, an Alertmanager, and steady traffic.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lb_api::{MemberState, Status, client::Client};
use nix::sys::signal::Signal;
use tokio::runtime::Runtime;

use super::RATE;
use crate::alertmanager::Alertmanager;
use crate::balancer::Balancer;
use crate::configuration::node_tables;
use crate::deadline;
use crate::host::Host;
use crate::link::ip;
use crate::nginx::Nginx;
use crate::topology::{Family, Lab, Layout, Plan};
use crate::traffic::steady::{SOURCES, SteadyLoad};

/// Number of backends.
pub const BACKENDS: u8 = 4;
/// Name of the VIP.
pub const VIP: &str = "api";

const READY_LIMIT: Duration = Duration::from_secs(30);
/// Client timeout of a request.
const CLIENT_LIMIT: Duration = Duration::from_secs(5);

/// Settings of a run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// `affinity = "source"`.
    pub hashes_sources: bool,
    /// New connections per second.
    pub rate: u64,
    /// Edits the configuration.
    pub edit: fn(String) -> String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            hashes_sources: false,
            rate: RATE,
            edit: std::convert::identity,
        }
    }
}

/// The running processes and traffic.
#[derive(Debug)]
pub struct Site<'lab> {
    pub load: SteadyLoad,
    /// Servers in the order of the backends.
    pub nginx: Vec<Nginx>,
    pub alertmanager: Alertmanager<'lab>,
    pub balancer: Balancer<'lab>,
    pub vip: SocketAddr,
    host: &'lab Host,
    text: String,
    options: Options,
    binary: PathBuf,
    runtime: Runtime,
}

/// Result of `evenkeel apply`.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub output: String,
}

impl Outcome {
    /// Returns the line about a refusal, or the first line.
    pub fn first_line(&self) -> &str {
        let mut lines = self.output.lines();
        let refusal = lines.find(|line| line.contains("refuse"));
        refusal
            .or_else(|| self.output.lines().next())
            .unwrap_or_default()
            .trim()
    }
}

/// Builds the network.
pub fn build() -> Result<Lab> {
    let lab = Lab::build(Plan {
        backends: BACKENDS,
        ..Plan::new(Layout::OneArm)
    })?;
    // The client stands for many: it holds a network, to which backends have a route.
    let client = &lab.clients[0];
    ip(&client.ns, &[format!("route add local {SOURCES} dev lo")])?;
    let gateway = client.address(Family::V4);
    for backend in &lab.backends {
        ip(&backend.ns, &[format!("route add {SOURCES} via {gateway}")])?;
        backend.hold_vip(lab.vip(Family::V4, 1))?;
    }
    Ok(lab)
}

impl<'lab> Site<'lab> {
    /// Starts everything and waits until all backends serve.
    pub fn start(lab: &'lab Lab, binary: &Path, options: Options) -> Result<Self> {
        let host = &lab.balancers[0];
        let vip = SocketAddr::new(lab.vip(Family::V4, 1), 80);
        let any = "0.0.0.0:80".parse()?;
        let nginx = lab.backends.iter().map(|host| Nginx::start(host, &[any]));
        let nginx = nginx.collect::<Result<Vec<_>>>()?;
        let alertmanager = Alertmanager::start(host)?;
        let text = (options.edit)(configuration(lab, host.directory(), vip, options, 100));
        let mut balancer = Balancer::new(host, binary)?;
        balancer.start(&text, || Balancer::is_attached(host))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let load = SteadyLoad::start(&lab.clients[0], vip, 0, CLIENT_LIMIT)?;
        let site = Self {
            load,
            nginx,
            alertmanager,
            balancer,
            vip,
            host,
            text,
            options,
            binary: binary.to_owned(),
            runtime,
        };
        deadline::until("all backends are up", READY_LIMIT, || {
            let Ok(status) = site.status() else {
                return Ok(false);
            };
            let vip = status.vips.first();
            Ok(vip.is_some_and(|vip| {
                let up =
                    |m: &&lb_api::MemberStatus| m.state == MemberState::Up && m.table_share > 0.2;
                vip.members.iter().filter(up).count() == usize::from(BACKENDS)
            }))
        })?;
        site.load.set_rate(site.options.rate);
        Ok(site)
    }

    fn client(&self) -> Client {
        Client::new(self.host.directory().join("api.sock"))
    }

    pub fn status(&self) -> Result<Status> {
        Ok(self.runtime.block_on(self.client().status())?)
    }

    /// Returns the events since the start.
    pub fn events(&self) -> Result<Vec<lb_api::Event>> {
        let client = self.client();
        let events = self.runtime.block_on(client.events(Some(0), Some(1000)));
        Ok(events?)
    }

    /// Runs `evenkeel apply` with a weight of the first backend that has two zeros too many.
    pub fn apply_bad_change(&self, arguments: &[&str]) -> Result<Outcome> {
        let text = self.text.replacen("weight = 100\n", "weight = 10000\n", 1);
        if text == self.text {
            bail!("the configuration has no weight to change");
        }
        let file = self.host.directory().join("mistake.toml");
        std::fs::write(&file, text)?;
        let mut command = Command::new(&self.binary);
        command
            .arg("apply")
            .arg(&file)
            .arg("--socket")
            .arg(self.host.directory().join("api.sock"))
            .args(["--why", "twice the weight for backend-0"])
            .args(arguments)
            .stdin(Stdio::null());
        let output = command.output().context("run `evenkeel apply`")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(Outcome {
            code: output.status.code(),
            output: text + &String::from_utf8_lossy(&output.stderr),
        })
    }

    /// Stops the controller and starts a new one.
    pub fn restart(&mut self) -> Result<()> {
        let host = self.host;
        self.balancer.stop()?;
        self.balancer
            .start(&self.text, || Balancer::is_attached(host))
    }

    /// Fails if a server or the controller has exited.
    pub fn check_running(&mut self) -> Result<()> {
        for nginx in &mut self.nginx {
            // It may have been stopped by a fault.
            nginx.daemon().signal(Signal::SIGCONT)?;
            nginx.daemon().check_running()?;
        }
        self.balancer.controller()?.check_running()
    }
}

fn configuration(
    lab: &Lab,
    directory: &Path,
    vip: SocketAddr,
    options: Options,
    weight: u32,
) -> String {
    let affinity = if options.hashes_sources {
        "source"
    } else {
        "flow"
    };
    let mut text = format!(
        "{node}
[alerts]
alertmanager = [\"{url}\"]

[[vip]]
name = \"{VIP}\"
address = \"{address}\"
port = {port}
protocol = \"tcp\"
forward = \"l2\"
affinity = \"{affinity}\"

[vip.health]
kind = \"tcp\"
via = \"direct\"
interval = \"1s\"
timeout = \"500ms\"
",
        node = node_tables(directory, "native"),
        url = Alertmanager::URL,
        address = vip.ip(),
        port = vip.port(),
    );
    for host in &lab.backends {
        let (name, address) = (&host.name, host.address(Family::V4));
        text += &format!(
            "\n[[vip.backend]]\nname = \"{name}\"\naddress = \"{address}\"\nweight = {weight}\n"
        );
    }
    text
}
