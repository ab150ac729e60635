//! `cargo xtask outage`: replays the outage that this balancer is designed to prevent.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use lab::outage::{Fault, Report, drawing, run};

/// Replay an outage with four nginx servers, 200 new connections per second and a real Alertmanager: a revision that gives one
/// backend nearly all of the ring, and three faults that are not visible in any configuration
///
/// Reports when each is refused, rolled back or alerted, and which cause is named. Needs root; takes about five minutes.
#[derive(Parser)]
#[command(
    name = "outage",
    after_help = "Exit code: 0 if all was in time with the right cause, 1 otherwise, 2 for invalid arguments."
)]
struct Arguments {
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
    /// Only this run (repeatable)
    #[arg(long, value_name = "RUN", value_parser = fault())]
    only: Vec<Fault>,
    /// Write the picture of all runs to docs/outage.svg
    #[arg(long, conflicts_with = "only")]
    write: bool,
}

fn fault() -> impl TypedValueParser<Value = Fault> {
    let named = |name: &str| Fault::ALL.into_iter().find(|fault| fault.name() == name);
    PossibleValuesParser::new(Fault::ALL.map(Fault::name))
        .map(move |name| named(&name).expect("it is one of the possible values"))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let faults = if arguments.only.is_empty() {
        &Fault::ALL[..]
    } else {
        &arguments.only
    };
    match run(faults) {
        Ok(report) => finish(&report, arguments.json, arguments.write),
        Err(error) => {
            eprintln!("outage: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn finish(report: &Report, json: bool, write: bool) -> ExitCode {
    if json {
        println!("{}", report.to_json());
    } else {
        println!("{}", report.to_table());
    }
    let mut problems = report.problems();
    if write {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/outage.svg");
        if let Err(error) = std::fs::write(&file, drawing::draw(report)) {
            problems.push(format!("write {}: {error}", file.display()));
        }
    }
    if problems.is_empty() {
        eprintln!(
            "outage: all faults were refused, rolled back or alerted in time, with the right cause"
        );
        return ExitCode::SUCCESS;
    }
    for problem in problems {
        eprintln!("outage: {problem}");
    }
    ExitCode::FAILURE
}
