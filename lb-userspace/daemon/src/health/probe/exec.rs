//! A command of the operator: exit code 0 means healthy.
//!
//! It is started without a shell and in a process group of its own; what is left of the group at the
//! timeout is killed.

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

/// Bytes of what the command says that are kept for the failure.
const MOST: usize = 4096;

/// The command, with its arguments and environment.
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
            .map_err(|error| Failure(format!("{program} can't be started: {error}")))?;
        // Killed with its group when this future ends before it, or is dropped.
        let mut group = Group::of(&child);
        let mut said = Vec::new();
        let waiting = async {
            let status = wait(&mut child, &mut said)
                .await
                .map_err(|error| Failure(format!("{program} can't be waited for: {error}")))?;
            Ok(status)
        };
        let late = |limit| Failure(format!("{program} did not end in {limit}, and was killed"));
        let status = limit.within(waiting, late).await?;
        group.has_ended();
        if status.success() {
            return Ok(());
        }
        Err(Failure(format!("{program}: {status}{}", last_line(&said))))
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

/// Waits until the command itself has ended; what it started may hold its error stream open for longer.
async fn wait(child: &mut Child, said: &mut Vec<u8>) -> std::io::Result<ExitStatus> {
    let mut stream = child.stderr.take();
    let mut piece = [0; 1024];
    loop {
        let reading = async {
            match &mut stream {
                Some(stream) => stream.read(&mut piece).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            read = reading => match read {
                Ok(0) | Err(_) => stream = None,
                // Read on all the same, so that it is not stopped by a full pipe.
                Ok(length) => {
                    let room = MOST - said.len();
                    said.extend_from_slice(&piece[..length.min(room)]);
                }
            },
            status = child.wait() => return status,
        }
    }
}

/// The last line that has anything in it.
fn last_line(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    line.map_or_else(String::new, |line| {
        let short: String = line.chars().take(200).collect();
        format!(": {short}")
    })
}

/// A process group that is killed when this is dropped.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.map(Pid::from_raw))
    }

    /// Its number may be given to others from now on.
    fn has_ended(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It fails only if nobody is left in it.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}
