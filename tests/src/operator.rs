//! An operator of a node: runs commands of the `evenkeel` binary and makes requests to its API.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::host::Host;
use crate::namespace::Entry;
use crate::process::finish;

/// Longer than any reply takes, however busy the machine is.
const LIMIT: Duration = Duration::from_secs(60);

/// An operator of a node, shareable between threads.
#[derive(Clone, Debug)]
pub struct Operator {
    inside: Entry,
    binary: PathBuf,
    socket: PathBuf,
}

/// Result of a command.
#[derive(Clone, Debug)]
pub struct CommandResult {
    /// Exit code; -1 if it was killed.
    pub code: i32,
    pub out: String,
    pub err: String,
    pub took: Duration,
}

impl CommandResult {
    /// Parses its standard output as JSON.
    ///
    /// # Panics
    /// If it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts its exit code.
    ///
    /// # Panics
    /// If the exit code is another.
    #[track_caller]
    pub fn assert_code(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "exit code; output:\n{}\n{}",
            self.out, self.err
        );
        self
    }
}

impl Operator {
    /// Creates an operator who runs `binary` on `host`.
    pub fn new(host: &Host, binary: &Path) -> Self {
        Self {
            inside: host.ns.entry(),
            binary: binary.to_owned(),
            socket: host.directory().join("api.sock"),
        }
    }

    /// Runs a command to its end, whatever its exit code.
    pub fn run(&self, arguments: &[&str]) -> Result<CommandResult> {
        let mut command = Command::new(&self.binary);
        command.env("EVENKEEL_SOCKET", &self.socket).args(arguments);
        command.env("NO_COLOR", "1").env_remove("EVENKEEL_FAULT");
        let start = Instant::now();
        let Output {
            status,
            stdout,
            stderr,
        } = finish(&self.inside, command, "")?;
        Ok(CommandResult {
            code: status.code().unwrap_or(-1),
            out: String::from_utf8(stdout).context("standard output")?,
            err: String::from_utf8_lossy(&stderr).into_owned(),
            took: start.elapsed(),
        })
    }

    /// Drains a backend and waits until it has been idle for two seconds, at most for `limit` (`60s`).
    pub fn drain(&self, backend: &str, limit: &str) -> Result<CommandResult> {
        let wait = ["--wait", "--idle", "2s", "--timeout", limit];
        self.run(&[&["backend", "drain", backend], &wait[..]].concat())
    }

    /// Makes a request and returns status and body. Fails if there is no reply.
    pub fn request(&self, method: &str, path: &str, body: &Value) -> Result<(u16, Value)> {
        let mut stream =
            UnixStream::connect(&self.socket).context("connect to the API's socket")?;
        stream.set_read_timeout(Some(LIMIT))?;
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let Some((head, body)) = answer.split_once("\r\n\r\n") else {
            bail!("{method} {path}: incomplete reply {answer:?}");
        };
        let status = head.split(' ').nth(1).context("status line of the reply")?;
        let body =
            serde_json::from_str(body).with_context(|| format!("{method} {path}: {body}"))?;
        Ok((status.parse()?, body))
    }

    /// Makes a GET request. Fails unless the status is 200.
    pub fn get(&self, path: &str) -> Result<Value> {
        let (status, body) = self.request("GET", path, &Value::Null)?;
        if status != 200 {
            bail!("{path}: {status} {body}");
        }
        Ok(body)
    }

    /// Returns the process id of the controller, or `None` if it does not reply.
    pub fn controller(&self) -> Option<u64> {
        let status = self.get("/v1/status").ok()?;
        status["node"]["pid"].as_u64()
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }
}
