//! BIRD, as a router or as the routing daemon of a node.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::START_LIMIT;
use crate::host::Host;
use crate::process::{Daemon, output};
use crate::tool;

/// A running BIRD. Killed when dropped.
#[derive(Debug)]
pub struct Bird {
    daemon: Daemon,
    folder: PathBuf,
}

impl Bird {
    /// Starts BIRD with a configuration and waits until it replies.
    pub fn start(host: &Host, configuration: &str) -> Result<Self> {
        let folder = host.directory().join("bird");
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("bird.conf"), configuration)?;
        Ok(Self {
            daemon: run(host, &folder)?,
            folder,
        })
    }

    /// Kills it and starts it again.
    pub fn restart(&mut self, host: &Host) -> Result<()> {
        self.daemon.kill();
        self.daemon = run(host, &self.folder)?;
        Ok(())
    }

    /// Runs a command of `birdc`.
    pub fn command(&self, host: &Host, command: &str) -> Result<String> {
        birdc(host, &self.folder, command)
    }

    /// Returns the number of routes that were received on a session.
    pub fn updates(&self, host: &Host, protocol: &str) -> Result<u64> {
        let shown = self.command(host, &format!("show protocols all {protocol}"))?;
        let lines = shown.lines().filter(|it| it.contains("Import updates:"));
        let counts = lines.filter_map(|line| line.split_ascii_whitespace().nth(2)?.parse().ok());
        Ok(counts.map(|count: u64| count).sum())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("bird.log")).unwrap_or_default()
    }
}

fn birdc(host: &Host, folder: &Path, command: &str) -> Result<String> {
    let mut birdc = tool::command("birdc")?;
    birdc.arg("-s").arg(folder.join("bird.ctl"));
    birdc.args(command.split(' '));
    output(&host.ns.entry(), birdc, "").with_context(|| format!("birdc {command}"))
}

fn run(host: &Host, folder: &Path) -> Result<Daemon> {
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

/// Returns the lines about logging, device scans and identity.
pub fn general(host: &Host, id: Ipv4Addr) -> String {
    let log = host.directory().join("bird/bird.log");
    format!(
        "log \"{}\" all;\nrouter id {id};\nprotocol device {{ scan time 1; }}\n",
        log.display()
    )
}
