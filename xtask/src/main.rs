//! `cargo xtask`: the tasks of this repository besides `cargo build`.
//!
//! Progress and the output of called programs go to stderr. Only results go to stdout: the JSON of
//! `bench --json`, the output and the last line of `test`.

mod apt;
mod kernels;
mod lab;
mod linker;
mod lint;
mod package;
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
    about = "Set up, test, lint, demonstrate, benchmark and package Evenkeel"
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building and testing need: a rustc for BPF, bpf-linker, test tools
    ///
    /// Uses what is already there and installs only what is missing (needs root and Debian).
    Setup,
    /// Run the tests and count them
    Test(suite::Options),
    /// Check formatting and lints of every crate, the eBPF programs on their own target
    Lint,
    /// Send real traffic through the balancer in network namespaces, or through a fleet with `--fleet` (needs root)
    Demo {
        /// Arguments for the demo, such as `--fleet` and `--json`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run the eBPF programs on other kernels (5.10, 6.1, 6.12) in QEMU (needs root)
    Kernels,
    /// Build a Debian package: binary, unit, manual pages, completions, documentation
    Package,
    /// Measure the cost per packet (needs root)
    Bench {
        /// Compare with this commit, whose benchmark is built and run in turns with the current one
        #[arg(long, value_name = "REV")]
        against: Option<String>,
        /// Arguments for the benchmark, such as `--json`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Replay an outage: measure how fast a bad change and three faults are found (needs root)
    Outage {
        /// Arguments for the outage, such as `--json`; `spike` compares with other balancers
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Evaluate the share monitor on simulated traffic, with and without faults
    SkewSim {
        /// Arguments for the simulation: `--json`, `--quick`, `--write`, `--days N`, …
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // With causes but without a backtrace: what failed is usually a command.
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether the task succeeded. An error means that it could not be attempted.
fn run(task: Task) -> anyhow::Result<bool> {
    match task {
        Task::Setup => setup::run().map(|_| true),
        Task::Test(options) => {
            let outcome = suite::run(&options)?;
            outcome.print();
            Ok(outcome.success)
        }
        Task::Lint => lint::run(),
        Task::Demo { arguments } => lab::run("demo", &arguments).map(|()| true),
        Task::Kernels => kernels::run(),
        Task::Package => package::run().map(|()| true),
        Task::Bench { against, arguments } => match against {
            Some(commit) => lab::bench_against(&commit, &arguments),
            None => lab::run("bench", &arguments),
        }
        .map(|()| true),
        Task::Outage { arguments } => lab::run("outage", &arguments).map(|()| true),
        Task::SkewSim { arguments } => lab::simulate(&arguments).map(|()| true),
    }
}
