//! A real Alertmanager, asked over its API as a person's tools would ask it.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::host::Host;
use crate::process::Daemon;
use crate::tool;

const PORT: u16 = 9093;
const START_LIMIT: Duration = Duration::from_secs(30);

/// What it is told of an alert, as far as anybody here looks at it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Received {
    /// Its labels.
    pub labels: Labels,
    /// What it says.
    pub annotations: Annotations,
}

/// What tells alerts apart.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Labels {
    /// `Evenkeel` and the kind.
    pub alertname: String,
    /// Names the cause.
    pub alert_id: String,
    /// How bad it is.
    pub severity: String,
}

/// What an alert says.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Annotations {
    /// What is wrong.
    pub summary: String,
    /// The likeliest cause.
    pub cause: Option<String>,
    /// The revision that is the cause.
    pub revision: Option<String>,
}

impl Received {
    /// The name of the cause, of an alert about shares: the third part of `skew:VIP:CAUSE…`.
    pub fn cause(&self) -> &str {
        let mut parts = self.labels.alert_id.split(':');
        match parts.next() {
            Some("skew") => parts.nth(1).unwrap_or_default(),
            _ => &self.labels.alert_id,
        }
    }
}

/// An Alertmanager on the loopback of a host. It is killed when this is dropped.
#[derive(Debug)]
pub struct Alertmanager<'lab> {
    host: &'lab Host,
    _daemon: Daemon,
}

impl<'lab> Alertmanager<'lab> {
    /// What the configuration of a balancer on the same host names it by.
    pub const URL: &'static str = "http://127.0.0.1:9093";

    /// Starts one and waits until it answers.
    pub fn start(host: &'lab Host) -> Result<Self> {
        let folder = host.directory().join("alertmanager");
        std::fs::create_dir_all(&folder)?;
        let config = folder.join("alertmanager.yml");
        std::fs::write(
            &config,
            "route: {receiver: none}\nreceivers: [{name: none}]\n",
        )?;
        let mut command = tool::command("prometheus-alertmanager")?;
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{PORT}"))
            // No cluster: it would look for an address of its own.
            .arg("--cluster.listen-address=");
        let log = folder.join("log");
        let mut daemon = Daemon::start("alertmanager", &host.ns.entry(), command, &log)?;
        daemon.wait_ready(START_LIMIT, || Ok(get(host, "/-/ready").is_ok()))?;
        Ok(Self {
            host,
            _daemon: daemon,
        })
    }

    /// The alerts that are on.
    pub fn alerts(&self) -> Result<Vec<Received>> {
        let body = get(self.host, "/api/v2/alerts?active=true")?;
        serde_json::from_str(&body).context("what Alertmanager answers")
    }
}

/// A request of HTTP/1.0: the answer ends with the connection.
fn get(host: &Host, path: &str) -> Result<String> {
    let asked = host.ns.enter(|| -> std::io::Result<String> {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))?;
        connection.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(connection, "GET {path} HTTP/1.0\r\nHost: lab\r\n\r\n")?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer)
    });
    let answer = asked.with_context(|| format!("asking Alertmanager for {path}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if !head.contains(" 200 ") {
        bail!("Alertmanager answers {path}: {head}");
    }
    Ok(body.to_owned())
}
