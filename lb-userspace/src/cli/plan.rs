//! `evenkeel plan`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Args;

use super::{
    argument, change,
    file::{self, explained},
    session::{Output, Session},
};
use lb_api::{Guard, client::Client};

/// Say what a configuration would change, and whether the guards let it.
///
/// Nothing is changed. For each VIP: who gets how much of the table before and after, what that is
/// in new flows a second at the peak of the last hour, how many slots move, and what the guards say.
///
/// Exits with 0 if there is nothing to do, with 2 if there are changes that may be applied, with 3
/// if a guard refuses.
#[derive(Args, Debug)]
#[command(after_help = "\
Reading the table:
  +  a member that comes    -  one that goes    ~  one that changes
  flows/s is what it would get; 1.2k/5.0k: 1,200 of the 5,000 that it can take (capacity)

Examples:
  evenkeel plan /etc/evenkeel/evenkeel.toml
  evenkeel plan new.toml --force max_moved
  evenkeel plan new.toml --json | jq '.vips[].members[] | {backend, after}'")]
pub(super) struct PlanArgs {
    /// The configuration file (TOML); - for standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Plan as if this guard did not matter. Can be given several times.
    #[arg(long, value_name = "GUARD", value_parser = argument::guards())]
    force: Vec<Guard>,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: &PlanArgs, client: Client) -> Result<ExitCode> {
    let file = file::read(&args.file)?;
    let session = Session::new(client, args.output);
    let done = change::plan(&session, file.clone(), &args.force).await;
    done.map_err(|error| explained(error, &file))
}
