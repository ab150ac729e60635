//! `cargo xtask bench`: measures the cost per packet.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, builder::PossibleValuesParser};
use lab::{
    bench::{against, measure::measure, scaling, table, workloads},
    table::Table,
};
use serde::Serialize;

/// Measure the cost per packet of the data path in nanoseconds, compared with minimal programs (needs root)
#[derive(Parser)]
#[command(
    name = "bench",
    after_help = "Exit code: 0 if all workloads were measured, 1 otherwise, 2 for invalid arguments."
)]
struct Arguments {
    /// Print JSON instead of the table
    #[arg(long)]
    json: bool,
    /// Compare with the benchmark of another build, run in turns with this one
    ///
    /// `cargo xtask bench --against REV` builds that of a commit.
    #[arg(long, value_name = "BENCH", conflicts_with = "cpus")]
    against: Option<PathBuf>,
    /// Measure on 1 to N CPUs at once instead, without floors
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    cpus: Option<u32>,
    /// Rounds per workload
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Measure only these workloads
    #[arg(value_name = "WORKLOAD", value_parser = workload())]
    names: Vec<String>,
}

fn workload() -> PossibleValuesParser {
    PossibleValuesParser::new(workloads::all().iter().map(|workload| workload.name))
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let mut chosen = workloads::all();
    if !arguments.names.is_empty() {
        chosen.retain(|workload| arguments.names.iter().any(|name| name == workload.name));
    }
    let (rounds, progress) = (arguments.rounds, |what: &str| eprintln!("bench: {what}"));
    if let Some(other) = &arguments.against {
        let names = chosen.iter().map(|workload| workload.name);
        let lines = against::compare(other, &names.collect::<Vec<_>>(), rounds, progress)?;
        return print(arguments.json, &lines, against::table);
    }
    if let Some(cpus) = arguments.cpus {
        let lines = scaling::measure(&chosen, cpus, rounds as usize, progress)?;
        return print(arguments.json, &lines, scaling::table);
    }
    let lines = measure(&chosen, rounds as usize, progress)?;
    print(arguments.json, &lines, table)
}

fn print<T: Serialize>(json: bool, lines: &[T], table: impl Fn(&[T]) -> Table) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(lines)?);
    } else {
        println!("{}", table(lines));
    }
    Ok(())
}
