//! `evenkeel confirm`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{
    session::{Output, Session},
    view,
};
use lb_api::{ConfirmRequest, RevisionNumber, client::Client};

/// Keep a change that was applied with --confirm.
///
/// Without this, it is rolled back when its time has passed.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  evenkeel confirm
  evenkeel confirm 12    # only if it is revision 12 that waits")]
pub(super) struct ConfirmArgs {
    /// The revision; without it, the one that waits.
    #[arg(value_name = "REV")]
    revision: Option<RevisionNumber>,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: &ConfirmArgs, client: Client) -> Result<ExitCode> {
    let session = Session::new(client, args.output);
    let request = ConfirmRequest {
        revision: args.revision,
    };
    let revision = session.client.confirm(&request).await?;
    session.print(&revision, |view| view::revisions::outcome(view, &revision))?;
    Ok(ExitCode::SUCCESS)
}
