//! `cargo xtask skew-sim`: the judge of the watch over shares.

use std::{path::Path, process::ExitCode, time::Instant};

use anyhow::Result;
use clap::{Parser, builder::PossibleValuesParser, builder::TypedValueParser as _};
use skew_sim::{
    bake, cost, deaf, faultless,
    power::{self, SLOW_VIPS, VIPS},
    report::{Report, Run},
    rules::RuleKind,
    scenario::Scenario,
};

/// Judges the watch over shares by simulated traffic: false alarms in traffic without a fault, and how soon faults are
/// found. Needs neither eBPF nor root.
#[derive(Parser)]
#[command(after_help = "Exit code: 0 if it ran to its end, 1 otherwise, 2 for wrong arguments.")]
struct Arguments {
    /// One JSON object on standard output in place of the tables
    #[arg(long)]
    json: bool,
    /// 140 VIP-days and 40 trials
    #[arg(long, conflicts_with_all = ["days", "trials"])]
    quick: bool,
    /// Write the result into docs/
    #[arg(long)]
    write: bool,
    /// VIP-days without a fault
    #[arg(long, default_value_t = FULL.0)]
    days: u32,
    /// Trials of each fault
    #[arg(long, default_value_t = FULL.1, value_parser = clap::value_parser!(u32).range(1..))]
    trials: u32,
    /// Of the random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this kind of traffic, and no faults; may be given more than once
    #[arg(long, value_parser = scenario(), conflicts_with = "write")]
    scenario: Vec<Scenario>,
}

/// VIP-days of all scenarios together, and trials of each fault.
const FULL: (u32, u32) = (10_005, 400);
const QUICK: (u32, u32) = (140, 40);

fn scenario() -> impl clap::builder::TypedValueParser<Value = Scenario> {
    let named = |name: &str| Scenario::ALL.into_iter().find(|one| one.name() == name);
    PossibleValuesParser::new(Scenario::ALL.map(Scenario::name))
        .map(move |name| named(&name).expect("it is one of the possible values"))
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("skew-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let begun = Instant::now();
    let tell = |what: &str| eprintln!("skew-sim: {what}");
    let (days, trials) = if arguments.quick {
        QUICK
    } else {
        (arguments.days, arguments.trials)
    };
    let (days, trials) = (f64::from(days), trials as usize);
    let asked = arguments.seed;
    let all = arguments.scenario.is_empty();
    let scenarios = if all {
        &Scenario::ALL[..]
    } else {
        &arguments.scenario
    };
    tell(&format!(
        "{days} VIP-days, {trials} trials of each fault, seed {asked}"
    ));
    // Each part counts on from the seed: neighbours must not have most of it in common.
    let seed = asked.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let faultless = faultless::run(scenarios, days / scenarios.len() as f64, seed, tell);
    tell(&format!("faultless traffic took {:.0?}", begun.elapsed()));
    let mut report = Report {
        run: Run {
            seed: asked,
            days,
            trials,
        },
        faultless,
        power: Vec::new(),
        bake: Vec::new(),
        deaf: Vec::new(),
        cost: Vec::new(),
    };
    if all {
        report.power = power::run(&power::cells(&VIPS), &RuleKind::ALL, trials, seed);
        let slow = power::cells(&SLOW_VIPS);
        report
            .power
            .extend(power::run(&slow, &RuleKind::ALL[..1], trials, seed));
        tell(&format!("with faults: {:.0?}", begun.elapsed()));
        report.bake = bake::run(trials * 25, seed);
        report.deaf = deaf::run(trials.div_ceil(4), seed);
        report.cost = cost::run();
        tell(&format!("all took {:.0?}", begun.elapsed()));
    }
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
