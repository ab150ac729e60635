//! Prometheus on a host: scrapes its balancer every second, with the rules of `deploy/`.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::host::Host;
use crate::process::Daemon;
use crate::tool;

const PORT: u16 = 9090;
/// Default port of a balancer's metrics.
const METRICS: u16 = 9477;
const START_LIMIT: Duration = Duration::from_secs(60);

/// A Prometheus on the loopback of a host. Killed when dropped.
#[derive(Debug)]
pub struct Prometheus<'lab> {
    host: &'lab Host,
    _daemon: Daemon,
}

impl<'lab> Prometheus<'lab> {
    /// Starts Prometheus and waits until it is ready. The rules are those of `deploy/`, with seconds in place
    /// of minutes.
    pub fn start(host: &'lab Host) -> Result<Self> {
        let folder = host.directory().join("prometheus");
        std::fs::create_dir_all(&folder)?;
        let rules = folder.join("evenkeel.rules.yml");
        std::fs::write(&rules, shorten(&read_rules()?))?;
        let config = folder.join("prometheus.yml");
        std::fs::write(&config, configuration(&rules))?;
        let mut command = tool::command("prometheus")?;
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{PORT}"));
        let log = folder.join("log");
        let mut daemon = Daemon::start("prometheus", &host.ns.entry(), command, &log)?;
        daemon.wait_ready(START_LIMIT, || Ok(host.http_get(PORT, "/-/ready").is_ok()))?;
        Ok(Self {
            host,
            _daemon: daemon,
        })
    }

    /// Returns the present result of a query: a list of series, each with labels and value.
    pub fn query(&self, query: &str) -> Result<Vec<Value>> {
        let path = format!("/api/v1/query?query={}", encoded(query));
        let answer: Value = serde_json::from_str(&self.host.http_get(PORT, &path)?)?;
        let result = answer["data"]["result"].as_array();
        result
            .cloned()
            .with_context(|| format!("{query}: {answer}"))
    }

    /// Returns the value of a query with at most one series.
    pub fn value(&self, query: &str) -> Result<Option<f64>> {
        let result = self.query(query)?;
        match &result[..] {
            [] => Ok(None),
            [one] => {
                let value = one["value"][1]
                    .as_str()
                    .with_context(|| format!("value of {query}"))?;
                Ok(Some(value.parse()?))
            }
            several => bail!("{query} has {} series, expected one", several.len()),
        }
    }

    /// Returns the names of the firing alerts.
    pub fn firing(&self) -> Result<Vec<String>> {
        let firing = self.query("ALERTS{alertstate=\"firing\"}")?;
        let names = firing
            .iter()
            .filter_map(|one| one["metric"]["alertname"].as_str());
        Ok(names.map(str::to_owned).collect())
    }
}

/// Returns the metrics of a host's balancer.
pub fn scrape(host: &Host) -> Result<String> {
    host.http_get(METRICS, "/metrics")
}

fn read_rules() -> Result<String> {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus/evenkeel.rules.yml");
    std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
}

/// Returns the rules with all intervals and delays set to one second.
fn shorten(rules: &str) -> String {
    let shorten = |line: &str| match line.trim_start().split(' ').next() {
        Some("for:") => "        for: 1s".to_owned(),
        Some("interval:") => "    interval: 1s".to_owned(),
        _ => line.to_owned(),
    };
    rules.lines().map(shorten).collect::<Vec<_>>().join("\n")
}

fn configuration(rules: &Path) -> String {
    format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{:?}]\nscrape_configs:\n  \
         - job_name: evenkeel\n    static_configs: [{{targets: [\"127.0.0.1:{METRICS}\"]}}]\n",
        rules.display().to_string()
    )
}

fn encoded(query: &str) -> String {
    let mut text = String::new();
    for byte in query.bytes() {
        if byte.is_ascii_alphanumeric() {
            text.push(char::from(byte));
        } else {
            let written = write!(text, "%{byte:02X}");
            debug_assert!(written.is_ok());
        }
    }
    text
}
