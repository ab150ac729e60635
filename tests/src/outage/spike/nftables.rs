//! nftables on the balancer host: destination NAT to a weighted hash of the flow, without health checks.
//!
//! Also counts the connections that reach each backend, whichever balancer sends them.

use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::{Context, Result};

use super::contestant::{Change, Started};
use crate::host::Host;
use crate::link::ip;
use crate::namespace::{Entry, Namespace};
use crate::process::output;
use crate::tool;
use crate::topology::{Family, Lab};
use crate::traffic::steady::SOURCES;

const WEIGHT: u32 = 100;
/// The wrong weight, with two zeros too many: 97 % of the sum.
const WRONG_WEIGHT: u32 = 10_000;

#[derive(Debug)]
pub(super) struct NfTables {
    inside: Entry,
    wrong: String,
}

impl NfTables {
    /// Loads the rules, and routes the replies of backends through the balancer.
    pub(super) fn start(lab: &Lab, vip: SocketAddr) -> Result<Self> {
        let host = &lab.balancers[0];
        for (key, value) in [
            ("net.ipv4.ip_forward", "1"),
            // Clients and backends are on one segment: the kernel would tell them the direct route.
            ("net.ipv4.conf.all.send_redirects", "0"),
            ("net.ipv4.conf.eth0.send_redirects", "0"),
        ] {
            host.ns.set_sysctl(key, value)?;
        }
        let gateway = host.address(Family::V4);
        for backend in &lab.backends {
            let route = format!("route replace {SOURCES} via {gateway}");
            ip(&backend.ns, &[route])?;
        }
        let inside = host.ns.entry();
        load(&inside, &rules(lab, vip, WEIGHT))?;
        Ok(Self {
            inside,
            wrong: rules(lab, vip, WRONG_WEIGHT),
        })
    }
}

impl Started for NfTables {
    fn change_weight(&mut self) -> Result<Change> {
        load(&self.inside, &self.wrong)?;
        Ok(Change::Active)
    }

    fn check_running(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Returns a transaction that replaces the rule, with this weight of the first backend.
fn rules(lab: &Lab, vip: SocketAddr, first: u32) -> String {
    let (mut slots, mut from) = (String::new(), 0);
    for (number, host) in lab.backends.iter().enumerate() {
        let weight = if number == 0 { first } else { WEIGHT };
        let to = from + weight - 1;
        let _ = write!(slots, "{from}-{to} : {}, ", host.address(Family::V4));
        from = to + 1;
    }
    let (address, port) = (vip.ip(), vip.port());
    format!(
        "table ip balancer {{
  chain prerouting {{ type nat hook prerouting priority dstnat; }}
}}
flush chain ip balancer prerouting
add rule ip balancer prerouting ip daddr {address} tcp dport {port} \
         dnat to jhash ip saddr . tcp sport mod {from} seed 0x5eed map {{ {slots} }}
"
    )
}

/// Starts counting the SYNs that arrive at a backend.
pub(super) fn count_connections(backend: &Host, port: u16) -> Result<()> {
    let rules = format!(
        "table inet count {{
  counter connections {{ }}
  chain input {{
    type filter hook input priority filter;
    tcp dport {port} tcp flags & (syn | ack) == syn counter name connections
  }}
}}
"
    );
    load(&backend.ns.entry(), &rules)
}

/// Returns the SYNs that have arrived at a backend since [`count_connections`].
pub(super) fn connections(ns: &Namespace) -> Result<u64> {
    let mut command = tool::command("nft")?;
    command.args(["--json", "list", "counter", "inet", "count", "connections"]);
    let text = output(&ns.entry(), command, "")?;
    let json: serde_json::Value = serde_json::from_str(&text).context("parse the output of nft")?;
    let objects = json["nftables"].as_array();
    objects
        .and_then(|objects| {
            objects
                .iter()
                .find_map(|object| object["counter"]["packets"].as_u64())
        })
        .with_context(|| format!("no counter in the output of nft: {text}"))
}

fn load(inside: &Entry, rules: &str) -> Result<()> {
    let mut command = tool::command("nft")?;
    command.args(["--file", "-"]);
    output(inside, command, rules).map(drop)
}
