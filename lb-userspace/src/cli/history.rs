//! `evenkeel history`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{
    session::{Output, Session},
    view::revisions,
};
use lb_api::{RevisionNumber, client::Client};

/// List the revisions, or show one with its configuration.
///
/// Newest first: number, time, result, who requested it and how; below, the reasons of the change
/// and of its rollback.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  evenkeel history
  evenkeel history 7
  evenkeel config show 7   # its configuration, as a file")]
pub(super) struct HistoryArgs {
    /// Revision to show [default: list all].
    #[arg(value_name = "REV")]
    revision: Option<RevisionNumber>,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: HistoryArgs, client: Client) -> Result<ExitCode> {
    let session = Session::new(client, args.output);
    let Some(number) = args.revision else {
        let all = session.client.revisions().await?;
        return session.print(&all, |view| revisions::history(view, &all));
    };
    let revision = session.client.revision(number).await?;
    session.print(&revision, |view| {
        let details = revisions::details(view, &revision.info);
        format!("{details}\n{}\n", revision.text.trim_end())
    })
}
