//! `cargo xtask skew-sim`: measures the share monitor.

use std::{path::Path, process::ExitCode, time::Instant};

use anyhow::Result;
use clap::{Parser, builder::PossibleValuesParser, builder::TypedValueParser as _};
use skew_sim::{
    bake, black_holes, cost, faultless,
    power::{self, SLOW_VIPS, VIPS},
    report::{Report, Run},
    rules::RuleKind,
    scenario::Scenario,
};

/// Measure the share monitor with simulated traffic: false alarms without a fault, and time to
/// detection of faults. Needs neither eBPF nor root.
#[derive(Parser)]
#[command(after_help = "Exit codes: 0 success, 1 error, 2 usage error.")]
struct Arguments {
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
    /// Run 140 VIP-days and 40 trials
    #[arg(long, conflicts_with_all = ["days", "trials"])]
    quick: bool,
    /// Write the result to docs/
    #[arg(long)]
    write: bool,
    /// VIP-days without a fault
    #[arg(long, default_value_t = FULL.0)]
    days: u32,
    /// Trials of each fault
    #[arg(long, default_value_t = FULL.1, value_parser = clap::value_parser!(u32).range(1..))]
    trials: u32,
    /// Seed of the random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Simulate only this kind of traffic, without faults; may be repeated
    #[arg(long, value_parser = scenario(), conflicts_with = "write")]
    scenario: Vec<Scenario>,
}

/// VIP-days of all scenarios together, and trials of each fault.
const FULL: (u32, u32) = (10_005, 400);
const QUICK: (u32, u32) = (140, 40);

fn scenario() -> impl clap::builder::TypedValueParser<Value = Scenario> {
    let named = |name: &str| Scenario::ALL.into_iter().find(|one| one.name() == name);
    PossibleValuesParser::new(Scenario::ALL.map(Scenario::name))
        .map(move |name| named(&name).expect("clap has checked the value"))
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
    let log = |what: &str| eprintln!("skew-sim: {what}");
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
    log(&format!(
        "{days} VIP-days, {trials} trials of each fault, seed {asked}"
    ));
    // Each part increments the seed: mixing keeps runs with consecutive seeds independent.
    let seed = asked.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let faultless = faultless::run(scenarios, days / scenarios.len() as f64, seed, log);
    log(&format!("faultless traffic took {:.0?}", begun.elapsed()));
    let mut report = Report {
        run: Run {
            seed: asked,
            days,
            trials,
        },
        faultless,
        power: Vec::new(),
        bake: Vec::new(),
        black_holes: Vec::new(),
        cost: Vec::new(),
    };
    if all {
        report.power = power::run(&power::cases(&VIPS), &RuleKind::ALL, trials, seed);
        let slow = power::cases(&SLOW_VIPS);
        report
            .power
            .extend(power::run(&slow, &RuleKind::ALL[..1], trials, seed));
        log(&format!("traffic with faults took {:.0?}", begun.elapsed()));
        report.bake = bake::run(trials * 25, seed);
        report.black_holes = black_holes::run(trials.div_ceil(4), seed);
        report.cost = cost::run();
        log(&format!("total {:.0?}", begun.elapsed()));
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
