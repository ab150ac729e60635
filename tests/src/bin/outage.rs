//! `cargo xtask outage`: the outage that this balancer is made against, replayed.

use std::path::Path;
use std::process::ExitCode;

use lab::outage::{Fault, Report, drawing, run};

const USAGE: &str = "\
Usage: outage [--json] [--only RUN]... [--no-picture]

Four nginx, 200 new connections a second, a real Alertmanager; then a revision that by mistake gives one backend nearly all
of the table, and three causes that no configuration shows. Says how soon each is refused, undone or told, and what
was named as its cause. Needs root; takes about five minutes.

  --json        one JSON object on standard output in place of the table
  --only RUN    only this run (guard, \"forced, bake\", \"forced, no bake\", \"black hole\", \"one NAT\", elephant)
  --no-picture  don't draw docs/outage.svg anew

Exit code: 0 if all was in time and named right, 1 otherwise, 2 for wrong arguments.";

fn main() -> ExitCode {
    let (mut json, mut picture, mut only) = (false, true, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => json = true,
            "--no-picture" => picture = false,
            "--only" => {
                let name = arguments.next().unwrap_or_default();
                match Fault::ALL.iter().find(|fault| fault.name() == name) {
                    Some(fault) => only.push(*fault),
                    None => return wrong(&format!("no run `{name}` is known")),
                }
            }
            "--help" | "-h" => {
                println!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            other => return wrong(&format!("no argument `{other}` is known")),
        }
    }
    let faults = if only.is_empty() {
        &Fault::ALL[..]
    } else {
        &only
    };
    match run(faults) {
        Ok(report) => finish(&report, json, picture && only.is_empty()),
        Err(error) => {
            eprintln!("outage: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn wrong(what: &str) -> ExitCode {
    eprintln!("outage: {what}\n\n{USAGE}");
    ExitCode::from(2)
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
