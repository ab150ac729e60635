//! Installs Debian packages without questions and without starting services.
//!
//! Installing a package with a daemon starts that daemon and enables it for the next boot: nginx
//! would take port 80 of a machine that only runs our tests, in namespaces. So the daemon's unit is
//! masked before its package is installed, unless the unit exists already. `policy-rc.d` would work
//! too, but would keep every other package from starting its services if we died half-way.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::process;

const UNITS: &str = "/etc/systemd/system";

/// Packages that start a daemon when installed, and its unit. (That of nftables stays disabled.)
const DAEMONS: &[(&str, &str)] = &[
    ("nginx-light", "nginx.service"),
    ("haproxy", "haproxy.service"),
    ("iperf3", "iperf3.service"),
    ("prometheus", "prometheus.service"),
    ("prometheus-alertmanager", "prometheus-alertmanager.service"),
    ("bird2", "bird.service"),
    ("frr", "frr.service"),
    ("etcd-server", "etcd.service"),
];

#[derive(Default)]
pub(crate) struct Apt {
    /// Whether the package lists were updated by this process.
    updated: bool,
}

impl Apt {
    /// Installs packages unless that would remove others. `why` is printed.
    pub(crate) fn install(&mut self, packages: &[&str], why: &str) -> Result<()> {
        let wanted = packages.join(" ");
        eprintln!("setup: installing {wanted}: {why}");
        if process::find("apt-get").is_none() {
            bail!(
                "apt-get not found: install the equivalent of these Debian packages yourself: {wanted}"
            );
        }
        if !process::is_root() {
            bail!(
                "packages are missing and installing them needs root: run\n  apt-get install {wanted}\nas root, or `cargo xtask setup` as root"
            );
        }
        self.update()?;
        for (_, unit) in DAEMONS
            .iter()
            .filter(|(package, _)| packages.contains(package))
        {
            mask(Path::new(UNITS), unit)?;
        }
        process::run(
            apt_get()
                .args([
                    "install",
                    "--yes",
                    "--quiet",
                    "--no-install-recommends",
                    "--no-remove",
                ])
                .args(packages),
        )
        .with_context(|| format!("install {wanted} from this machine's Debian sources"))
    }

    /// Unpacks a package and its missing dependencies into a new folder. `why` is printed. Nothing is
    /// installed, so nothing on the machine can conflict.
    pub(crate) fn unpack(&mut self, package: &str, folder: &Path, why: &str) -> Result<()> {
        eprintln!(
            "setup: unpacking {package} into {}: {why}",
            folder.display()
        );
        self.update()?;
        // Renamed when complete; an interrupted call leaves only an unfinished folder.
        let unfinished = folder.with_extension("unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)
                .with_context(|| format!("remove {}", unfinished.display()))?;
        }
        let archives = unfinished.join("archives");
        let partial = archives.join("partial");
        fs::create_dir_all(&partial).with_context(|| format!("create {}", partial.display()))?;
        let mut download = apt_get();
        download.args(["install", "--download-only", "--no-install-recommends"]);
        download.args(["--yes", "--quiet", "-o", "APT::Sandbox::User=root", "-o"]);
        download.arg(format!("Dir::Cache::archives={}", archives.display()));
        process::run(download.arg(package))
            .with_context(|| format!("download {package} from this machine's Debian sources"))?;
        let listed = fs::read_dir(&archives);
        for entry in listed.with_context(|| format!("list {}", archives.display()))? {
            let archive = entry
                .with_context(|| format!("list {}", archives.display()))?
                .path();
            if archive.extension().is_some_and(|kind| kind == "deb") {
                process::run(
                    Command::new("dpkg-deb")
                        .arg("-x")
                        .arg(&archive)
                        .arg(&unfinished),
                )?;
            }
        }
        fs::remove_dir_all(&archives).with_context(|| format!("remove {}", archives.display()))?;
        fs::rename(&unfinished, folder)
            .with_context(|| format!("rename the unfinished folder to {}", folder.display()))
    }

    fn update(&mut self) -> Result<()> {
        if !self.updated {
            process::run(apt_get().args(["update", "--quiet"]))
                .context("update the package lists: check the network and /etc/apt/sources.list")?;
            self.updated = true;
        }
        Ok(())
    }
}

/// Returns whether the machine's package sources have a package.
pub(crate) fn knows(package: &str) -> bool {
    process::output(Command::new("apt-cache").args(["show", "--no-all-versions", package]))
        .is_some_and(|shown| !shown.is_empty())
}

/// Returns whether a package is installed.
pub(crate) fn has(package: &str) -> bool {
    process::output(Command::new("dpkg-query").args(["--show", "--showformat=${Status}", package]))
        .is_some_and(|status| status == "install ok installed")
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    // No questions, no restarts by needrestart, no progress bars in logs.
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("NEEDRESTART_MODE", "l");
    command.args(["-o", "Dpkg::Use-Pty=0"]);
    command
}

/// Masks a unit that does not exist, so that its package can neither start nor enable it.
fn mask(units: &Path, unit: &str) -> Result<()> {
    let file: PathBuf = units.join(unit);
    if !units.is_dir() || fs::symlink_metadata(&file).is_ok() {
        return Ok(());
    }
    eprintln!(
        "setup: masking {unit}, so that it starts neither now nor at boot; undo with `systemctl unmask {unit}`"
    );
    symlink("/dev/null", &file).with_context(|| format!("mask {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::mask;

    #[test]
    fn masks_only_units_that_do_not_exist() {
        let folder = tempfile::tempdir().unwrap();
        mask(folder.path(), "a.service").unwrap();
        mask(folder.path(), "a.service").unwrap();
        let target = std::fs::read_link(folder.path().join("a.service")).unwrap();
        assert_eq!(target.to_str(), Some("/dev/null"));

        let own = folder.path().join("b.service");
        std::fs::write(&own, "[Unit]").unwrap();
        mask(folder.path(), "b.service").unwrap();
        assert_eq!(std::fs::read_to_string(&own).unwrap(), "[Unit]");
    }
}
