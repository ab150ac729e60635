//! `cargo xtask demo`: sends real traffic through the balancer and prints which backends received it.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use lab::demo::fleet::{self, site::Kind};
use lab::demo::{Report, Size};

/// Send HTTP requests and long-lived connections through the balancer in every forwarding mode, over IPv4 and IPv6,
/// while a backend is added and another one drained (needs root)
///
/// With --fleet: through three nodes behind a router, with etcd, while a change with a mistake is rolled out, and while nodes are
/// killed, drained and rebooted. Takes about one and a half minutes.
#[derive(Parser)]
#[command(
    name = "demo",
    after_help = "Exit code: 0 if no request failed, no connection broke and, with --fleet, all happened as it should; 1 otherwise; \
                  2 for invalid arguments."
)]
struct Arguments {
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
    /// Make a tenth of the requests
    #[arg(long, conflicts_with = "fleet")]
    quick: bool,
    /// Show a fleet: three nodes behind a router
    #[arg(long)]
    fleet: bool,
    /// The routing daemon of the router
    #[arg(long, value_enum, default_value = "bird", requires = "fleet")]
    router: Router,
}

#[derive(Clone, Copy, ValueEnum)]
enum Router {
    Bird,
    Frr,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        // What was waited for when the signal came is of no interest.
        Err(_) if lab::interrupt::check().is_err() => {
            eprintln!("demo: interrupted; nothing remains");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    lab::interrupt::catch()?;
    if arguments.fleet {
        let kind = match arguments.router {
            Router::Bird => Kind::Bird,
            Router::Frr => Kind::Frr,
        };
        let report = fleet::run(kind, arguments.json)?;
        if arguments.json {
            println!("{}", report.to_json());
        }
        return Ok(end(&report.problems(), &report.summary()));
    }
    let size = if arguments.quick {
        Size::quick()
    } else {
        Size::full()
    };
    let report = lab::demo::run(size)?;
    print(&report, arguments.json);
    let well = "no request failed, no connection broke, no packet was damaged";
    Ok(end(&report.problems(), well))
}

fn print(report: &Report, json: bool) {
    if json {
        println!("{}", report.to_json());
    } else {
        println!("{}", report.to_table());
    }
}

/// Prints the problems, or `well`.
fn end(problems: &[String], well: &str) -> ExitCode {
    if problems.is_empty() {
        eprintln!("demo: {well}");
        return ExitCode::SUCCESS;
    }
    for problem in problems {
        eprintln!("demo: {problem}");
    }
    ExitCode::FAILURE
}
