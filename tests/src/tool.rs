//! The programs that the lab needs on the machine, and their Debian packages.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

/// Programs and their Debian packages.
const PACKAGES: [(&str, &str); 19] = [
    ("bfdd", "frr"),
    ("bgpd", "frr"),
    ("bird", "bird2"),
    ("birdc", "bird2"),
    ("curl", "curl"),
    ("dnsmasq", "dnsmasq-base"),
    ("etcd", "etcd-server"),
    ("etcdctl", "etcd-client"),
    ("ethtool", "ethtool"),
    ("haproxy", "haproxy"),
    ("ip", "iproute2"),
    ("iperf3", "iperf3"),
    ("nft", "nftables"),
    ("nginx", "nginx-light"),
    ("prometheus", "prometheus"),
    ("prometheus-alertmanager", "prometheus-alertmanager"),
    ("tshark", "tshark"),
    ("vtysh", "frr"),
    ("zebra", "frr"),
];

/// Searched after `PATH`, which often lacks them.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/lib/frr"];

/// Returns a command for one of the lab's tools. The error for a missing one names its package.
pub fn command(name: &str) -> Result<Command> {
    Ok(Command::new(find(name)?))
}

/// Fails if programs are missing on the machine, and names all of them.
pub fn require(names: &[&str]) -> Result<()> {
    let missing: Vec<String> = names
        .iter()
        .filter_map(|name| find(name).err())
        .map(|error| error.to_string())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!("{}", missing.join("; "))
}

fn find(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(SYSTEM_FOLDERS.iter().map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| is_program(file));
    let Some(found) = found else {
        match PACKAGES.iter().find(|(tool, _)| *tool == name) {
            Some((_, package)) => bail!("`{name}` is not installed: apt-get install -y {package}"),
            None => bail!("`{name}` is not installed"),
        }
    };
    Ok(found)
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata()
        .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_a_missing_tool() {
        let error = command("no-such-tool").unwrap_err().to_string();
        assert!(error.contains("no-such-tool"), "{error}");
    }
}
