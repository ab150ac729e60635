//! Processes inside namespaces, which never outlive the harness.
//!
//! Every process is started by one thread, the **starter**, and is killed by the kernel when its parent
//! dies (`PR_SET_PDEATHSIG`). That means the parent *thread*: a server that a test's thread started
//! would die with it, even if the lab is still in use. The starter ends only with the process.

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

/// A process that runs until it is stopped, with its output in a file. Killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command` in a namespace and appends its output to the file `log`.
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
            child: spawn(ns, command).with_context(|| format!("start {name}"))?,
            log: log.to_owned(),
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns its output so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Fails, with the end of its log, if it has exited.
    pub fn check_running(&mut self) -> Result<()> {
        let ended = self.child.try_wait().with_context(|| self.name.clone())?;
        match ended {
            None => Ok(()),
            Some(status) => bail!("{} exited ({status}):\n{}", self.name, self.log_tail()),
        }
    }

    /// Waits until `ready` returns true. Fails if the process exits before.
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

    /// Sends `SIGTERM` and waits for its exit.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(limit)
    }

    /// Returns its exit status if it has exited.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| self.name.clone())
    }

    /// Waits until it exits by itself.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} exits", self.name);
        deadline::poll(&what, limit, || Ok(self.child.try_wait()?))
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id())?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("send {signal} to {}", self.name))
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) {
        // Both fail only if it was reaped already.
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

/// Runs a command in a namespace and returns its output. Fails unless the command succeeds.
pub fn output(ns: &Entry, command: Command, input: &str) -> Result<String> {
    let shown = format!("{command:?}");
    let output = finish(ns, command, input)?;
    if !output.status.success() {
        bail!(
            "{shown} failed with {}:\n{}{}{input}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("output of {shown}"))
}

/// Runs a command in a namespace to its end, whatever its exit status.
pub fn finish(ns: &Entry, mut command: Command, input: &str) -> Result<Output> {
    let shown = format!("{command:?}");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = spawn(ns, command).with_context(|| format!("start {shown}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // If the command exits without reading, its status explains it.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output().with_context(|| shown.clone())
}

/// Returns whether a socket in the namespace listens on a TCP port, without connecting to it.
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

type Request = (Command, Sender<io::Result<Child>>);

/// Starts a process inside a namespace, through the starter.
pub(crate) fn spawn(ns: &Entry, mut command: Command) -> io::Result<Child> {
    let ns = ns.clone();
    // SAFETY: between fork and exec there are only two system calls, which neither allocate nor lock; the
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

fn starter() -> &'static Sender<Request> {
    static STARTER: OnceLock<Sender<Request>> = OnceLock::new();
    STARTER.get_or_init(|| {
        let (requests, inbox) = channel::<Request>();
        std::thread::Builder::new()
            .name("starter".to_owned())
            .spawn(move || {
                for (mut command, answer) in inbox {
                    // The requester waits for this.
                    let _ = answer.send(command.spawn());
                }
            })
            .expect("a thread can be started");
        requests
    })
}
