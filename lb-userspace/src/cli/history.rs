//! `evenkeel history`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{
    session::{Output, Session},
    view,
};
use lb_api::{RevisionNumber, client::Client};

/// List the revisions, or show one with its configuration.
///
/// Newest first: number, when, what became of it, who asked for it, and how; below, why it was made and
/// why it was rolled back.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  evenkeel history
  evenkeel history 7
  evenkeel history 7 --json | jq -r .text > revision-7.toml")]
pub(super) struct HistoryArgs {
    /// The revision to show; without it, all are listed.
    #[arg(value_name = "REV")]
    revision: Option<RevisionNumber>,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: &HistoryArgs, client: Client) -> Result<ExitCode> {
    let session = Session::new(client, args.output);
    match args.revision {
        Some(number) => {
            let revision = session.client.revision(number).await?;
            session.print(&revision, |view| {
                let details = view::revisions::details(view, &revision.info);
                format!("{details}\n{}\n", revision.text.trim_end())
            })?;
        }
        None => {
            let revisions = session.client.revisions().await?;
            session.print(&revisions, |view| {
                view::revisions::history(view, &revisions)
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
