//! `evenkeel apply`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Args;

use super::{
    change::{self, ChangeArgs},
    file,
};
use lb_api::client::Client;

/// Apply a configuration.
///
/// The change is planned first; if a guard refuses it, nothing is changed. Otherwise it is staged,
/// swapped in one step, read back from the kernel and compared. Then it bakes: health and shares
/// are watched, and it is rolled back if they get worse. No connection is lost.
///
/// Waits until the change is settled. Exits with 0 if it is kept, 3 if a guard refuses it, 4 if it
/// is rolled back. Ctrl-C ends the command, not the change.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  evenkeel plan new.toml && evenkeel apply new.toml
  evenkeel apply new.toml --why 'ticket 4711'
  evenkeel apply new.toml --confirm 5m     # then, from another terminal: evenkeel confirm
  evenkeel apply new.toml --bake 2m --force max_moved
  evenkeel rollback                        # undo it")]
pub(super) struct ApplyArgs {
    /// Configuration file (TOML); - for standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    pub(super) change: ChangeArgs,
}

pub(super) async fn run(args: ApplyArgs, client: Client) -> Result<ExitCode> {
    let file = file::read(&args.file)?;
    let done = change::apply(client, file.clone(), &args.change).await;
    done.map_err(|error| file::with_colors(error, &file))
}
