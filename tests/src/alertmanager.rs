//! Alertmanager on a host, queried over its API.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::host::Host;
use crate::process::Daemon;
use crate::tool;

const PORT: u16 = 9093;
const START_LIMIT: Duration = Duration::from_secs(30);

/// An alert as Alertmanager received it, as far as tests use it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Received {
    pub labels: Labels,
    pub annotations: Annotations,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Labels {
    /// `Evenkeel` and the kind of alert.
    pub alertname: String,
    pub alert_id: String,
    pub severity: String,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Annotations {
    pub summary: String,
    pub cause: Option<String>,
    pub revision: Option<String>,
}

impl Received {
    /// Returns the cause: for an alert about shares the third part of `skew:VIP:CAUSE…`, else the alert id.
    pub fn cause(&self) -> &str {
        let mut parts = self.labels.alert_id.split(':');
        match parts.next() {
            Some("skew") => parts.nth(1).unwrap_or_default(),
            _ => &self.labels.alert_id,
        }
    }
}

/// An Alertmanager on the loopback of a host. Killed when dropped.
#[derive(Debug)]
pub struct Alertmanager<'lab> {
    host: &'lab Host,
    _daemon: Daemon,
}

impl<'lab> Alertmanager<'lab> {
    /// Its URL in the configuration of a balancer on the same host.
    pub const URL: &'static str = "http://127.0.0.1:9093";

    /// Starts Alertmanager and waits until it is ready.
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
            // Without a cluster, which would need an address.
            .arg("--cluster.listen-address=");
        let log = folder.join("log");
        let mut daemon = Daemon::start("alertmanager", &host.ns.entry(), command, &log)?;
        daemon.wait_ready(START_LIMIT, || Ok(host.http_get(PORT, "/-/ready").is_ok()))?;
        Ok(Self {
            host,
            _daemon: daemon,
        })
    }

    /// Returns the active alerts.
    pub fn alerts(&self) -> Result<Vec<Received>> {
        let body = self.host.http_get(PORT, "/api/v2/alerts?active=true")?;
        serde_json::from_str(&body).context("parse the alerts of Alertmanager")
    }
}
