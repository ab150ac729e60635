//! `cargo xtask bench [--json] [--rounds N] [WORKLOAD...]`: what a packet costs.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use lab::bench::{measure::measure, table, workloads};

/// Rounds, unless asked otherwise.
const ROUNDS: usize = 15;

const USAGE: &str = "usage: bench [--json] [--rounds N] [WORKLOAD...]";

struct Arguments {
    json: bool,
    rounds: usize,
    names: Vec<String>,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments = parse(std::env::args().skip(1))?;
    let mut chosen = workloads::all();
    for name in &arguments.names {
        if !chosen.iter().any(|workload| workload.name == name) {
            let names: Vec<_> = chosen.iter().map(|workload| workload.name).collect();
            bail!("no workload `{name}`; there are: {}", names.join(", "));
        }
    }
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

fn parse(arguments: impl Iterator<Item = String>) -> Result<Arguments> {
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
            option if option.starts_with('-') => bail!("unknown option `{option}`\n{USAGE}"),
            name => parsed.names.push(name.to_owned()),
        }
    }
    Ok(parsed)
}
