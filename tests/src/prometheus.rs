//! A real Prometheus that scrapes the balancer of its host every second, with the rules of `deploy/`.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::host::Host;
use crate::process::Daemon;
use crate::tool;

const PORT: u16 = 9090;
/// Where a balancer serves its metrics unless it is told otherwise.
const METRICS: u16 = 9477;
const START_LIMIT: Duration = Duration::from_secs(60);

/// A Prometheus on the loopback of a host. It is killed when this is dropped.
#[derive(Debug)]
pub struct Prometheus<'lab> {
    host: &'lab Host,
    _daemon: Daemon,
}

impl<'lab> Prometheus<'lab> {
    /// Starts one and waits until it answers. The rules are those of `deploy/`, with shorter waiting times: what takes
    /// minutes there takes seconds here.
    pub fn start(host: &'lab Host) -> Result<Self> {
        let folder = host.directory().join("prometheus");
        std::fs::create_dir_all(&folder)?;
        let rules = folder.join("evenkeel.rules.yml");
        std::fs::write(&rules, hurried(&read_rules()?))?;
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
        daemon.wait_ready(START_LIMIT, || Ok(get(host, PORT, "/-/ready").is_ok()))?;
        Ok(Self {
            host,
            _daemon: daemon,
        })
    }

    /// What a query gives now: a list of series, each with its labels and its value.
    pub fn query(&self, query: &str) -> Result<Vec<Value>> {
        let path = format!("/api/v1/query?query={}", encoded(query));
        let answer: Value = serde_json::from_str(&get(self.host, PORT, &path)?)?;
        let result = answer["data"]["result"].as_array();
        result
            .cloned()
            .with_context(|| format!("{query}: {answer}"))
    }

    /// The value of the only series that a query gives; none if there is no series.
    pub fn value(&self, query: &str) -> Result<Option<f64>> {
        let result = self.query(query)?;
        match &result[..] {
            [] => Ok(None),
            [one] => {
                let value = one["value"][1].as_str().context("a value")?;
                Ok(Some(value.parse()?))
            }
            several => bail!("{query} gives {} series", several.len()),
        }
    }

    /// Names of the alerts that fire.
    pub fn firing(&self) -> Result<Vec<String>> {
        let firing = self.query("ALERTS{alertstate=\"firing\"}")?;
        let names = firing
            .iter()
            .filter_map(|one| one["metric"]["alertname"].as_str());
        Ok(names.map(str::to_owned).collect())
    }
}

/// The page that the balancer of a host serves.
pub fn scrape(host: &Host) -> Result<String> {
    get(host, METRICS, "/metrics")
}

fn read_rules() -> Result<String> {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus/evenkeel.rules.yml");
    std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
}

/// The same rules, looked at every second, and without patience.
fn hurried(rules: &str) -> String {
    let hurry = |line: &str| match line.trim_start().split(' ').next() {
        Some("for:") => "        for: 1s".to_owned(),
        Some("interval:") => "    interval: 1s".to_owned(),
        _ => line.to_owned(),
    };
    rules.lines().map(hurry).collect::<Vec<_>>().join("\n")
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

/// A request of HTTP/1.0 to the loopback of a host: the answer ends with the connection.
fn get(host: &Host, port: u16, path: &str) -> Result<String> {
    let asked = host.ns.enter(|| -> std::io::Result<String> {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        connection.set_read_timeout(Some(Duration::from_secs(30)))?;
        write!(connection, "GET {path} HTTP/1.0\r\nHost: lab\r\n\r\n")?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer)
    });
    let answer = asked.with_context(|| format!("asking port {port} for {path}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if !head.contains(" 200 ") {
        bail!("port {port} answers {path}: {head}\n{body}");
    }
    Ok(body.to_owned())
}
