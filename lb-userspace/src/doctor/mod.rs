//! `evenkeel doctor`: checks whether a host can run the balancer and a configuration.
//!
//! [`gather`] reads the state of the host into a [`Host`]; [`diagnose`] checks only that, so tests can
//! construct hosts. Nothing on the host is changed, except that the kernel resolves neighbours.

mod checks;
mod gather;
mod host;

use serde::Serialize;

pub use gather::{GatherError, gather};
pub use host::{Bpffs, Directory, Host, Interface, MasterLink, Peer, Ports, xdp_feature};

pub use lb_dataplane::ethtool::Channels;
use lb_model::config::Config;

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Ok,
    /// Works, but worse or under a condition.
    Warning,
    /// Does not work.
    Problem,
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        })
    }
}

/// Result of a check on an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Name of the check, as in `docs/operations.md`: `kernel`, `queues`, `mtu`, …
    pub check: &'static str,
    /// The interface, address or VIP; `host` for the host as a whole.
    pub subject: String,
    pub level: Level,
    pub finding: String,
    /// How to fix it; none if the level is ok.
    pub advice: Option<String>,
}

#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, check: &'static str, subject: &str, finding: impl Into<String>) {
        self.add(Level::Ok, check, subject, finding.into(), None);
    }

    fn warn(
        &mut self,
        check: &'static str,
        subject: &str,
        finding: impl Into<String>,
        advice: impl Into<String>,
    ) {
        let advice = Some(advice.into());
        self.add(Level::Warning, check, subject, finding.into(), advice);
    }

    fn problem(
        &mut self,
        check: &'static str,
        subject: &str,
        finding: impl Into<String>,
        advice: impl Into<String>,
    ) {
        let advice = Some(advice.into());
        self.add(Level::Problem, check, subject, finding.into(), advice);
    }

    fn add(
        &mut self,
        level: Level,
        check: &'static str,
        subject: &str,
        finding: String,
        advice: Option<String>,
    ) {
        self.0.push(Finding {
            check,
            subject: subject.to_owned(),
            level,
            finding,
            advice,
        });
    }
}

/// Checks a host, and with a configuration also whether the host can run it.
#[must_use]
pub fn diagnose(host: &Host, config: Option<&Config>) -> Vec<Finding> {
    let mut findings = Findings::default();
    checks::system(host, &mut findings);
    checks::interfaces(host, config, &mut findings);
    if let Some(config) = config {
        checks::network(host, config, &mut findings);
        checks::node(host, config, &mut findings);
        checks::sources(host, &mut findings);
        checks::announce(host, config, &mut findings);
    }
    findings.0
}

#[must_use]
pub fn has_problem(findings: &[Finding]) -> bool {
    findings.iter().any(|found| found.level == Level::Problem)
}
