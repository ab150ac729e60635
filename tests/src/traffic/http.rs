//! HTTP load by `curl`, and who answered how many requests.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::host::Host;
use crate::process::spawn;
use crate::tool;

/// curl does not run more transfers at once.
const MOST_PARALLEL: u32 = 300;

/// Requests to make.
#[derive(Clone, Debug)]
pub struct HttpPlan {
    /// Where to; a query that numbers the requests is put after it.
    pub url: String,
    /// How many.
    pub requests: u32,
    /// How many at once.
    pub parallel: u32,
    /// How many bytes the body of each answer has, if that is to be checked.
    pub body_bytes: Option<u64>,
    /// Time for one request.
    pub limit: Duration,
    /// Whether connections are used again. If not, each request is a new flow.
    pub keep_alive: bool,
}

impl HttpPlan {
    /// Requests for a page, each on a new connection.
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

/// What became of the requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpReport {
    /// How many were to be made.
    pub requests: u64,
    /// How many did not end with status 200, a named backend and a whole body.
    pub failed: u64,
    /// Answers by backend, the good ones.
    pub per_backend: BTreeMap<String, u64>,
    /// What failed, and how often.
    pub errors: BTreeMap<String, u64>,
}

impl HttpReport {
    /// Adds what became of other requests.
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

/// A load that runs. It is killed when this is dropped.
#[derive(Debug)]
pub struct HttpLoad {
    plan: HttpPlan,
    child: Child,
    results: Option<JoinHandle<std::io::Result<String>>>,
}

impl HttpLoad {
    /// Starts it on a host.
    pub fn start(host: &Host, plan: &HttpPlan) -> Result<Self> {
        if plan.parallel > MOST_PARALLEL {
            bail!(
                "{} requests at once: curl does {MOST_PARALLEL}",
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
            .with_context(|| format!("starting curl on {}", host.name))?;
        let mut stdin = child.stdin.take().context("curl's input")?;
        let mut stdout = child.stdout.take().context("curl's output")?;
        // Read all the time: curl would wait for a pipe that is full.
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
        self.child.wait().context("waiting for curl")?;
        let results = self.results.take().context("curl's results")?;
        let text = results
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            .context("reading curl's results")?;
        Ok(read_results(&self.plan, &text))
    }
}

impl Drop for HttpLoad {
    fn drop(&mut self) {
        // Both fail only if it was waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes requests and waits until they are done.
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

/// A request of which nothing is told has failed too.
fn read_results(plan: &HttpPlan, text: &str) -> HttpReport {
    let mut report = HttpReport {
        requests: plan.requests.into(),
        ..HttpReport::default()
    };
    for line in text.lines() {
        match judge(plan, line) {
            Ok(backend) => *report.per_backend.entry(backend).or_default() += 1,
            Err(error) => *report.errors.entry(error).or_default() += 1,
        }
    }
    let good: u64 = report.per_backend.values().sum();
    report.failed = report.requests.saturating_sub(good);
    let told: u64 = report.errors.values().sum();
    if told < report.failed {
        let untold = report.failed - told;
        report
            .errors
            .insert("no result from curl".to_owned(), untold);
    }
    report
}

fn judge(plan: &HttpPlan, line: &str) -> Result<String, String> {
    let fields: Vec<&str> = line.splitn(5, '\t').collect();
    let [status, exit, bytes, backend, message] = fields[..] else {
        return Err(format!("not understood: {line}"));
    };
    if exit != "0" {
        return Err(format!("curl {exit}: {}", without_numbers(message)));
    }
    if status != "200" {
        return Err(format!("status {status}"));
    }
    if backend.is_empty() {
        return Err("no backend named".to_owned());
    }
    match plan.body_bytes {
        Some(want) if bytes.parse() != Ok(want) => Err(format!("{bytes} bytes in place of {want}")),
        _ => Ok(backend.to_owned()),
    }
}

/// curl's messages hold times in milliseconds, which would make each of them a kind of its own.
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
    fn what_is_not_a_whole_good_answer_has_failed() {
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
            "7 bytes in place of 8",
            "curl 28: Connection timed out after … milliseconds",
            "no backend named",
            "no result from curl",
            "status 503",
        ];
        assert_eq!(errors, want);
    }
}
