//! `cargo xtask`: everything that is done with this repository besides `cargo build`.
//!
//! What a subcommand says about its own work goes to stderr, and so does all output of what it calls
//! on the way; stdout belongs to the result (the JSON of `bench --json`, the last line of `test`).

mod apt;
mod lab;
mod linker;
mod lint;
mod process;
mod setup;
mod suite;
mod toolchain;
mod versions;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Set-up, tests, lints, demo and benchmark of Evenkeel"
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Get this machine ready: a rustc that can build for BPF, bpf-linker, test tools.
    ///
    /// Takes what is already there and installs only what is missing (that needs root and a Debian).
    Setup,
    /// Run the tests, and count them.
    Test(suite::Options),
    /// Check format and lints of every crate, the eBPF programs on their own target.
    Lint,
    /// Lint, then test: what has to be green before a change is merged.
    Ci,
    /// Send real traffic through the balancer, in network namespaces. Needs root.
    Demo {
        /// Passed to the demo, such as `--json`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Measure what a packet costs. Needs root.
    Bench {
        /// Passed to the benchmark, such as `--json`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let Err(error) = run(Arguments::parse().task) else {
        return ExitCode::SUCCESS;
    };
    // The chain of causes, but never a backtrace: what failed is a command, not a line of ours.
    eprintln!("xtask: {error:#}");
    ExitCode::FAILURE
}

fn run(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Setup => setup::run().map(drop),
        Task::Test(options) => suite::run(&options),
        Task::Lint => lint::run(),
        Task::Ci => lint::run().and_then(|()| suite::run(&suite::Options::default())),
        Task::Demo { arguments } => lab::run("demo", &arguments),
        Task::Bench { arguments } => lab::run("bench", &arguments),
    }
}
