//! `evenkeel rollback`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{
    change,
    session::{Output, Session},
};
use lb_api::{RevisionNumber, RevisionState, RollbackRequest, client::Client};

/// Go back to the configuration of an earlier revision.
///
/// Makes a new revision with the old text: going back can be undone too. What guards say is shown,
/// and never refuses. A change that bakes or waits to be confirmed is ended by this.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  evenkeel rollback        # undo the last change
  evenkeel rollback 7      # whatever was in force then
  evenkeel diff 7          # what that would change, as text")]
pub(super) struct RollbackArgs {
    /// The revision to go back to; without it, the one before the last change.
    #[arg(value_name = "REV")]
    revision: Option<RevisionNumber>,
    /// Why, for the history.
    #[arg(long, value_name = "TEXT")]
    why: Option<String>,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: &RollbackArgs, client: Client) -> Result<ExitCode> {
    let session = Session::new(client, args.output);
    let request = RollbackRequest {
        revision: args.revision,
        why: args.why.clone(),
    };
    let applied = session.client.rollback(&request).await?;
    // The answer is the change that baked, if this ended one: that it is undone is what was wanted.
    let undone = applied
        .revision
        .as_ref()
        .is_some_and(|revision| matches!(revision.state, RevisionState::RolledBack { .. }));
    let done = change::finish(&session, applied, false).await?;
    Ok(if undone { ExitCode::SUCCESS } else { done })
}
