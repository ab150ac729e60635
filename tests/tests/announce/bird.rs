//! BIRD, as a router or as the routing daemon of a node.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use lab::host::Host;
use lab::process::{Daemon, output};
use lab::tool;

use crate::router::{RouterPlan, START_LIMIT};
use crate::site::{NODE_AS, ROUTER_AS, ROUTER_V4, ROUTER_V6, node_v4, node_v6};

pub(crate) struct Bird {
    daemon: Daemon,
    folder: PathBuf,
}

impl Bird {
    pub(crate) fn start(host: &Host, configuration: &str) -> Result<Self> {
        let folder = host.directory().join("bird");
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("bird.conf"), configuration)?;
        Ok(Self {
            daemon: run(host, &folder)?,
            folder,
        })
    }

    pub(crate) fn restart(&mut self, host: &Host) -> Result<()> {
        self.daemon.kill();
        self.daemon = run(host, &self.folder)?;
        Ok(())
    }

    pub(crate) fn command(&self, host: &Host, command: &str) -> Result<String> {
        birdc(host, &self.folder, command)
    }

    pub(crate) fn updates(&self, host: &Host) -> Result<u64> {
        let shown = self.command(host, "show protocols all node0")?;
        let lines = shown.lines().filter(|it| it.contains("Import updates:"));
        let counts = lines.filter_map(|line| line.split_ascii_whitespace().nth(2)?.parse().ok());
        Ok(counts.map(|count: u64| count).sum())
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("bird.log")).unwrap_or_default()
    }
}

fn birdc(host: &Host, folder: &std::path::Path, command: &str) -> Result<String> {
    let mut birdc = tool::command("birdc")?;
    birdc.arg("-s").arg(folder.join("bird.ctl"));
    birdc.args(command.split(' '));
    output(&host.ns.entry(), birdc, "").with_context(|| format!("birdc {command}"))
}

fn run(host: &Host, folder: &std::path::Path) -> Result<Daemon> {
    let mut command = tool::command("bird")?;
    command.arg("-f").arg("-c").arg(folder.join("bird.conf"));
    command.arg("-s").arg(folder.join("bird.ctl"));
    command.arg("-P").arg(folder.join("bird.pid"));
    let log = folder.join("output");
    let mut daemon = Daemon::start("bird", &host.ns.entry(), command, &log)?;
    daemon.wait_ready(START_LIMIT, || {
        Ok(birdc(host, folder, "show status").is_ok())
    })?;
    Ok(daemon)
}

/// Logging, device scans and identity.
pub(crate) fn general(host: &Host, id: std::net::Ipv4Addr) -> String {
    let log = host.directory().join("bird/bird.log");
    format!(
        "log \"{}\" all;\nrouter id {id};\nprotocol device {{ scan time 1; }}\n",
        log.display()
    )
}

/// The configuration of a router with two nodes.
pub(crate) fn router(plan: &RouterPlan, host: &Host) -> String {
    let mut text = general(host, ROUTER_V4);
    for family in ["ipv4", "ipv6"] {
        let _ = writeln!(
            text,
            "protocol kernel {{ {family} {{ export all; }}; merge paths on; }}"
        );
    }
    text += "protocol bfd { interface \"br0\" { interval 100 ms; idle tx interval 1 s; multiplier 3; }; }\n";
    for node in 0..2 {
        let (local, remote) = if plan.over_v6 {
            (ROUTER_V6.to_string(), node_v6(node).to_string())
        } else {
            (ROUTER_V4.to_string(), node_v4(node).to_string())
        };
        let _ = writeln!(
            text,
            "protocol bgp node{node} {{
  local {local} as {ROUTER_AS};
  neighbor {remote} as {NODE_AS};
  hold time 9;
  connect delay time 1; connect retry time 1; error wait time 1, 2;
  ipv4 {{ import all; export none; }};
  ipv6 {{ import all; export none; }};"
        );
        if let Some(password) = plan.password {
            let _ = writeln!(text, "  password \"{password}\";");
        }
        if plan.ttl_security {
            text += "  ttl security on;\n";
        }
        if plan.bfd {
            text += "  bfd on;\n";
        }
        text += "}\n";
    }
    text
}
