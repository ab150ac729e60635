//! `exec` checks: an operator's command, for which exit code 0 means healthy.
//!
//! The command runs without a shell, as `node.exec_user`, in its own process group. When it ends, or at
//! the timeout, the group is killed, and so is what moved to another group or session
//! ([`adopt_orphans`]).

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::process::CommandExt as _,
    process::{self, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use nix::{
    sys::{
        prctl,
        resource::{Resource, setrlimit},
        signal::{Signal, kill, killpg},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::{Pid, User, geteuid, getpgid},
};
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, Command as Tokio},
};

use super::{Failure, Limit, Shared};
use crate::health::Target;

/// File descriptors of a command: three to start it, later a pipe and the process.
pub(super) const DESCRIPTORS: u32 = 4;

/// Bytes of standard error that are kept for the failure.
const STDERR_LIMIT: usize = 4096;

#[derive(Debug)]
pub(super) struct Command {
    program: String,
    arguments: Vec<String>,
    environment: [(&'static str, String); 4],
    /// None for the user of the controller.
    user: Option<User>,
    /// Soft and hard limits of open files.
    files: Option<(u64, u64)>,
}

impl Command {
    pub(super) fn new(target: &Target, words: &[String], shared: &Shared) -> Result<Self, Failure> {
        let Some((program, arguments)) = words.split_first() else {
            return Err(Failure::of_node("no command"));
        };
        let user = shared.exec_user.as_deref().map(find).transpose()?;
        Ok(Self {
            program: program.clone(),
            arguments: arguments.to_vec(),
            user: user.filter(|user| user.uid != geteuid()),
            files: shared.exec_files,
            environment: [
                ("EVENKEEL_VIP", target.vip.clone()),
                ("EVENKEEL_BACKEND", target.backend.clone()),
                ("EVENKEEL_ADDRESS", target.address.to_string()),
                ("EVENKEEL_PORT", target.probe_port().to_string()),
            ],
        })
    }

    pub(super) async fn run(&self, limit: Limit) -> Result<(), Failure> {
        let program = &self.program;
        let mut child = self
            .command()
            .spawn()
            .map_err(|error| self.cannot_start(&error))?;
        // Kills the process group when this future ends or is dropped.
        let _group = Group::of(&child);
        let mut stderr = Vec::new();
        let waiting = async {
            let status = wait(&mut child, &mut stderr)
                .await
                .map_err(|error| Failure::of_node(format!("cannot wait for {program}: {error}")))?;
            Ok(status)
        };
        let late = |limit| {
            Failure::new(format!(
                "{program} did not exit within {limit} and was killed"
            ))
        };
        let status = limit.within(waiting, late).await?;
        if status.success() {
            return Ok(());
        }
        Err(Failure::new(format!(
            "{program}: {status}{}",
            last_line(&stderr)
        )))
    }

    fn command(&self) -> Tokio {
        let mut command = Tokio::new(&self.program);
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .current_dir("/")
            .env_remove("NOTIFY_SOCKET")
            .process_group(0);
        if let Some(user) = &self.user {
            // Removes supplementary groups and capabilities as well.
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        if let Some((soft, hard)) = self.files {
            let set = move || Ok(setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?);
            // SAFETY: the new process only calls setrlimit(2), which is safe after a fork.
            unsafe { command.pre_exec(set) };
        }
        command
    }

    fn cannot_start(&self, error: &io::Error) -> Failure {
        let user = self.user.as_ref();
        let user = user.map_or_else(String::new, |user| format!(" as user {}", user.name));
        Failure::of_node(format!("cannot start {}{user}: {error}", self.program))
    }
}

/// Waits until the command itself exits. Its children may hold standard error open for longer.
async fn wait(child: &mut Child, stderr: &mut Vec<u8>) -> std::io::Result<ExitStatus> {
    let mut stream = child.stderr.take();
    let mut buffer = [0; 1024];
    loop {
        let reading = async {
            match &mut stream {
                Some(stream) => stream.read(&mut buffer).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            read = reading => match read {
                Ok(0) | Err(_) => stream = None,
                // Reads beyond the limit too, so that a full pipe does not block the command.
                Ok(length) => {
                    let room = STDERR_LIMIT - stderr.len();
                    stderr.extend_from_slice(&buffer[..length.min(room)]);
                }
            },
            status = child.wait() => return status,
        }
    }
}

/// Returns the last line that is not empty, after a colon.
fn last_line(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    line.map_or_else(String::new, |line| {
        let short: String = line.chars().take(200).collect();
        format!(": {short}")
    })
}

fn find(name: &str) -> Result<User, Failure> {
    User::from_name(name).ok().flatten().ok_or_else(|| {
        Failure::of_node(format!(
            "node.exec_user {name:?} does not exist: create it (`useradd --system {name}`)"
        ))
    })
}

/// The process groups of running commands, if this process adopts orphans.
static RUNNING: Mutex<Option<BTreeSet<Pid>>> = Mutex::new(None);

fn running() -> MutexGuard<'static, Option<BTreeSet<Pid>>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes this process the parent of processes that commands leave behind, and ends them. For a process
/// that has no other children.
///
/// # Errors
///
/// The kernel refuses it.
pub fn adopt_orphans() -> nix::Result<()> {
    prctl::set_child_subreaper(true)?;
    running().get_or_insert_default();
    Ok(())
}

/// A child of this process that is no command, and is not ended as an orphan until this is dropped.
#[derive(Debug)]
pub(crate) struct KeptChild(Pid);

/// Starts a process in its own process group that is no command of a health check.
pub(crate) fn spawn_kept(mut command: process::Command) -> io::Result<(process::Child, KeptChild)> {
    // Before it is registered, it must not be found as an orphan.
    let mut running = running();
    let child = command.process_group(0).spawn()?;
    let group = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    if let Some(running) = &mut *running {
        running.insert(group);
    }
    Ok((child, KeptChild(group)))
}

impl Drop for KeptChild {
    fn drop(&mut self) {
        if let Some(running) = &mut *running() {
            running.remove(&self.0);
        }
    }
}

/// Ends the children of this process that belong to no running command.
fn end_orphans(running: &BTreeSet<Pid>) {
    let threads = fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    for thread in threads {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for child in children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
        {
            let child = Pid::from_raw(child);
            let group = getpgid(Some(child)).unwrap_or(child);
            if !running.contains(&child) && !running.contains(&group) {
                let _ = kill(child, Signal::SIGKILL);
                // One that is still ending is reaped after the next command.
                let _ = waitpid(child, Some(WaitPidFlag::WNOHANG));
            }
        }
    }
}

/// Kills a process group when dropped.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let group = id.map(Pid::from_raw);
        if let (Some(running), Some(group)) = (&mut *running(), group) {
            running.insert(group);
        }
        Self(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let Some(group) = self.0 else { return };
        // Fails only if the group is empty. Its number is not in use again so soon: the kernel allocates
        // them in turn.
        let _ = killpg(group, Signal::SIGKILL);
        if let Some(running) = &mut *running() {
            running.remove(&group);
            end_orphans(running);
        }
    }
}
