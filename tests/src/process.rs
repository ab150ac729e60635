//! Processes that the lab starts, each inside a namespace and none longer than the harness.
//!
//! Every process is started by one thread, the **starter**, and asks the kernel to be killed when its
//! parent dies (`PR_SET_PDEATHSIG`). The kernel means the parent *thread*: started from a test's thread,
//! a server would die with that thread, although the lab may have been handed on. The starter ends
//! only with the process.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::deadline;
use crate::namespace::{Entry, Namespace};

/// A process that runs until it is stopped. Its output goes to a file. It is killed when this is dropped.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command` in a namespace, with both outputs appended to the file `log`.
    pub fn start(name: &str, ns: &Entry, mut command: Command, log: &Path) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("log file {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        Ok(Self {
            name: name.to_owned(),
            child: spawn(ns, command).with_context(|| format!("starting {name}"))?,
            log: log.to_owned(),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has written so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// An error, with the end of its log, if it has ended.
    pub fn check_running(&mut self) -> Result<()> {
        let ended = self.child.try_wait().with_context(|| self.name.clone())?;
        match ended {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}):\n{}", self.name, self.log_tail()),
        }
    }

    /// Waits until `ready` says so; an error if the process ends before.
    pub fn wait_ready(
        &mut self,
        limit: Duration,
        mut ready: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let what = format!("{} is ready", self.name);
        let waited = deadline::until(&what, limit, || {
            self.check_running()?;
            ready()
        });
        waited.with_context(|| format!("log of {}:\n{}", self.name, self.log_tail()))
    }

    /// Asks it to end (`SIGTERM`) and waits for that.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(limit)
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| self.name.clone())
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        deadline::poll(&what, limit, || Ok(self.child.try_wait()?))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id())?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// Kills it and waits until it is gone.
    pub fn kill(&mut self) {
        // Both fail only if it was waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a command in a namespace to its end and gives its output; an error if it fails.
pub fn output(ns: &Entry, command: Command, input: &str) -> Result<String> {
    let shown = format!("{command:?}");
    let output = finish(ns, command, input)?;
    if !output.status.success() {
        bail!(
            "{shown} ended with {}:\n{}{}{input}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("output of {shown}"))
}

/// Runs a command in a namespace to its end, whatever that is.
pub fn finish(ns: &Entry, mut command: Command, input: &str) -> Result<Output> {
    let shown = format!("{command:?}");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = spawn(ns, command).with_context(|| format!("starting {shown}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that ends without reading says why in its status.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output().with_context(|| shown.clone())
}

/// Whether something in the namespace listens on a TCP port. Unlike a try to connect, nobody notices.
pub fn is_listening(ns: &Namespace, port: u16) -> Result<bool> {
    const LISTEN: &str = "0A";
    let wanted = format!(":{port:04X}");
    for file in ["tcp", "tcp6"] {
        let text = ns.read_proc_net(file)?;
        let found = text.lines().any(|line| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let local = fields.next().unwrap_or_default();
            local.ends_with(&wanted) && fields.nth(1) == Some(LISTEN)
        });
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

type Order = (Command, Sender<io::Result<Child>>);

/// Starts a process inside a namespace, through the starter.
pub(crate) fn spawn(ns: &Entry, mut command: Command) -> io::Result<Child> {
    let ns = ns.clone();
    // SAFETY: between fork and exec only two system calls are made, nothing is allocated or locked; the
    // descriptor stays open because the closure owns it.
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            ns.set_current()
        });
    }
    let (answer, started) = channel();
    starter()
        .send((command, answer))
        .map_err(io::Error::other)?;
    started.recv().map_err(io::Error::other)?
}

fn starter() -> &'static Sender<Order> {
    static STARTER: OnceLock<Sender<Order>> = OnceLock::new();
    STARTER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::Builder::new()
            .name("starter".to_owned())
            .spawn(move || {
                for (mut command, answer) in inbox {
                    // Whoever ordered it waits for the answer.
                    let _ = answer.send(command.spawn());
                }
            })
            .expect("a thread can be started");
        orders
    })
}
