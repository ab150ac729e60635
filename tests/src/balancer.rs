//! The balancer itself: the `evenkeel` binary on a node, and its `decap` on a backend.
//!
//! What a node keeps while its controller is stopped, killed or replaced, its BPF file system and its
//! state folder, belongs to [`Balancer`]; the controller is a process that comes and goes.

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
use crate::process::Daemon;

/// Loading takes the verifier a moment, and the machine may be busy.
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A balancer node. When it is dropped its controller is killed and its pins go, and the programs with them.
#[derive(Debug)]
pub struct Balancer<'lab> {
    host: &'lab Host,
    binary: PathBuf,
    controller: Option<Daemon>,
    bpffs: Bpffs,
}

impl<'lab> Balancer<'lab> {
    /// A node on which nothing runs yet.
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

    /// The folder to name as `state_dir` in the configuration.
    pub fn state_dir(&self) -> PathBuf {
        state_dir(self.host)
    }

    /// Where the node's pins are: the option `--bpffs` of `evenkeel`.
    pub fn bpffs(&self) -> &Path {
        self.bpffs.path()
    }

    /// Runs `evenkeel run` with a configuration (TOML), and waits until `ready` says that it serves.
    ///
    /// `ready` should look at what the configuration is about; [`Balancer::is_attached`] is the least.
    pub fn start(
        &mut self,
        configuration: &str,
        mut ready: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        if self.controller.is_some() {
            bail!("a controller runs on {} already", self.host.name);
        }
        self.write_configuration(configuration)?;
        let mut daemon = self.spawn(&[])?;
        let (operator, pid) = (self.operator(), u64::from(daemon.pid()));
        // What `ready` looks at may have been left by the controller before.
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

    /// Runs `evenkeel run` with the configuration file as it is, and waits until the API answers. Says
    /// whether it came to that; if not, the process has ended.
    pub fn try_start(&mut self, environment: &[(&str, &str)]) -> Result<bool> {
        if self.controller.is_some() {
            bail!("a controller runs on {} already", self.host.name);
        }
        let mut daemon = self.spawn(environment)?;
        let operator = self.operator();
        let pid = u64::from(daemon.pid());
        let is_up = poll("the controller answers or ends", START_LIMIT, || {
            if daemon.ended()?.is_some() {
                return Ok(Some(false));
            }
            Ok((operator.controller() == Some(pid)).then_some(true))
        })?;
        if is_up {
            self.controller = Some(daemon);
        }
        Ok(is_up)
    }

    /// Everything that controllers of this node wrote so far.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Somebody who works on this node.
    pub fn operator(&self) -> Operator {
        Operator::new(self.host, &self.binary)
    }

    /// Has another binary started from now on: an upgrade.
    pub fn set_binary(&mut self, binary: &Path) {
        self.binary = binary.to_owned();
    }

    fn log_file(&self) -> PathBuf {
        self.host.directory().join("evenkeel.log")
    }

    /// The configuration file.
    pub fn file(&self) -> PathBuf {
        self.host.directory().join("evenkeel.toml")
    }

    /// Rewrites the configuration and tells the running controller (`SIGHUP`). It works on for a moment:
    /// see [`Daemon::wait_ready`].
    pub fn reload(&mut self, configuration: &str) -> Result<()> {
        self.write_configuration(configuration)?;
        self.controller()?.signal(Signal::SIGHUP)
    }

    /// Writes the configuration file, and tells nobody.
    pub fn write_configuration(&self, text: &str) -> Result<()> {
        let file = self.file();
        std::fs::write(&file, text).with_context(|| format!("configuration {}", file.display()))
    }

    /// Whether every interface of the node runs an XDP program.
    pub fn is_attached(host: &Host) -> Result<bool> {
        for port in &host.ports {
            if xdp_mode(&host.ns, &port.interface)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A command of the binary, to be run with [`crate::process::output`] or [`Daemon::start`].
    pub fn command(&self) -> Command {
        Command::new(&self.binary)
    }

    /// The running controller.
    pub fn controller(&mut self) -> Result<&mut Daemon> {
        let name = &self.host.name;
        self.controller
            .as_mut()
            .with_context(|| format!("no controller runs on {name}"))
    }

    /// Asks the controller to end and waits for it. The data path stays.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let status = self.controller()?.terminate(STOP_LIMIT)?;
        self.controller = None;
        Ok(status)
    }

    /// Kills the controller in the middle of whatever it does. The data path stays.
    pub fn kill(&mut self) {
        self.controller = None;
    }
}

/// Runs `evenkeel decap` on a backend's `eth0`, and waits until it is attached.
pub fn start_decap(host: &Host, binary: &Path) -> Result<Daemon> {
    let mut command = Command::new(binary);
    // The lab's backends share the machine's BPF file system, if it has one: nothing is to stay there.
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

/// The `evenkeel` that was built beside the running test or xtask, or the one that `EVENKEEL_BIN` names.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("EVENKEEL_BIN") {
        return Ok(path.into());
    }
    let this = std::env::current_exe().context("path of this program")?;
    this.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("evenkeel"))
        .find(|file| file.is_file())
        .context(
            "no `evenkeel` beside this program: build it (cargo build -p lb-userspace) \
             or name it in EVENKEEL_BIN",
        )
}

fn state_dir(host: &Host) -> PathBuf {
    host.directory().join("state")
}
