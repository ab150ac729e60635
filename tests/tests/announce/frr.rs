//! FRR as a router: zebra, bfdd and bgpd, with sockets and files in a folder of their own.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use lab::host::Host;
use lab::process::{Daemon, output};
use lab::tool;
use nix::unistd::{User, chown};
use serde_json::Value;

use crate::router::{RouterPlan, START_LIMIT};
use crate::site::{NODE_AS, ROUTER_AS, ROUTER_V4, node_v4, node_v6};

pub(crate) struct Frr {
    _others: [Daemon; 2],
    bgpd: Daemon,
    folder: PathBuf,
    /// Address of the first node, as the sessions have it.
    first: String,
}

impl Frr {
    pub(crate) fn start(host: &Host, plan: &RouterPlan) -> Result<Self> {
        let folder = host.directory().join("frr");
        std::fs::create_dir_all(&folder)?;
        // The daemons give up root before they create their sockets.
        let user = User::from_name("frr")?.context("no user frr: is FRR installed?")?;
        chown(&folder, Some(user.uid), Some(user.gid))?;
        std::fs::write(folder.join("zebra.conf"), "hostname router\n")?;
        std::fs::write(
            folder.join("bfdd.conf"),
            "bfd\n profile fast\n  detect-multiplier 3\n  receive-interval 100\n  \
             transmit-interval 100\n exit\nexit\n",
        )?;
        std::fs::write(folder.join("bgpd.conf"), configuration(plan))?;
        let zebra = run(host, &folder, "zebra", &[])?;
        let control = format!("{}/bfdd.sock", folder.display());
        let bfdd = run(host, &folder, "bfdd", &["--bfdctl", &control])?;
        Ok(Self {
            _others: [zebra, bfdd],
            bgpd: run(host, &folder, "bgpd", &[])?,
            first: neighbor(plan, 0),
            folder,
        })
    }

    pub(crate) fn restart(&mut self, host: &Host) -> Result<()> {
        self.bgpd.kill();
        std::fs::remove_file(self.folder.join("bgpd.vty"))?;
        self.bgpd = run(host, &self.folder, "bgpd", &[])?;
        Ok(())
    }

    pub(crate) fn vtysh(&self, host: &Host, commands: &[&str]) -> Result<String> {
        let mut vtysh = tool::command("vtysh")?;
        vtysh.arg("--vty_socket").arg(&self.folder);
        vtysh.args(commands.iter().flat_map(|it| ["-c", it]));
        output(&host.ns.entry(), vtysh, "")
    }

    pub(crate) fn refresh(&self, host: &Host) -> Result<()> {
        for family in ["ipv4", "ipv6"] {
            let command = format!("clear bgp {family} unicast {} soft in", self.first);
            self.vtysh(host, &[&command])?;
        }
        Ok(())
    }

    pub(crate) fn updates(&self, host: &Host) -> Result<u64> {
        let command = format!("show bgp neighbors {} json", self.first);
        let shown: Value = serde_json::from_str(&self.vtysh(host, &[&command])?)?;
        let count = &shown[&self.first]["messageStats"]["updatesRecv"];
        count.as_u64().with_context(|| format!("{shown:#}"))
    }

    pub(crate) fn log(&self) -> String {
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

fn neighbor(plan: &RouterPlan, node: usize) -> String {
    if plan.over_v6 {
        node_v6(node).to_string()
    } else {
        node_v4(node).to_string()
    }
}

fn configuration(plan: &RouterPlan) -> String {
    let mut text = format!(
        "router bgp {ROUTER_AS}
 bgp router-id {ROUTER_V4}
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 timers bgp 3 9
"
    );
    let neighbors = [neighbor(plan, 0), neighbor(plan, 1)];
    for neighbor in &neighbors {
        let _ = writeln!(text, " neighbor {neighbor} remote-as {NODE_AS}");
        let _ = writeln!(text, " neighbor {neighbor} timers connect 1");
        if let Some(password) = plan.password {
            let _ = writeln!(text, " neighbor {neighbor} password {password}");
        }
        if plan.ttl_security {
            let _ = writeln!(text, " neighbor {neighbor} ttl-security hops 1");
        }
        if plan.bfd {
            let _ = writeln!(text, " neighbor {neighbor} bfd profile fast");
        }
    }
    for family in ["ipv4", "ipv6"] {
        let _ = writeln!(text, " address-family {family} unicast\n  maximum-paths 8");
        for neighbor in &neighbors {
            let _ = writeln!(text, "  neighbor {neighbor} activate");
        }
        text += " exit-address-family\n";
    }
    text
}
