//! `evenkeel status`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{
    session::{Output, Session},
    view,
};
use lb_api::{Alert, client::Client};

/// Show the state of the node, its VIPs and alerts.
///
/// The node with its program and interfaces; the active revision; each VIP and its members with
/// state, health, weight, the three shares and rates over the last ten seconds; firing alerts. With
/// many backends, VIPs are one line each, followed by what is wrong; name a VIP for its backends.
#[derive(Args, Debug)]
#[command(after_help = "\
Shares:
  intended   weight over the weights of all eligible members
  table      slots owned over ring size: what the data path uses
  observed   new flows over the VIP's new flows, in the last minute

Examples:
  evenkeel status
  evenkeel status api           # one VIP with all its backends
  evenkeel status --problems    # exits with 1 if there are any
  evenkeel status --json | jq '.vips[] | {name, panic}'
  watch evenkeel status         # or: evenkeel top")]
pub(super) struct StatusArgs {
    /// Show this VIP only, and alerts about it.
    #[arg(value_name = "VIP")]
    vip: Option<String>,
    /// Show only what needs attention: interfaces, backends, VIPs, alerts. Exits with 1 if anything
    /// does.
    #[arg(long)]
    problems: bool,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: StatusArgs, client: Client) -> Result<ExitCode> {
    let session = Session::new(client, args.output);
    let mut status = session.client.status().await?;
    if let Some(name) = &args.vip {
        status.vips.retain(|vip| vip.name == *name);
        let is_about = |alert: &Alert| alert.vip.iter().chain(&alert.vips).any(|vip| vip == name);
        status.alerts.retain(is_about);
        if status.vips.is_empty() {
            // Its error names the VIPs that there are.
            status.vips.push(session.client.vip(name).await?);
        }
    }
    if !args.problems {
        let is_whole = args.vip.is_some();
        return session.print(&status, |view| {
            view::status::status(view, &status, is_whole)
        });
    }
    view::problems::retain(&mut status);
    session.print(&status, |view| view::problems::problems(view, &status))?;
    Ok(u8::from(view::problems::any(&status)).into())
}
