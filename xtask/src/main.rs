//! `cargo xtask`: everything that is done with this repository besides `cargo build`.
//!
//! What a subcommand says about its own work goes to stderr, and so does all output of what it calls
//! on the way; stdout belongs to the result (the JSON of `bench --json`, the last line of `test`).

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
    about = "Set-up, tests, lints, demo, benchmark and package of Evenkeel"
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
    /// Send real traffic through the balancer, in network namespaces. Needs root.
    Demo {
        /// Passed to the demo, such as `--json`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run the programs on other kernels (5.10, 6.1, 6.12), booted in QEMU. Needs root.
    Kernels,
    /// Build a Debian package: the binary, its unit, manual pages, completions, documentation.
    Package,
    /// Measure what a packet costs. Needs root.
    Bench {
        /// Passed to the benchmark, such as `--json`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Replay the outage: a bad change and three faults, and how soon they are undone or told. Needs root.
    Outage {
        /// Passed to it, such as `--json`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Judge the watch over shares by simulated traffic, with and without faults.
    SkewSim {
        /// Passed to the simulation: `--json`, `--quick`, `--write`, `--days N`, …
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // The chain of causes, but never a backtrace: what failed is a command, no line of ours.
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all is well; an error is for what could not even be tried.
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
        Task::Bench { arguments } => lab::run("bench", &arguments).map(|()| true),
        Task::Outage { arguments } => lab::run("outage", &arguments).map(|()| true),
        Task::SkewSim { arguments } => lab::simulate(&arguments).map(|()| true),
    }
}
