//! A server of `cargo xtask outage spike`: it exits when more requests wait than fit into its memory.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use lab::outage::spike::server::{Limits, serve};

/// Serve HTTP with a fixed number of workers, and exit when too many requests wait for one
#[derive(Parser)]
#[command(name = "overrun-server")]
struct Arguments {
    /// TCP port
    #[arg(long)]
    port: u16,
    /// Requests that are served at once
    #[arg(long, value_name = "N")]
    workers: usize,
    /// Time that a worker needs for a request, in milliseconds
    #[arg(long, value_name = "MS")]
    service: u64,
    /// Requests that may wait for a worker
    #[arg(long, value_name = "N")]
    waiting: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let limits = Limits {
        workers: arguments.workers,
        service: Duration::from_millis(arguments.service),
        waiting: arguments.waiting,
    };
    match serve(arguments.port, limits) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("overrun-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}
