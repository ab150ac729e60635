//! `cargo xtask outage`: replays the outage that this balancer is designed to prevent.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use lab::outage::spike::{self, Contestant, Timeline};
use lab::outage::{Fault, Report, drawing, run};

/// Replay an outage with four nginx servers, 200 new connections per second and a real Alertmanager: a revision that gives one
/// backend nearly all of the ring, and three faults that are not visible in any configuration
///
/// Reports when each is refused, rolled back or alerted, and which cause is named. Needs root; takes about five minutes.
#[derive(Parser)]
#[command(
    name = "outage",
    args_conflicts_with_subcommands = true,
    after_help = "Exit code: 0 if all was in time with the right cause, 1 otherwise, 2 for invalid arguments."
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
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

#[derive(Subcommand)]
enum Command {
    Spike(SpikeArguments),
}

/// Replay the bad change together with three times the clients, against servers that crash when overloaded: with Evenkeel, HAProxy and
/// nftables
///
/// Reports the lost requests, latencies and crashes. Needs root; takes about eight minutes.
#[derive(Args)]
#[command(
    after_help = "Exit code: 0 if all balancers were measured, 1 otherwise, 2 for invalid arguments."
)]
struct SpikeArguments {
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
    /// Only this balancer (repeatable)
    #[arg(long, value_name = "ROW", value_parser = contestant())]
    only: Vec<Contestant>,
    /// Rounds; the table has the one with the median of the lost requests
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Write the picture of all balancers to docs/spike.svg
    #[arg(long, conflicts_with = "only")]
    write: bool,
}

fn contestant() -> impl TypedValueParser<Value = Contestant> {
    let named = |name: &str| Contestant::ALL.into_iter().find(|it| it.name() == name);
    PossibleValuesParser::new(Contestant::ALL.map(Contestant::name))
        .map(move |name| named(&name).expect("it is one of the possible values"))
}

fn fault() -> impl TypedValueParser<Value = Fault> {
    let named = |name: &str| Fault::ALL.into_iter().find(|fault| fault.name() == name);
    PossibleValuesParser::new(Fault::ALL.map(Fault::name))
        .map(move |name| named(&name).expect("it is one of the possible values"))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Command::Spike(arguments)) = &arguments.command {
        return match run_spike(arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        };
    }
    let faults = if arguments.only.is_empty() {
        &Fault::ALL[..]
    } else {
        &arguments.only
    };
    match run(faults) {
        Ok(report) => finish(&report, arguments.json, arguments.write),
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("outage: {error:#}");
    ExitCode::FAILURE
}

fn run_spike(arguments: &SpikeArguments) -> Result<()> {
    let contestants = if arguments.only.is_empty() {
        &Contestant::ALL[..]
    } else {
        &arguments.only
    };
    let report = spike::run(contestants, arguments.rounds, Timeline::FULL)?;
    if arguments.json {
        println!("{}", report.to_json());
    } else {
        println!("{}", report.to_table());
    }
    if arguments.write {
        write("spike.svg", &spike::drawing::draw(&report))?;
    }
    Ok(())
}

/// Writes a picture of the documentation.
fn write(name: &str, picture: &str) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let file = folder.join(name);
    std::fs::write(&file, picture).with_context(|| format!("write {}", file.display()))
}

fn finish(report: &Report, json: bool, write: bool) -> ExitCode {
    if json {
        println!("{}", report.to_json());
    } else {
        println!("{}", report.to_table());
    }
    let mut problems = report.problems();
    if write && let Err(error) = self::write("outage.svg", &drawing::draw(report)) {
        problems.push(format!("{error:#}"));
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
