//! HTTP load by `curl`, and the number of replies per backend.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::host::Host;
use crate::process::spawn;
use crate::tool;

/// curl's limit of parallel transfers.
const MOST_PARALLEL: u32 = 300;

/// Requests to make.
#[derive(Clone, Debug)]
pub struct HttpPlan {
    /// A query that numbers the requests is appended.
    pub url: String,
    pub requests: u32,
    pub parallel: u32,
    /// Expected length of each body, if it is to be checked.
    pub body_bytes: Option<u64>,
    /// Time limit of one request.
    pub limit: Duration,
    /// Whether connections are reused. If not, each request is a new flow.
    pub keep_alive: bool,
}

impl HttpPlan {
    /// Plans requests for a page, each on a new connection.
    pub fn new(url: impl Into<String>, requests: u32) -> Self {
        Self {
            url: url.into(),
            requests,
            parallel: 16,
            body_bytes: None,
            limit: Duration::from_secs(10),
            keep_alive: false,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpReport {
    pub requests: u64,
    /// Requests without status 200, a named backend and a complete body.
    pub failed: u64,
    /// Successful replies by backend.
    pub per_backend: BTreeMap<String, u64>,
    /// Number of failures by error.
    pub errors: BTreeMap<String, u64>,
}

impl HttpReport {
    /// Adds another report.
    pub fn add(&mut self, other: &Self) {
        let Self {
            requests,
            failed,
            per_backend,
            errors,
        } = other;
        self.requests += requests;
        self.failed += failed;
        for (name, count) in per_backend {
            *self.per_backend.entry(name.clone()).or_default() += count;
        }
        for (error, count) in errors {
            *self.errors.entry(error.clone()).or_default() += count;
        }
    }
}

/// A running load. Killed when dropped.
#[derive(Debug)]
pub struct HttpLoad {
    plan: HttpPlan,
    child: Child,
    results: Option<JoinHandle<std::io::Result<String>>>,
}

impl HttpLoad {
    pub fn start(host: &Host, plan: &HttpPlan) -> Result<Self> {
        if plan.parallel > MOST_PARALLEL {
            bail!(
                "{} parallel requests: curl's limit is {MOST_PARALLEL}",
                plan.parallel
            );
        }
        let mut command = tool::command("curl")?;
        command
            .args(["--disable", "--config", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = spawn(&host.ns.entry(), command)
            .with_context(|| format!("start curl on {}", host.name))?;
        let mut stdin = child.stdin.take().context("curl's input")?;
        let mut stdout = child.stdout.take().context("curl's output")?;
        // Read continuously: curl blocks when the pipe is full.
        let results = std::thread::spawn(move || {
            let mut text = String::new();
            std::io::Read::read_to_string(&mut stdout, &mut text).map(|_| text)
        });
        std::io::Write::write_all(&mut stdin, configuration(plan).as_bytes())
            .context("curl's configuration")?;
        Ok(Self {
            plan: plan.clone(),
            child,
            results: Some(results),
        })
    }

    /// Waits until all requests are done.
    pub fn finish(mut self) -> Result<HttpReport> {
        self.child.wait().context("wait for curl")?;
        let results = self.results.take().context("curl's results")?;
        let text = results
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            .context("read curl's results")?;
        Ok(read_results(&self.plan, &text))
    }
}

impl Drop for HttpLoad {
    fn drop(&mut self) {
        // Both fail only if it was reaped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes requests and waits for the results.
pub fn request(host: &Host, plan: &HttpPlan) -> Result<HttpReport> {
    HttpLoad::start(host, plan)?.finish()
}

fn configuration(plan: &HttpPlan) -> String {
    let seconds = plan.limit.as_secs_f64();
    let connection = if plan.keep_alive {
        ""
    } else {
        "header = \"Connection: close\"\n"
    };
    format!(
        "url = \"{url}?request=[1-{requests}]\"
output = \"/dev/null\"
write-out = \"%{{http_code}}\\t%{{exitcode}}\\t%{{size_download}}\\t%header{{x-backend}}\\t%{{errormsg}}\\n\"
parallel
parallel-immediate
parallel-max = {parallel}
max-time = {seconds}
connect-timeout = {seconds}
silent
noproxy = \"*\"
{connection}",
        url = plan.url,
        requests = plan.requests,
        parallel = plan.parallel,
    )
}

/// Parses curl's results. A request without a result has failed.
fn read_results(plan: &HttpPlan, text: &str) -> HttpReport {
    let mut report = HttpReport {
        requests: plan.requests.into(),
        ..HttpReport::default()
    };
    for line in text.lines() {
        match backend_of(plan, line) {
            Ok(backend) => *report.per_backend.entry(backend).or_default() += 1,
            Err(error) => *report.errors.entry(error).or_default() += 1,
        }
    }
    let good: u64 = report.per_backend.values().sum();
    report.failed = report.requests.saturating_sub(good);
    let reported: u64 = report.errors.values().sum();
    if reported < report.failed {
        let missing = report.failed - reported;
        report
            .errors
            .insert("no result from curl".to_owned(), missing);
    }
    report
}

fn backend_of(plan: &HttpPlan, line: &str) -> Result<String, String> {
    let fields: Vec<&str> = line.splitn(5, '\t').collect();
    let [status, exit, bytes, backend, message] = fields[..] else {
        return Err(format!("unknown output: {line}"));
    };
    if exit != "0" {
        return Err(format!("curl {exit}: {}", without_numbers(message)));
    }
    if status != "200" {
        return Err(format!("status {status}"));
    }
    if backend.is_empty() {
        return Err("no backend name".to_owned());
    }
    match plan.body_bytes {
        Some(want) if bytes.parse() != Ok(want) => Err(format!("{bytes} bytes instead of {want}")),
        _ => Ok(backend.to_owned()),
    }
}

/// Replaces numbers: curl's messages contain times, which would make every message unique.
fn without_numbers(message: &str) -> String {
    let words = message.split(' ').map(|word| {
        if word.parse::<u64>().is_ok() {
            "…"
        } else {
            word
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_incomplete_replies_as_failed() {
        let plan = HttpPlan {
            body_bytes: Some(8),
            ..HttpPlan::new("http://192.0.2.1/", 6)
        };
        let text = "200\t0\t8\ta\t\n200\t0\t7\ta\t\n503\t0\t8\ta\t\n200\t0\t8\t\t\n\
                    000\t28\t0\t\tConnection timed out after 1001 milliseconds\n";
        let report = read_results(&plan, text);
        assert_eq!((report.requests, report.failed), (6, 5));
        assert_eq!(report.per_backend, [("a".to_owned(), 1)].into());
        let errors: Vec<&str> = report.errors.keys().map(String::as_str).collect();
        let want = [
            "7 bytes instead of 8",
            "curl 28: Connection timed out after … milliseconds",
            "no backend name",
            "no result from curl",
            "status 503",
        ];
        assert_eq!(errors, want);
    }
}
