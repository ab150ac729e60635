//! `exec` checks: an operator's command, for which exit code 0 means healthy.
//!
//! The command runs without a shell, in its own process group. At the timeout the group is killed.

use std::{process::ExitStatus, process::Stdio};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, Command as Tokio},
};

use super::{Failure, Limit};
use crate::health::Target;

/// Bytes of standard error that are kept for the failure.
const STDERR_LIMIT: usize = 4096;

#[derive(Debug)]
pub(super) struct Command {
    program: String,
    arguments: Vec<String>,
    environment: [(&'static str, String); 4],
}

impl Command {
    pub(super) fn new(target: &Target, words: &[String]) -> Result<Self, Failure> {
        let Some((program, arguments)) = words.split_first() else {
            return Err(Failure::new("no command"));
        };
        Ok(Self {
            program: program.clone(),
            arguments: arguments.to_vec(),
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
            .map_err(|error| Failure(format!("cannot start {program}: {error}")))?;
        // Kills the process group when this future ends or is dropped before the command exits.
        let mut group = Group::of(&child);
        let mut stderr = Vec::new();
        let waiting = async {
            let status = wait(&mut child, &mut stderr)
                .await
                .map_err(|error| Failure(format!("cannot wait for {program}: {error}")))?;
            Ok(status)
        };
        let late = |limit| {
            Failure(format!(
                "{program} did not exit within {limit} and was killed"
            ))
        };
        let status = limit.within(waiting, late).await?;
        group.disarm();
        if status.success() {
            return Ok(());
        }
        Err(Failure(format!(
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
            .process_group(0);
        command
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

/// Kills a process group when dropped.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.map(Pid::from_raw))
    }

    /// The command has exited; its process group number may be reused.
    fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Fails only if the group is empty.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}
