//! evenkeel

use std::process::ExitCode;

use clap::Parser as _;

mod cli;

#[derive(clap::Parser)]
#[command(version)]
enum Command {
    Decap(cli::decap::DecapArgs),
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let result = match Command::parse() {
        Command::Decap(arguments) => cli::decap::run(&arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("evenkeel: {error:#}");
        ExitCode::FAILURE
    })
}
