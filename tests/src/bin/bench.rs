//! `cargo xtask bench [--json] [--rounds N] [WORKLOAD...]`: what a packet costs.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use lab::bench::{measure::measure, table, workloads};

/// Rounds, unless asked otherwise.
const ROUNDS: usize = 15;

const USAGE: &str = "\
Usage: bench [--json] [--rounds N] [WORKLOAD...]

Measures what a packet costs in the data path, in nanoseconds and against floors that do next to nothing. Needs root.

  --json      one JSON object on standard output in place of the table
  --rounds N  rounds of each workload, 15 unless told otherwise
  WORKLOAD    only these; all unless told otherwise

Exit code: 0 if all was measured, 1 otherwise, 2 for wrong arguments.";

struct Arguments {
    json: bool,
    rounds: usize,
    names: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("bench: {error:#}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
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
    let lines = measure(&chosen, arguments.rounds, |what| eprintln!("bench: {what}"))?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&lines)?);
    } else {
        println!("{}", table(&lines));
    }
    Ok(())
}

/// What was asked for; nothing if that is only how to ask.
fn parse(arguments: impl Iterator<Item = String>) -> Result<Option<Arguments>> {
    let mut parsed = Arguments {
        json: false,
        rounds: ROUNDS,
        names: Vec::new(),
    };
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => parsed.json = true,
            "--rounds" => {
                let rounds = arguments.next().context("--rounds needs a number")?;
                parsed.rounds = rounds
                    .parse()
                    .ok()
                    .filter(|&rounds| rounds > 0)
                    .with_context(|| format!("--rounds: `{rounds}` is not a number above 0"))?;
            }
            "--help" | "-h" => return Ok(None),
            option if option.starts_with('-') => bail!("no option `{option}` is known"),
            name => parsed.names.push(name.to_owned()),
        }
    }
    let known: Vec<_> = workloads::all().iter().map(|w| w.name).collect();
    if let Some(name) = parsed.names.iter().find(|name| !known.contains(&&***name)) {
        bail!("no workload `{name}`; there are: {}", known.join(", "));
    }
    Ok(Some(parsed))
}
