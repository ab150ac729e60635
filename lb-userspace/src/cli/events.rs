//! `evenkeel events`.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Args;
use tokio::time::sleep;

use super::{
    change::complain,
    session::{Output, Session},
    view,
};
use crate::client::Client;

const LOOK: Duration = Duration::from_secs(1);

/// Show what happened: revisions, health, alerts, rollbacks, starts.
///
/// Oldest first, with a number that --since takes.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  evenkeel events
  evenkeel events --follow
  evenkeel events --since 120 --json | jq -r .message")]
pub(super) struct EventsArgs {
    /// Go on, and show events as they happen.
    #[arg(long, short)]
    follow: bool,
    /// Only what happened after the event of this number.
    #[arg(long, value_name = "ID")]
    since: Option<u64>,
    /// At most so many, the newest; 1000 without it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: Option<u32>,
    /// Print each event as a JSON object in a line of its own.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: &EventsArgs, client: Client) -> Result<ExitCode> {
    let session = Session::new(client, Output { json: args.json });
    let mut since = args.since;
    let mut is_away = false;
    loop {
        // Those that come later are all of interest.
        let limit = args.limit.filter(|_| since == args.since);
        match session.client.events(since, limit).await {
            Ok(events) => {
                is_away = false;
                for event in events {
                    session.print(&event, |view| view::events::event(view, &event))?;
                    since = since.max(Some(event.id));
                }
            }
            Err(error) if args.follow && error.is_passing() => {
                if !is_away {
                    complain(&format!("evenkeel: {error}"));
                }
                is_away = true;
            }
            Err(error) => return Err(error.into()),
        }
        if !args.follow {
            return Ok(ExitCode::SUCCESS);
        }
        sleep(LOOK).await;
    }
}
