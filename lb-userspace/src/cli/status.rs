//! `evenkeel status`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{
    session::{Output, Session},
    view,
};
use lb_api::client::Client;

/// Show the state of the node, its VIPs and alerts.
///
/// The node with its program and interfaces; the active revision; each VIP and its members with
/// state, health, weight, the three shares and rates over the last ten seconds; firing alerts.
#[derive(Args, Debug)]
#[command(after_help = "\
Shares:
  intended   weight over the weights of all eligible members
  table      slots owned over ring size: what the data path uses
  observed   new flows over the VIP's new flows, in the last minute

Examples:
  evenkeel status
  evenkeel status --json | jq '.vips[] | {name, panic}'
  watch evenkeel status         # or: evenkeel top")]
pub(super) struct StatusArgs {
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: StatusArgs, client: Client) -> Result<ExitCode> {
    let session = Session::new(client, args.output);
    let status = session.client.status().await?;
    session.print(&status, |view| view::status::status(view, &status))
}
