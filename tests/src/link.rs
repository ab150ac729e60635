//! Cables and how they are set up, by the system's own `ip` and `ethtool`.

use anyhow::{Context, Result};

use crate::namespace::Namespace;
use crate::process::output;
use crate::tool;

/// Runs commands of `ip` in a namespace, all in one process; an error names the line that failed.
pub fn ip<L: AsRef<str>>(ns: &Namespace, lines: &[L]) -> Result<()> {
    let mut command = tool::command("ip")?;
    command.args(["-batch", "-"]);
    let input: String = lines
        .iter()
        .map(|line| format!("{}\n", line.as_ref()))
        .collect();
    output(&ns.entry(), command, &input)
        .map(drop)
        .with_context(|| format!("setting up the network of {}", ns.name()))
}

/// What one command of `ip` prints, such as `-6 neigh show`.
pub fn ip_output(ns: &Namespace, arguments: &str) -> Result<String> {
    let mut command = tool::command("ip")?;
    command.args(arguments.split_ascii_whitespace());
    output(&ns.entry(), command, "").with_context(|| format!("in {}", ns.name()))
}

/// Switches offloads of an interface, for instance `&["tx", "off"]`.
pub fn set_offloads(ns: &Namespace, interface: &str, features: &[&str]) -> Result<()> {
    let mut command = tool::command("ethtool")?;
    command.arg("-K").arg(interface).args(features);
    output(&ns.entry(), command, "").map(drop).with_context(|| {
        format!(
            "offloads {} on {interface} of {}",
            features.join(" "),
            ns.name()
        )
    })
}

/// The mode in which an XDP program is attached to an interface, or none.
///
/// # Errors
/// If there is no such interface.
pub fn xdp_mode(ns: &Namespace, interface: &str) -> Result<Option<XdpMode>> {
    let text = ip_output(ns, &format!("-json link show dev {interface}"))?;
    let links: serde_json::Value =
        serde_json::from_str(&text).context("what `ip -json link` printed")?;
    // linux/if_link.h: XDP_ATTACHED_DRV 1, XDP_ATTACHED_SKB 2.
    Ok(match links[0]["xdp"]["mode"].as_u64() {
        Some(1) => Some(XdpMode::Native),
        Some(2) => Some(XdpMode::Generic),
        _ => None,
    })
}

/// How an XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// After the driver made a socket buffer.
    Generic,
}
