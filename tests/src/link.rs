//! Configures links with the system's `ip` and `ethtool`.

use anyhow::{Context, Result};

use crate::namespace::Namespace;
use crate::process::output;
use crate::tool;

/// Runs `ip` commands in a namespace, in one process. The error names the line that failed.
pub fn ip<L: AsRef<str>>(ns: &Namespace, lines: &[L]) -> Result<()> {
    let mut command = tool::command("ip")?;
    command.args(["-batch", "-"]);
    let input: String = lines
        .iter()
        .map(|line| format!("{}\n", line.as_ref()))
        .collect();
    output(&ns.entry(), command, &input)
        .map(drop)
        .with_context(|| format!("configure the network of {}", ns.name()))
}

/// Returns the output of one `ip` command, such as `-6 neigh show`.
pub fn ip_output(ns: &Namespace, arguments: &str) -> Result<String> {
    let mut command = tool::command("ip")?;
    command.args(arguments.split_ascii_whitespace());
    output(&ns.entry(), command, "").with_context(|| format!("in {}", ns.name()))
}

/// Sets offloads of an interface, such as `&["tx", "off"]`.
pub fn set_offloads(ns: &Namespace, interface: &str, features: &[&str]) -> Result<()> {
    let mut command = tool::command("ethtool")?;
    command.arg("-K").arg(interface).args(features);
    output(&ns.entry(), command, "").map(drop).with_context(|| {
        format!(
            "set offloads {} on {interface} of {}",
            features.join(" "),
            ns.name()
        )
    })
}

/// Returns the mode in which an XDP program is attached to an interface, if any.
///
/// # Errors
/// If there is no such interface.
pub fn xdp_mode(ns: &Namespace, interface: &str) -> Result<Option<XdpMode>> {
    let text = ip_output(ns, &format!("-json link show dev {interface}"))?;
    let links: serde_json::Value =
        serde_json::from_str(&text).context("parse the output of `ip -json link`")?;
    // linux/if_link.h: XDP_ATTACHED_DRV 1, XDP_ATTACHED_SKB 2.
    Ok(match links[0]["xdp"]["mode"].as_u64() {
        Some(1) => Some(XdpMode::Native),
        Some(2) => Some(XdpMode::Generic),
        _ => None,
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// After the driver made a socket buffer.
    Generic,
}
