//! Is this host fit to run the balancer, and a configuration? `evenkeel doctor`.
//!
//! Two halves: [`gather`] looks at the host and fills a [`Host`], [`diagnose`] judges it and knows
//! nothing but that. So tests feed made-up hosts. Nothing is changed on the host; what comes nearest is the
//! kernel's own asking for neighbours, as any packet to them would make it do.

mod checks;
mod gather;
mod host;

use serde::Serialize;

pub use gather::{GatherError, gather};
pub use host::{Bpffs, Channels, Folder, Host, Interface, MasterLink, Ports, xdp_feature};

use lb_model::config::Config;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, but less well, or only under a condition.
    Warning,
    /// It will not work.
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

/// One line of the diagnosis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: `kernel`, `queues`, `mtu` and so on, as in `docs/operations.md`.
    pub check: &'static str,
    /// Of what: an interface, an address, a VIP; `host` for the host as a whole.
    pub subject: String,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub finding: String,
    /// What to do; none when all is well.
    pub advice: Option<String>,
}

/// Collects findings.
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

/// Judges a host; with a configuration, also whether it can run that.
#[must_use]
pub fn diagnose(host: &Host, config: Option<&Config>) -> Vec<Finding> {
    let mut findings = Findings::default();
    checks::system(host, &mut findings);
    checks::interfaces(host, config, &mut findings);
    if let Some(config) = config {
        checks::network(host, config, &mut findings);
        checks::node(host, config, &mut findings);
    }
    findings.0
}

/// Whether anything will not work.
#[must_use]
pub fn has_problem(findings: &[Finding]) -> bool {
    findings.iter().any(|found| found.level == Level::Problem)
}
