//! The configurations of `docs/fleet.md`, section "Set up three nodes", for the hosts of a lab.

use anyhow::{Context as _, Result};

use super::site::{ECHO_PORT, Kind};
use crate::etcd::Cluster;
use crate::host::Host;
use crate::topology::Family;

const PAGE: &str = include_str!("../../../../docs/fleet.md");

/// Returns the first code block below a heading of the section.
fn block(heading: &str) -> Result<&'static str> {
    let found = || {
        let (_, section) = PAGE.split_once("\n## Set up three nodes\n")?;
        let (section, _) = section.split_once("\n## ")?;
        let (_, below) = section.split_once(&format!("\n### {heading}\n"))?;
        let (_, block) = below.split_once("\n```")?;
        let (_, block) = block.split_once('\n')?;
        Some(block.split_once("\n```\n")?.0)
    };
    found().with_context(|| format!("docs/fleet.md has no code block below \"{heading}\""))
}

/// Returns the configuration of the router.
pub fn router(kind: Kind) -> Result<String> {
    let text = match kind {
        Kind::Bird => block("The router: BIRD")?,
        Kind::Frr => block("The router: FRR")?,
    };
    Ok(format!("{text}\n"))
}

/// Returns the commands of `evenkeel`, without its name.
pub fn commands() -> Result<Vec<&'static str>> {
    let lines = block("The commands, in order")?.lines();
    let commands = lines.filter_map(|line| line.strip_prefix("evenkeel "));
    Ok(commands
        .map(|command| command.split("  #").next().unwrap_or_default().trim_end())
        .collect())
}

/// Returns the tables of a node and the `[[vip]]` tables.
fn tables() -> Result<(&'static str, &'static str)> {
    let text = block("The nodes")?;
    let at = text
        .find("[[vip]]")
        .context("no [[vip]] in docs/fleet.md")?;
    Ok(text.split_at(at))
}

/// Returns the `[[vip]]` tables, and a second VIP with the same backends for long-lived connections.
pub fn vips() -> Result<String> {
    let (_, web) = tables()?;
    let echo = replace(
        web,
        &[
            ("\"web\"", "\"echo\"".to_owned()),
            ("port = 80", format!("port = {ECHO_PORT}")),
            (
                "kind = \"http\"\npath = \"/healthz\"",
                "kind = \"tcp\"".to_owned(),
            ),
        ],
    )?;
    Ok(format!("{web}\n\n{}\n", echo.replace("\"web-", "\"echo-")))
}

/// Returns the configuration of a node. The first node has the VIPs. Added are folders of its own and a short
/// bake, as one does not watch the first configuration for 30 s.
pub fn node(index: usize, host: &Host, etcd: &Cluster) -> Result<String> {
    let (text, _) = tables()?;
    let name = super::site::name(index);
    let folder = host.directory().display();
    let address = host.address(Family::V4);
    let files = etcd.files();
    let (certificate, key) = files.node(&name);
    let endpoints = text
        .lines()
        .find(|line| line.starts_with("endpoints = "))
        .context("no endpoints in docs/fleet.md")?;
    let text = replace(
        text,
        &[
            (
                "[node]\n",
                format!("[node]\nstate_dir = \"{folder}/state\"\n"),
            ),
            (
                "[announce]\n",
                format!("[announce]\nsocket = \"{folder}/announce.sock\"\n"),
            ),
            (endpoints, format!("endpoints = {:?}", etcd.endpoints())),
            ("\"lb-1\"", format!("{name:?}")),
            ("\"10.77.0.2\"", format!("\"{address}\"")),
            ("\"10.77.0.2:", format!("\"{address}:")),
            ("\"/etc/evenkeel/etcd-ca.pem\"", format!("{:?}", files.ca)),
            ("\"/etc/evenkeel/etcd.pem\"", format!("{certificate:?}")),
            ("\"/etc/evenkeel/etcd-key.pem\"", format!("{key:?}")),
        ],
    )?;
    let vips = if index == 0 { vips()? } else { String::new() };
    Ok(format!(
        "{text}[api]\nsocket = \"{folder}/api.sock\"\n\n[change]\nbake = \"1s\"\n\n{vips}"
    ))
}

/// Replaces texts, each of which must be there.
pub(super) fn replace(text: &str, replacements: &[(&str, String)]) -> Result<String> {
    let mut text = text.to_owned();
    for (from, to) in replacements {
        if !text.contains(from) {
            anyhow::bail!("docs/fleet.md has no {from:?}");
        }
        text = text.replace(from, to);
    }
    Ok(text)
}
