//! `evenkeel status`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{
    session::{Output, Session},
    view,
};
use lb_api::client::Client;

/// Show everything on one screen.
///
/// The node, its program and interfaces; the running revision; the VIPs with their members: state,
/// health, weight, the three shares, rates over the last ten seconds; alerts.
#[derive(Args, Debug)]
#[command(after_help = "\
Shares:
  intended   weight over the weights of all eligible members
  table      slots of the ring over all slots: what the data path goes by
  observed   new flows over those of the VIP, in the last minute

Examples:
  evenkeel status
  evenkeel status --json | jq '.vips[] | {name, panic}'
  watch evenkeel status         # or: evenkeel top")]
pub(super) struct StatusArgs {
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: &StatusArgs, client: Client) -> Result<ExitCode> {
    let session = Session::new(client, args.output);
    let status = session.client.status().await?;
    session.print(&status, |view| view::status::status(view, &status))?;
    Ok(ExitCode::SUCCESS)
}
