//! `evenkeel plan`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Args;

use super::{
    argument, change, file,
    session::{Output, Session},
};
use lb_api::{Guard, client::Client};

/// Preview a change and run the guards.
///
/// Changes nothing. For each VIP, shows each member's share of the ring and its new flows per second
/// at the peak of the last hour, before and after; how many slots move; and the guards' results.
///
/// Exits with 0 if there are no changes, 2 if there are changes that may be applied, 3 if a guard
/// refuses.
#[derive(Args, Debug)]
#[command(after_help = "\
Reading the table:
  +  member added    -  member removed    ~  member changed
  flows/s is the predicted rate of new flows; 1.2k/5.0k: 1,200 of a capacity of 5,000

Examples:
  evenkeel plan /etc/evenkeel/evenkeel.toml
  evenkeel plan new.toml --force max_moved
  evenkeel plan new.toml --json | jq '.vips[].members[] | {backend, after}'")]
pub(super) struct PlanArgs {
    /// Configuration file (TOML); - for standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Override this guard. Can be repeated.
    #[arg(long, value_name = "GUARD", value_parser = argument::guards())]
    force: Vec<Guard>,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: PlanArgs, client: Client) -> Result<ExitCode> {
    let file = file::read(&args.file)?;
    let session = Session::new(client, args.output);
    let done = change::plan(&session, file.clone(), &args.force).await;
    done.map_err(|error| file::with_colors(error, &file))
}
