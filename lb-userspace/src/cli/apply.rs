//! `evenkeel apply`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Args;

use super::{
    change::{self, ChangeArgs},
    file::{self, explained},
};
use lb_api::client::Client;

/// Put a configuration into force.
///
/// Plans it first, and changes nothing if a guard refuses. What may go ahead is staged, swapped in
/// one step, read back from the kernel and compared. Then the change bakes: health and shares are
/// watched, and it is undone by itself if they get worse. No connection is lost by any of this.
///
/// Waits until the change is settled and exits with 0 if it stays, with 3 if a guard refused it, with
/// 4 if it was undone. Ctrl-C ends the waiting and not the change.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  evenkeel plan new.toml && evenkeel apply new.toml
  evenkeel apply new.toml --why 'ticket 4711'
  evenkeel apply new.toml --confirm 5m     # then, from another terminal: evenkeel confirm
  evenkeel apply new.toml --bake 2m --force max_moved
  evenkeel rollback                        # undo it")]
pub(super) struct ApplyArgs {
    /// The configuration file (TOML); - for standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    pub(super) change: ChangeArgs,
}

pub(super) async fn run(args: &ApplyArgs, client: Client) -> Result<ExitCode> {
    let file = file::read(&args.file)?;
    let done = change::make(client, file.clone(), &args.change).await;
    done.map_err(|error| explained(error, &file))
}
