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
/// Without confirmation, the change is rolled back at its deadline.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  evenkeel confirm
  evenkeel confirm 12    # only if revision 12 awaits confirmation")]
pub(super) struct ConfirmArgs {
    /// Revision to confirm [default: the one that awaits confirmation].
    #[arg(value_name = "REV")]
    revision: Option<RevisionNumber>,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: ConfirmArgs, client: Client) -> Result<ExitCode> {
    let session = Session::new(client, args.output);
    let request = ConfirmRequest {
        revision: args.revision,
    };
    let revision = session.client.confirm(&request).await?;
    session.print(&revision, |view| view::revisions::outcome(view, &revision))
}
