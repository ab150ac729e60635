//! The balancer: `evenkeel run` on a node, and `evenkeel decap` on a backend.
//!
//! [`Balancer`] owns what a node keeps while its controller is stopped, killed or replaced: the BPF
//! file system and the state folder. The controller is a process that may be missing.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::bpffs::Bpffs;
use crate::deadline::poll;
use crate::host::Host;
use crate::link::xdp_mode;
use crate::operator::Operator;
use crate::process::{Daemon, output};

/// Verification takes a while, and the machine may be busy.
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A balancer node. Dropping it kills its controller and removes its pins and programs.
#[derive(Debug)]
pub struct Balancer<'lab> {
    host: &'lab Host,
    binary: PathBuf,
    controller: Option<Daemon>,
    bpffs: Bpffs,
}

impl<'lab> Balancer<'lab> {
    /// Creates a node without a controller.
    pub fn new(host: &'lab Host, binary: &Path) -> Result<Self> {
        let bpffs = Bpffs::mount(&host.directory().join("bpf"))?;
        std::fs::create_dir_all(state_dir(host))?;
        Ok(Self {
            host,
            binary: binary.to_owned(),
            controller: None,
            bpffs,
        })
    }

    /// Returns the value of `state_dir` in the configuration.
    pub fn state_dir(&self) -> PathBuf {
        state_dir(self.host)
    }

    /// Returns the folder of the node's pins, the value of `--bpffs`.
    pub fn bpffs(&self) -> &Path {
        self.bpffs.path()
    }

    /// Starts `evenkeel run` with a configuration (TOML) and waits until `ready` returns true.
    ///
    /// `ready` should check the effect of the configuration, at least [`Balancer::is_attached`].
    pub fn start(
        &mut self,
        configuration: &str,
        mut ready: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        if self.controller.is_some() {
            bail!("a controller already runs on {}", self.host.name);
        }
        self.write_configuration(configuration)?;
        let mut daemon = self.spawn(&[])?;
        let (operator, pid) = (self.operator(), u64::from(daemon.pid()));
        // The state that `ready` checks may be from the previous controller.
        let is_ready = || Ok(operator.controller() == Some(pid) && ready()?);
        daemon.wait_ready(START_LIMIT, is_ready)?;
        self.controller = Some(daemon);
        Ok(())
    }

    fn spawn(&self, environment: &[(&str, &str)]) -> Result<Daemon> {
        let mut command = self.command();
        command.arg("run").arg("--config").arg(self.file());
        command.arg("--bpffs").arg(self.bpffs());
        command.env("NO_COLOR", "1").env_remove("EVENKEEL_FAULT");
        command.envs(environment.iter().copied());
        let name = format!("evenkeel run on {}", self.host.name);
        Daemon::start(&name, &self.host.ns.entry(), command, &self.log_file())
    }

    /// Starts `evenkeel run` with the present configuration file and waits until its API replies. Returns
    /// false if the process exited before.
    pub fn try_start(&mut self, environment: &[(&str, &str)]) -> Result<bool> {
        if self.controller.is_some() {
            bail!("a controller already runs on {}", self.host.name);
        }
        let mut daemon = self.spawn(environment)?;
        let operator = self.operator();
        let pid = u64::from(daemon.pid());
        let is_up = poll("the controller replies or exits", START_LIMIT, || {
            if daemon.exited()?.is_some() {
                return Ok(Some(false));
            }
            Ok((operator.controller() == Some(pid)).then_some(true))
        })?;
        if is_up {
            self.controller = Some(daemon);
        }
        Ok(is_up)
    }

    /// Returns the output of all controllers of this node so far.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Returns an operator of this node.
    pub fn operator(&self) -> Operator {
        Operator::new(self.host, &self.binary)
    }

    /// Sets the binary for further starts: an upgrade.
    pub fn set_binary(&mut self, binary: &Path) {
        self.binary = binary.to_owned();
    }

    fn log_file(&self) -> PathBuf {
        self.host.directory().join("evenkeel.log")
    }

    /// Returns the path of the configuration file.
    pub fn file(&self) -> PathBuf {
        self.host.directory().join("evenkeel.toml")
    }

