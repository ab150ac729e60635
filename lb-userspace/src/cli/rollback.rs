//! `evenkeel rollback`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{
    change,
    session::{Output, Session},
};
use lb_api::{RevisionNumber, RevisionState, RollbackRequest, client::Client};

/// Restore the configuration of an earlier revision.
///
/// Creates a new revision with the old text, so a rollback can be undone too. Guards are reported
/// but never refuse. A change that is baking or awaits confirmation is ended.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  evenkeel rollback        # undo the last change
  evenkeel rollback 7      # restore revision 7
  evenkeel diff 7          # what changed since revision 7")]
pub(super) struct RollbackArgs {
    /// Revision to restore [default: the one before the last change].
    #[arg(value_name = "REV")]
    revision: Option<RevisionNumber>,
    /// Reason for the rollback, for the history.
    #[arg(long, value_name = "TEXT")]
    why: Option<String>,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: RollbackArgs, client: Client) -> Result<ExitCode> {
    let session = Session::new(client, args.output);
    let request = RollbackRequest {
        revision: args.revision,
        why: args.why,
    };
    let applied = session.client.rollback(&request).await?;
    // If the rollback ended a bake, the response is the revision that was rolled back: a success.
    let ended_bake = applied
        .revision
        .as_ref()
        .is_some_and(|revision| matches!(revision.state, RevisionState::RolledBack { .. }));
    let code = change::finish(&session, applied, false).await?;
    Ok(if ended_bake { ExitCode::SUCCESS } else { code })
}
