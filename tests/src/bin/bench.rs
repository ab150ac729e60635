//! `cargo xtask bench`: measures the cost per packet.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, builder::PossibleValuesParser};
use lab::bench::{measure::measure, table, workloads};

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
    let lines = measure(&chosen, arguments.rounds as usize, |what| {
        eprintln!("bench: {what}");
    })?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&lines)?);
    } else {
        println!("{}", table(&lines));
    }
    Ok(())
}
