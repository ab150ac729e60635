//! `cargo xtask outage`: the outage that this balancer is made against, replayed.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use lab::outage::{Fault, Report, drawing, run};

/// Four nginx, 200 new connections a second, a real Alertmanager; then a revision that by mistake gives one backend nearly all
/// of the table, and three causes that no configuration shows.
///
/// Says how soon each is refused, undone or told, and what was named as its cause. Needs root; takes about five minutes.
#[derive(Parser)]
#[command(
    name = "outage",
    after_help = "Exit code: 0 if all was in time and named right, 1 otherwise, 2 for wrong arguments."
)]
struct Arguments {
    /// One JSON object on standard output in place of the table
    #[arg(long)]
    json: bool,
    /// Only this run; may be given more than once
    #[arg(long, value_name = "RUN", value_parser = fault())]
    only: Vec<Fault>,
    /// Don't draw docs/outage.svg anew
    #[arg(long)]
    no_picture: bool,
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
    let picture = !arguments.no_picture && arguments.only.is_empty();
    match run(faults) {
        Ok(report) => finish(&report, arguments.json, picture),
        Err(error) => {
            eprintln!("outage: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn finish(report: &Report, json: bool, picture: bool) -> ExitCode {
    if json {
        println!("{}", report.to_json());
    } else {
        println!("{}", report.to_table());
    }
    let mut problems = report.problems();
    if picture {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/outage.svg");
        if let Err(error) = std::fs::write(&file, drawing::draw(report)) {
            problems.push(format!("the picture {}: {error}", file.display()));
        }
    }
    if problems.is_empty() {
        eprintln!("outage: refused, undone or told in time, and every cause named right");
        return ExitCode::SUCCESS;
    }
    for problem in problems {
        eprintln!("outage: {problem}");
    }
    ExitCode::FAILURE
}
