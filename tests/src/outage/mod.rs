//! The outage, replayed: a change gives one backend nearly all of the traffic, or something that no configuration
//! shows does; how soon is it undone, or somebody told, and of what?
//!
//! Each run has a lab of its own: four nginx behind a VIP, clients that open 200 connections a second, a
//! controller, and a real Alertmanager. Then something is done to it, and a second after the other is
//! written down until the outcome is there.

pub mod drawing;
pub mod record;
pub mod report;
pub mod site;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

pub use report::{Report, Run};

use crate::balancer::binary;
use crate::traffic::steady::Elephant;
use record::Record;
use site::{Site, Terms};

/// New connections a second.
pub const RATE: u64 = 200;

/// How long all is well before.
const BEFORE: Duration = Duration::from_secs(12);
/// The same where sources are hashed: how unequal they are is learned in one long window, of two minutes.
const BEFORE_NAT: Duration = Duration::from_secs(135);
/// How long the outcome is waited for.
const LIMIT: Duration = Duration::from_secs(45);
/// How long is written down after it.
const AFTER: Duration = Duration::from_secs(8);
/// Times as many connections in the spike.
const SPIKE: u64 = 3;
/// Bytes a second of the elephant.
const ELEPHANT: u64 = 24_000_000;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The mistake, with the guards on.
    Guarded,
    /// The mistake, forced past the guard, and watched.
    Baked,
    /// The mistake, forced, not watched; then a spike.
    Forced,
    /// A backend accepts connections, and never answers.
    BlackHole,
    /// One address becomes half of the traffic of a VIP that hashes sources.
    Nat,
    /// One connection sends as much as thousands.
    Elephant,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Guarded,
        Self::Baked,
        Self::Forced,
        Self::BlackHole,
        Self::Nat,
        Self::Elephant,
    ];

    /// Its name in reports.
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

    /// The name of the cause that is to be found.
    pub fn cause(self) -> Option<&'static str> {
        match self {
            Self::Guarded => None,
            Self::Baked | Self::Forced => Some("revision"),
            Self::BlackHole => Some("black_hole"),
            Self::Nat => Some("narrow_hash_input"),
            Self::Elephant => Some("elephants"),
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Guarded => "a revision gives one backend 97 % of the table; the guard is on",
            Self::Baked => "the same, forced past the guard and watched (bake)",
            Self::Forced => "the same, forced and not watched; then a spike",
            Self::BlackHole => {
                "a backend accepts connections and never answers; its check succeeds"
            }
            Self::Nat => "one address becomes half of the traffic, of a VIP that hashes sources",
            Self::Elephant => "one connection sends 24 MB/s",
        }
    }
}

/// Says what is going on; standard output is for the result.
fn say(line: &str) {
    eprintln!("outage: {line}");
}

/// Runs these, one after the other.
pub fn run(faults: &[Fault]) -> Result<Report> {
    let binary = binary()?;
    let mut report = Report::default();
    for fault in faults {
        say(&format!("{}: {}", fault.name(), fault.words()));
        let run = run_one(*fault, &binary).with_context(|| format!("run `{}`", fault.name()))?;
        for mark in &run.record.marks {
            say(&format!("  {:>6.1} s  {}", mark.at_s, mark.words));
        }
        report.runs.push(run);
    }
    Ok(report)
}

fn run_one(fault: Fault, binary: &Path) -> Result<Run> {
    let terms = Terms {
        hashes_sources: fault == Fault::Nat,
        ..Terms::default()
    };
    let lab = site::build()?;
    let mut site = Site::start(&lab, binary, terms)?;
    let mut record = Record::begin(&site)?;
    let before = if terms.hashes_sources {
        BEFORE_NAT
    } else {
        BEFORE
    };
    record.go_on(&site, before, |_| false)?;
    record.check_quiet()?;
    let run = match fault {
        Fault::Guarded => guarded(&site, record)?,
        Fault::Baked => baked(&site, record)?,
        Fault::Forced => forced(&site, record)?,
        Fault::BlackHole => {
            record.begins("backend-2 accepts, and does not answer any more");
            site.nginx[2].daemon().signal(Signal::SIGSTOP)?;
            let told = record.until_told(&site, LIMIT, AFTER);
            site.nginx[2].daemon().signal(Signal::SIGCONT)?;
            told?;
            let misplaced = record.flows_of("backend-2");
            Run::told(fault, record, Some(misplaced))
        }
        Fault::Nat => {
            record.begins("one address opens half of the connections");
            site.load.set_from_nat(50);
            record.until_told(&site, LIMIT, AFTER)?;
            let misplaced = record.misplaced();
            Run::told(fault, record, Some(misplaced))
        }
        Fault::Elephant => {
            record.begins("one connection begins to send 24 MB/s");
            let _elephant = Elephant::start(&lab.clients[0], site.vip, ELEPHANT)?;
            record.until_told(&site, LIMIT, AFTER)?;
            Run::told(fault, record, None)
        }
    };
    site.check_running()?;
    Ok(run)
}

/// The mistake, as an operator would make it.
fn guarded(site: &Site<'_>, mut record: Record) -> Result<Run> {
    record.begins("`evenkeel apply` of the mistake");
    let applied = site.apply_mistake(&[])?;
    let refused = applied.code == Some(3);
    record.mark(&format!(
        "exit code {:?}: {}",
        applied.code,
        applied.first_line()
    ));
    record.go_on(site, AFTER, |_| false)?;
    let misplaced = record.misplaced();
    Ok(Run {
        refused,
        misplaced_flows: Some(misplaced),
        ..Run::of(Fault::Guarded, record)
    })
}

fn baked(site: &Site<'_>, mut record: Record) -> Result<Run> {
    record.begins("the mistake is forced past the guard, with a bake of 60 s");
    site.apply_mistake(&["--force", "max_share", "--bake", "60s", "--no-wait"])?;
    record.is_in_force(site)?;
    record.go_on(site, LIMIT, |now| now.rolled_back.is_some())?;
    record.go_on(site, AFTER, |_| false)?;
    let misplaced = record.misplaced();
    Ok(Run::rolled_back(Fault::Baked, record, misplaced))
}

fn forced(site: &Site<'_>, mut record: Record) -> Result<Run> {
    record.begins("the mistake is forced past the guard, without a bake");
    site.apply_mistake(&["--force", "max_share", "--bake", "0s", "--no-wait"])?;
    record.is_in_force(site)?;
    record.go_on(site, Duration::from_secs(2), |_| false)?;
    record.mark("a spike: three times the connections");
    site.load.set_rate(SPIKE * RATE);
    record.until_told(site, LIMIT, AFTER)?;
    let misplaced = record.misplaced();
    Ok(Run::told(Fault::Forced, record, Some(misplaced)))
}
