//! `cargo xtask skew-sim [--json] [--quick] [--write] [--days N] [--trials N] [--seed N]`: the judge of the watch over shares.

use std::{path::Path, process::ExitCode, time::Instant};

use anyhow::{Context as _, Result, bail};
use skew_sim::{
    bake, cost, deaf, faultless,
    power::{self, SLOW_VIPS, VIPS},
    report::{Report, Run},
    rules::RuleKind,
    scenario::Scenario,
};

const USAGE: &str = "\
Usage: skew-sim [--json] [--quick] [--write] [--days N] [--trials N] [--seed N]

Judges the watch over shares by simulated traffic: false alarms in traffic without a fault, and how soon faults are
found. Needs neither eBPF nor root.

  --json      one JSON object on standard output in place of the tables
  --quick     140 VIP-days and 40 trials
  --write     write the result into docs/
  --days N    VIP-days without a fault, 10005 unless told otherwise
  --trials N  trials of each fault, 400 unless told otherwise
  --seed N    of the random numbers, 1 unless told otherwise

Exit code: 0 if it ran to its end, 1 otherwise, 2 for wrong arguments.";

/// VIP-days of all scenarios together, and trials of each fault.
const FULL: (f64, usize) = (10_005.0, 400);
const QUICK: (f64, usize) = (140.0, 40);

struct Arguments {
    json: bool,
    /// Write the result into `docs/`.
    write: bool,
    days: f64,
    trials: usize,
    seed: u64,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("skew-sim: {error:#}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("skew-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let &Arguments {
        days, trials, seed, ..
    } = arguments;
    let begun = Instant::now();
    let tell = |what: &str| eprintln!("skew-sim: {what}");
    tell(&format!(
        "{days} VIP-days, {trials} trials of each fault, seed {seed}"
    ));
    let faultless = faultless::run(
        &Scenario::ALL,
        days / Scenario::ALL.len() as f64,
        seed,
        tell,
    );
    tell(&format!("faultless traffic took {:.0?}", begun.elapsed()));
    let mut power = power::run(&power::cells(&VIPS), &RuleKind::ALL, trials, seed);
    let slow = power::cells(&SLOW_VIPS);
    power.extend(power::run(&slow, &RuleKind::ALL[..1], trials, seed));
    tell(&format!("with faults: {:.0?}", begun.elapsed()));
    let report = Report {
        run: Run { seed, days, trials },
        faultless,
        power,
        bake: bake::run(trials * 25, seed),
        deaf: deaf::run(trials.div_ceil(4), seed),
        cost: cost::run(),
    };
    tell(&format!("all took {:.0?}", begun.elapsed()));
    if arguments.write {
        report.write(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs"))?;
    }
    if arguments.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{}", report.tables());
    }
    Ok(())
}

/// What was asked for; nothing if that is only how to ask.
fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Arguments>> {
    let mut parsed = Arguments {
        json: false,
        write: false,
        days: FULL.0,
        trials: FULL.1,
        seed: 1,
    };
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<u64> {
            let word = arguments
                .next()
                .with_context(|| format!("{argument} needs a number"))?;
            word.parse()
                .with_context(|| format!("{argument}: `{word}` is not a number"))
        };
        match argument.as_str() {
            "--json" => parsed.json = true,
            "--write" => parsed.write = true,
            "--quick" => (parsed.days, parsed.trials) = QUICK,
            "--days" => parsed.days = number()? as f64,
            "--trials" => parsed.trials = (number()? as usize).max(1),
            "--seed" => parsed.seed = number()?,
            "--help" | "-h" => return Ok(None),
            other => bail!("no argument `{other}` is known"),
        }
    }
    Ok(Some(parsed))
}
