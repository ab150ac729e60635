//! The outage replay: a change, or a fault that is not visible in the configuration, gives one backend
//! nearly all of the traffic. Measures when it is rolled back or alerted, and which cause is named.
//!
//! Each run has its own lab: four nginx behind a VIP, a client that opens 200 connections per second, a
//! controller and an Alertmanager. After the fault, the state is recorded every second until the outcome.
//! [`spike`] replays the bad change together with a spike of clients, beside other balancers.

pub mod drawing;
pub mod record;
pub mod report;
pub mod site;
pub mod spike;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

pub use report::{Report, Run};

use crate::balancer::binary;
use crate::traffic::steady::Elephant;
use record::Record;
use site::{Options, Site};

/// New connections per second.
pub const RATE: u64 = 200;

/// Time before the fault.
const BEFORE: Duration = Duration::from_secs(12);
/// The same for a VIP that hashes sources: the share monitor learns how unequal they are in two minutes.
const BEFORE_NAT: Duration = Duration::from_secs(135);
/// Limit of the time until the outcome.
const LIMIT: Duration = Duration::from_secs(45);
/// Time that is recorded after the outcome.
const AFTER: Duration = Duration::from_secs(8);
/// Factor of the connections in a spike.
const SPIKE: u64 = 3;
/// Bytes per second of the elephant flow.
const ELEPHANT: u64 = 24_000_000;

/// The fault of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The bad change, against the default guards.
    Guarded,
    /// The bad change, forced past the guard, with a bake.
    Baked,
    /// The bad change, forced, without a bake; then a spike.
    Forced,
    /// A backend accepts connections and never replies.
    BlackHole,
    /// One source becomes half of the traffic of a VIP that hashes sources.
    Nat,
    /// One connection sends as much as thousands.
    Elephant,
}

impl Fault {
    pub const ALL: [Self; 6] = [
        Self::Guarded,
        Self::Baked,
        Self::Forced,
        Self::BlackHole,
        Self::Nat,
        Self::Elephant,
    ];

    /// Returns its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Guarded => "guard",
            Self::Baked => "forced, bake",
            Self::Forced => "forced, no bake",
            Self::BlackHole => "black hole",
            Self::Nat => "one NAT",
            Self::Elephant => "elephant",
        }
    }

    /// Returns the expected cause.
    pub fn cause(self) -> Option<&'static str> {
        match self {
            Self::Guarded => None,
            Self::Baked | Self::Forced => Some("revision"),
            Self::BlackHole => Some("black_hole"),
            Self::Nat => Some("narrow_hash_input"),
            Self::Elephant => Some("elephants"),
        }
    }

    fn description(self) -> &'static str {
        match self {
            Self::Guarded => {
                "a revision gives one backend 97 % of the ring; all settings are defaults"
            }
            Self::Baked => "the same, forced past the guard, with a bake",
            Self::Forced => "the same, forced, without a bake; then a spike",
            Self::BlackHole => {
                "a backend accepts connections and never replies; its health check passes"
            }
            Self::Nat => "one source becomes half of the traffic of a VIP that hashes sources",
            Self::Elephant => "one connection sends 24 MB/s",
        }
    }
}

/// Prints progress to stderr; stdout is for the result.
fn progress(line: &str) {
    eprintln!("outage: {line}");
}

/// Runs these faults one after the other.
pub fn run(faults: &[Fault]) -> Result<Report> {
    let binary = binary()?;
    let mut report = Report::default();
    for fault in faults {
        progress(&format!("{}: {}", fault.name(), fault.description()));
        let run = run_one(*fault, &binary).with_context(|| format!("run `{}`", fault.name()))?;
        for mark in &run.record.marks {
            progress(&format!("  {:>6.1} s  {}", mark.at_s, mark.text));
        }
        report.runs.push(run);
    }
    Ok(report)
}

fn run_one(fault: Fault, binary: &Path) -> Result<Run> {
    let options = Options {
        hashes_sources: fault == Fault::Nat,
        ..Options::default()
    };
    let lab = site::build()?;
    let mut site = Site::start(&lab, binary, options)?;
    let mut record = Record::new();
    let before = if options.hashes_sources {
        BEFORE_NAT
    } else {
        BEFORE
    };
    record.observe(&site, before, |_| false)?;
    record.check_quiet()?;
    let run = match fault {
        Fault::Guarded => guarded(&site, record)?,
        Fault::Baked => baked(&site, record)?,
        Fault::Forced => forced(&site, record)?,
        Fault::BlackHole => {
            record.start_fault("backend-2 accepts connections but no longer replies");
            site.nginx[2].daemon().signal(Signal::SIGSTOP)?;
            let alerted = record.observe_until_alert(&site, LIMIT, AFTER);
            site.nginx[2].daemon().signal(Signal::SIGCONT)?;
            alerted?;
            let misplaced = record.flows_of("backend-2");
            Run::alerted(fault, record, Some(misplaced))
        }
        Fault::Nat => {
            record.start_fault("one source opens half of the connections");
            site.load.set_from_nat(50);
            record.observe_until_alert(&site, LIMIT, AFTER)?;
            let misplaced = record.misplaced();
            Run::alerted(fault, record, Some(misplaced))
        }
        Fault::Elephant => {
            record.start_fault("one connection starts sending 24 MB/s");
            let _elephant = Elephant::start(&lab.clients[0], site.vip, ELEPHANT)?;
            record.observe_until_alert(&site, LIMIT, AFTER)?;
            Run::alerted(fault, record, None)
        }
    };
    site.check_running()?;
    Ok(run)
}

/// The bad change, as an operator would make it.
fn guarded(site: &Site<'_>, mut record: Record) -> Result<Run> {
    record.start_fault("`evenkeel apply` of the bad change");
    let applied = site.apply_bad_change(&[])?;
    let refused = applied.code == Some(3);
    record.mark(&format!(
        "exit code {}: {}",
        applied
            .code
            .map_or_else(|| "none".to_owned(), |code| code.to_string()),
        applied.first_line()
    ));
    record.observe(site, AFTER, |_| false)?;
    let misplaced = record.misplaced();
    Ok(Run {
        refused,
        misplaced_flows: Some(misplaced),
        ..Run::new(Fault::Guarded, record)
    })
}

fn baked(site: &Site<'_>, mut record: Record) -> Result<Run> {
    record.start_fault("the bad change is forced past the guard, with a bake of 60 s");
    site.apply_bad_change(&["--force", "max_share", "--bake", "60s", "--no-wait"])?;
    record.wait_active(site)?;
    record.observe(site, LIMIT, |now| now.rolled_back.is_some())?;
    record.observe(site, AFTER, |_| false)?;
    let misplaced = record.misplaced();
    Ok(Run::rolled_back(Fault::Baked, record, misplaced))
}

fn forced(site: &Site<'_>, mut record: Record) -> Result<Run> {
    record.start_fault("the bad change is forced past the guard, without a bake");
    site.apply_bad_change(&["--force", "max_share", "--bake", "0s", "--no-wait"])?;
    record.wait_active(site)?;
    record.observe(site, Duration::from_secs(2), |_| false)?;
    record.mark("a spike: three times the connections");
    site.load.set_rate(SPIKE * RATE);
    record.observe_until_alert(site, LIMIT, AFTER)?;
    let misplaced = record.misplaced();
    Ok(Run::alerted(Fault::Forced, record, Some(misplaced)))
}
