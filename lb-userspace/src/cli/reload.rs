//! `evenkeel reload`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{
    change,
    session::{Output, Session},
    view::revisions,
};
use lb_api::{FileState, ReloadRequest, Reloaded, client::Client};

/// Apply the configuration file of the controller.
///
/// The file that `evenkeel run` was started with is applied like any other change if it was edited
/// since it was applied last: it is planned, guards may refuse it, and it bakes. If it was not edited,
/// changes made by commands stay active, and files that the configuration names (such as `ca_file`)
/// are read again. While another change bakes or awaits confirmation, the reload waits for its end.
///
/// Exits with 0 if the file is kept or there are no changes, 1 if it is invalid, 3 if a guard refuses
/// it, 4 if it is rolled back.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  evenkeel reload
  evenkeel diff --file     # what an edited file would change
  evenkeel reload --no-wait && evenkeel history")]
pub(super) struct ReloadArgs {
    /// Return once the file is active; do not wait for bake and confirmation. If another change is in
    /// progress, return at once: the controller reloads after its end.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: ReloadArgs, client: Client) -> Result<ExitCode> {
    let session = Session::new(client, args.output);
    let request = ReloadRequest { wait: args.no_wait };
    let reloaded = change::when_settled(!args.no_wait, || session.client.reload(&request)).await;
    match reloaded {
        Ok(Reloaded {
            applied: Some(applied),
            file,
            ..
        }) => {
            if applied.revision.is_none() && file.state == FileState::Overridden {
                session.print_text(&revisions::overridden(&file))?;
                session.print_json(&applied)?;
                return Ok(ExitCode::SUCCESS);
            }
            change::finish(&session, applied, args.no_wait).await
        }
        Ok(waiting) => session.print(&waiting, |_| {
            let change = waiting.waits_for.as_ref().map(revisions::progress);
            let change = change.unwrap_or_default();
            format!("the file is applied after the change in progress: {change}\n")
        }),
        Err(error) => change::refused(&session, error),
    }
}
