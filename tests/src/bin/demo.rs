//! `cargo xtask demo`: real traffic through the balancer, and a table of where it went.

use std::process::ExitCode;

use lab::demo::{Report, Size};

const USAGE: &str = "\
Usage: demo [--json] [--quick]

Sends real HTTP requests and long-lived connections through the balancer in every forwarding mode, over
IPv4 and IPv6, while a backend is added and another one drained. Needs root.

  --json   one JSON object on standard output in place of the table
  --quick  a tenth of the requests

Exit code: 0 if nothing failed and nothing broke, 1 otherwise, 2 for wrong arguments.";

fn main() -> ExitCode {
    let (mut json, mut size) = (false, Size::full());
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--json" => json = true,
            "--quick" => size = Size::quick(),
            "--help" | "-h" => {
                println!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            other => {
                eprintln!("demo: no argument `{other}` is known\n\n{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    match lab::demo::run(size) {
        Ok(report) => finish(&report, json),
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn finish(report: &Report, json: bool) -> ExitCode {
    if json {
        println!("{}", report.to_json());
    } else {
        println!("{}", report.to_table());
    }
    let problems = report.problems();
    if problems.is_empty() {
        eprintln!("demo: no request failed, no connection broke, no packet was damaged");
        return ExitCode::SUCCESS;
    }
    for problem in problems {
        eprintln!("demo: {problem}");
    }
    ExitCode::FAILURE
}