    /// Writes the configuration and sends `SIGHUP` to the controller, which then needs a moment: see
    /// [`Daemon::wait_ready`].
    pub fn reload(&mut self, configuration: &str) -> Result<()> {
        self.write_configuration(configuration)?;
        self.controller()?.signal(Signal::SIGHUP)
    }

    /// Writes the configuration file without notifying the controller.
    pub fn write_configuration(&self, text: &str) -> Result<()> {
        let file = self.file();
        std::fs::write(&file, text)
            .with_context(|| format!("write configuration {}", file.display()))
    }

    /// Returns whether every interface of the node runs an XDP program.
    pub fn is_attached(host: &Host) -> Result<bool> {
        for port in &host.ports {
            if xdp_mode(&host.ns, &port.interface)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns a command of the binary, for [`output`] or [`Daemon::start`].
    pub fn command(&self) -> Command {
        Command::new(&self.binary)
    }

    /// Returns the running controller.
    pub fn controller(&mut self) -> Result<&mut Daemon> {
        let name = &self.host.name;
        self.controller
            .as_mut()
            .with_context(|| format!("no controller runs on {name}"))
    }

    /// Stops the controller (`SIGTERM`) and waits for its exit. The data path stays.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let status = self.controller()?.terminate(STOP_LIMIT)?;
        self.controller = None;
        Ok(status)
    }

    /// Kills the controller. The data path stays.
    pub fn kill(&mut self) {
        self.controller = None;
    }

    /// Removes the data path, as a reboot does.
    pub fn unload(&self) -> Result<()> {
        let mut unload = self.command();
        unload.arg("unload").arg("--bpffs").arg(self.bpffs());
        output(&self.host.ns.entry(), unload, "").map(drop)
    }
}

/// Starts `evenkeel decap` on a backend's `eth0` and waits until it is attached.
pub fn start_decap(host: &Host, binary: &Path) -> Result<Daemon> {
    let mut command = Command::new(binary);
    // Backends share the machine's BPF file system, in which nothing must remain.
    command.args([
        "decap",
        "--interface",
        "eth0",
        "--mode",
        "native",
        "--unpinned",
    ]);
    let name = format!("evenkeel decap on {}", host.name);
    let log = host.directory().join("decap.log");
    let mut daemon = Daemon::start(&name, &host.ns.entry(), command, &log)?;
    daemon.wait_ready(START_LIMIT, || Ok(xdp_mode(&host.ns, "eth0")?.is_some()))?;
    Ok(daemon)
}

/// Starts `evenkeel announce` on a node, with the capabilities that `deploy/evenkeel-announce.service` leaves it,
/// and waits until it replies.
pub fn start_announce(host: &Host, balancer: &Balancer<'_>) -> Result<Daemon> {
    let unit = include_str!("../../deploy/evenkeel-announce.service");
    let kept = unit
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let kept: String = kept
        .into_iter()
        .flat_map(str::split_whitespace)
        .map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()))
        .collect();
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", &format!("-all{kept}")]);
    command.arg(balancer.command().get_program());
    command.arg("announce").arg("--config").arg(balancer.file());
    command.arg("--bpffs").arg(balancer.bpffs());
    let log = host.directory().join("announce.log");
    let mut daemon = Daemon::start("evenkeel announce", &host.ns.entry(), command, &log)?;
    let socket = host.directory().join("announce.sock");
    daemon.wait_ready(START_LIMIT, || Ok(UnixStream::connect(&socket).is_ok()))?;
    Ok(daemon)
}

/// Returns the `evenkeel` binary: the value of `EVENKEEL_BIN`, or the one in the target folder of this
/// program.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("EVENKEEL_BIN") {
        return Ok(path.into());
    }
    sibling("evenkeel")?.context(
        "no `evenkeel` in the target folder of this program: build it (cargo build -p lb-userspace) \
         or set EVENKEEL_BIN",
    )
}

/// Finds a binary in the target folder of this program.
pub fn sibling(name: &str) -> Result<Option<PathBuf>> {
    let this = std::env::current_exe().context("path of this program")?;
    let folders = this.ancestors().skip(1).take(2);
    Ok(folders
        .map(|folder| folder.join(name))
        .find(|file| file.is_file()))
}

fn state_dir(host: &Host) -> PathBuf {
    host.directory().join("state")
}
