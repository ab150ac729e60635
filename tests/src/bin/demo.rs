//! `cargo xtask demo`: sends real traffic through the balancer and prints which backends received it.

use std::process::ExitCode;

use clap::Parser;
use lab::demo::{Report, Size};

/// Send HTTP requests and long-lived connections through the balancer in every forwarding mode, over IPv4 and IPv6,
/// while a backend is added and another one drained (needs root)
#[derive(Parser)]
#[command(
    name = "demo",
    after_help = "Exit code: 0 if no request failed and no connection broke, 1 otherwise, 2 for invalid arguments."
)]
struct Arguments {
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
    /// Make a tenth of the requests
    #[arg(long)]
    quick: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let size = if arguments.quick {
        Size::quick()
    } else {
        Size::full()
    };
    match lab::demo::run(size) {
        Ok(report) => finish(&report, arguments.json),
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
