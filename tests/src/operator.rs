//! Who works with a node: the commands of the `evenkeel` binary, and requests to its API, as they are
//! made from outside.

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

/// Longer than any answer takes, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);

/// An operator on a node. One may be handed to several threads.
#[derive(Clone, Debug)]
pub struct Operator {
    inside: Entry,
    binary: PathBuf,
    socket: PathBuf,
}

/// What a command said.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its exit code; -1 if it was killed.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
    /// How long it took.
    pub took: Duration,
}

impl Said {
    /// What it printed, read as JSON.
    ///
    /// # Panics
    /// If it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Itself, if the command ended with this code.
    ///
    /// # Panics
    /// If it ended otherwise.
    #[track_caller]
    pub fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.out, self.err);
        self
    }
}

impl Operator {
    /// One who works on `host` with `binary`.
    pub fn new(host: &Host, binary: &Path) -> Self {
        Self {
            inside: host.ns.entry(),
            binary: binary.to_owned(),
            socket: host.directory().join("api.sock"),
        }
    }

    /// Runs a command to its end, whatever that is.
    pub fn run(&self, arguments: &[&str]) -> Result<Said> {
        let mut command = Command::new(&self.binary);
        command.arg("--socket").arg(&self.socket).args(arguments);
        command.env("NO_COLOR", "1").env_remove("EVENKEEL_FAULT");
        let start = Instant::now();
        let Output {
            status,
            stdout,
            stderr,
        } = finish(&self.inside, command, "")?;
        Ok(Said {
            code: status.code().unwrap_or(-1),
            out: String::from_utf8(stdout).context("standard output")?,
            err: String::from_utf8_lossy(&stderr).into_owned(),
            took: start.elapsed(),
        })
    }

    /// Drains a backend, and waits until it has been idle for two seconds; for `limit` (`60s`) at most.
    pub fn drain(&self, backend: &str, limit: &str) -> Result<Said> {
        let wait = ["--wait", "--idle", "2s", "--timeout", limit];
        self.run(&[&["backend", "drain", backend], &wait[..]].concat())
    }

    /// Makes a request; gives the status and the body. An error: there was no answer.
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> Result<(u16, Value)> {
        let mut stream = UnixStream::connect(&self.socket).context("the API's socket")?;
        stream.set_read_timeout(Some(PATIENCE))?;
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
            bail!("{method} {path} was answered by {answer:?}");
        };
        let status = head.split(' ').nth(1).context("a status line")?;
        let body =
            serde_json::from_str(body).with_context(|| format!("{method} {path}: {body}"))?;
        Ok((status.parse()?, body))
    }

    /// What there is at a path; an error if it is refused.
    pub fn get(&self, path: &str) -> Result<Value> {
        let (status, body) = self.ask("GET", path, &Value::Null)?;
        if status != 200 {
            bail!("{path}: {status} {body}");
        }
        Ok(body)
    }

    /// The process id of the controller that answers; none while nobody does.
    pub fn controller(&self) -> Option<u64> {
        let status = self.get("/v1/status").ok()?;
        status["node"]["pid"].as_u64()
    }

    /// The controller's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}
