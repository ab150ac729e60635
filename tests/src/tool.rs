//! The programs of the machine that the lab stands on, and where they come from.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

/// Programs and the Debian packages that have them.
const PACKAGES: [(&str, &str); 7] = [
    ("curl", "curl"),
    ("ethtool", "ethtool"),
    ("ip", "iproute2"),
    ("iperf3", "iperf3"),
    ("nginx", "nginx-light"),
    ("prometheus", "prometheus"),
    ("prometheus-alertmanager", "prometheus-alertmanager"),
];

/// Searched after `PATH`, which often lacks them although most of these tools live there.
const SYSTEM_FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// A command for one of the lab's tools; an error that names the package if it is not there.
pub fn command(name: &str) -> Result<Command> {
    Ok(Command::new(find(name)?))
}

/// An error if one of these programs is not on the machine; it names all that are missing.
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
            Some((_, package)) => bail!(
                "the lab needs `{name}`, which is not on this machine: apt-get install -y {package}"
            ),
            None => bail!("the lab needs `{name}`, which is not on this machine"),
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
    fn a_missing_tool_is_named() {
        let error = command("no-such-tool").unwrap_err().to_string();
        assert!(error.contains("no-such-tool"), "{error}");
    }
}
