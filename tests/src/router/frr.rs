//! FRR as a router: zebra, bfdd and bgpd, with sockets and files in a folder of their own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::unistd::{User, chown};
use serde_json::Value;

use super::START_LIMIT;
use crate::host::Host;
use crate::process::{Daemon, output};
use crate::tool;

/// Running daemons of FRR. Killed when dropped.
#[derive(Debug)]
pub struct Frr {
    _others: [Daemon; 2],
    bgpd: Daemon,
    folder: PathBuf,
}

/// Configurations of the daemons.
#[derive(Clone, Copy, Debug, Default)]
pub struct Configuration<'a> {
    pub zebra: &'a str,
    pub bfdd: &'a str,
    pub bgpd: &'a str,
}

impl Frr {
    /// Starts the daemons and waits for their sockets.
    pub fn start(host: &Host, configuration: &Configuration<'_>) -> Result<Self> {
        let folder = host.directory().join("frr");
        std::fs::create_dir_all(&folder)?;
        // The daemons give up root before they create their sockets.
        let user = User::from_name("frr")?.context("no user frr: is FRR installed?")?;
        chown(&folder, Some(user.uid), Some(user.gid))?;
        let Configuration { zebra, bfdd, bgpd } = configuration;
        for (name, text) in [("zebra", zebra), ("bfdd", bfdd), ("bgpd", bgpd)] {
            std::fs::write(folder.join(format!("{name}.conf")), text)?;
        }
        let zebra = run(host, &folder, "zebra", &[])?;
        let control = format!("{}/bfdd.sock", folder.display());
        let bfdd = run(host, &folder, "bfdd", &["--bfdctl", &control])?;
        Ok(Self {
            _others: [zebra, bfdd],
            bgpd: run(host, &folder, "bgpd", &[])?,
            folder,
        })
    }

    /// Starts the daemons with one configuration for all of them, as `/etc/frr/frr.conf` is.
    pub fn start_integrated(host: &Host, text: &str) -> Result<Self> {
        let frr = Self::start(host, &Configuration::default())?;
        let file = frr.folder.join("frr.conf");
        std::fs::write(&file, text)?;
        let mut vtysh = frr.command()?;
        vtysh.arg("--inputfile").arg(file);
        output(&host.ns.entry(), vtysh, "").context("load frr.conf")?;
        Ok(frr)
    }

    /// Kills bgpd and starts it again.
    pub fn restart(&mut self, host: &Host) -> Result<()> {
        self.bgpd.kill();
        std::fs::remove_file(self.folder.join("bgpd.vty"))?;
        self.bgpd = run(host, &self.folder, "bgpd", &[])?;
        Ok(())
    }

    fn command(&self) -> Result<Command> {
        let mut vtysh = tool::command("vtysh")?;
        vtysh.arg("--vty_socket").arg(&self.folder);
        Ok(vtysh)
    }

    /// Runs commands of `vtysh`.
    pub fn vtysh(&self, host: &Host, commands: &[&str]) -> Result<String> {
        let mut vtysh = self.command()?;
        vtysh.args(commands.iter().flat_map(|it| ["-c", it]));
        output(&host.ns.entry(), vtysh, "")
    }

    /// Requests all routes of a neighbor again.
    pub fn refresh(&self, host: &Host, neighbor: &str) -> Result<()> {
        for family in ["ipv4", "ipv6"] {
            let command = format!("clear bgp {family} unicast {neighbor} soft in");
            self.vtysh(host, &[&command])?;
        }
        Ok(())
    }

    /// Returns the number of UPDATE messages that a neighbor has sent.
    pub fn updates(&self, host: &Host, neighbor: &str) -> Result<u64> {
        let command = format!("show bgp neighbors {neighbor} json");
        let shown: Value = serde_json::from_str(&self.vtysh(host, &[&command])?)?;
        let count = &shown[neighbor]["messageStats"]["updatesRecv"];
        count.as_u64().with_context(|| format!("{shown:#}"))
    }

    pub fn log(&self) -> String {
        let read = |name| std::fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        ["bgpd.log", "bfdd.log", "zebra.log"].map(read).concat()
    }
}

fn run(host: &Host, folder: &Path, name: &str, more: &[&str]) -> Result<Daemon> {
    let mut command = tool::command(name)?;
    command.arg("-f").arg(folder.join(format!("{name}.conf")));
    command.arg("-z").arg(folder.join("zserv.api"));
    command.arg("--vty_socket").arg(folder);
    command.arg("-i").arg(folder.join(format!("{name}.pid")));
    // The port of the terminal is on the namespace's loopback.
    command.args(["-A", "127.0.0.1", "--log"]);
    command.arg(format!("file:{}/{name}.log", folder.display()));
    command.args(more);
    let log = folder.join(format!("{name}.out"));
    let mut daemon = Daemon::start(name, &host.ns.entry(), command, &log)?;
    let socket = folder.join(format!("{name}.vty"));
    daemon.wait_ready(START_LIMIT, || Ok(socket.exists()))?;
    Ok(daemon)
}
