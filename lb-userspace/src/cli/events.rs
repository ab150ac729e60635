//! `evenkeel events`.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Args;
use jiff::{SignedDuration, Timestamp};
use tokio::time::sleep;

use super::{
    argument,
    change::complain,
    session::{Output, Session},
    view,
};
use lb_api::client::Client;

const LOOK: Duration = Duration::from_secs(1);

/// Show what happened: revisions, health, alerts, rollbacks, starts.
///
/// Oldest first, each with its number.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  evenkeel events
  evenkeel events --follow --since 10m
  evenkeel events --since 120 --json | jq -r .message")]
pub(super) struct EventsArgs {
    /// Go on, and show events as they happen.
    #[arg(long, short)]
    follow: bool,
    /// Only what happened after the event of this number, in the last 10m, or since 2026-11-23T02:00:00Z.
    #[arg(long, value_name = "WHEN", value_parser = Since::parse)]
    since: Option<Since>,
    /// At most so many, the newest; 1000 without it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: Option<u32>,
    /// Print each event as a JSON object in a line of its own.
    #[arg(long)]
    json: bool,
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    /// After an event.
    Event(u64),
    /// At a time.
    Time(Timestamp),
}

impl Since {
    fn parse(text: &str) -> Result<Self, String> {
        const HELP: &str = "the number of an event, a length of time such as 10m or 1h30m, or a time such as \
                            2026-11-23T02:00:00Z";
        if let Ok(id) = text.parse() {
            return Ok(Self::Event(id));
        }
        if let Ok(seconds) = argument::seconds(text) {
            let ago = SignedDuration::from_secs(seconds.into());
            let time = Timestamp::now().checked_sub(ago);
            return time.map(Self::Time).map_err(|_| HELP.to_owned());
        }
        text.parse().map(Self::Time).map_err(|_| HELP.to_owned())
    }
}

pub(super) async fn run(args: &EventsArgs, client: Client) -> Result<ExitCode> {
    let session = Session::new(client, Output { json: args.json });
    let (first, from) = match args.since {
        Some(Since::Event(id)) => (Some(id), Timestamp::MIN),
        Some(Since::Time(time)) => (None, time),
        None => (None, Timestamp::MIN),
    };
    let mut since = first;
    let mut is_away = false;
    loop {
        // Those that come later are all of interest.
        let limit = args.limit.filter(|_| since == first);
        match session.client.events(since, limit).await {
            Ok(events) => {
                is_away = false;
                for event in events {
                    since = since.max(Some(event.id));
                    if event.at < from {
                        continue;
                    }
                    session.print(&event, |view| view::events::event(view, &event))?;
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
        if !args.follow || session.is_unheard() {
            return Ok(ExitCode::SUCCESS);
        }
        sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_is_an_event_a_length_of_time_or_a_time() {
        assert_eq!(Since::parse("120"), Ok(Since::Event(120)));
        let time = "2026-11-23T02:00:00Z";
        assert_eq!(Since::parse(time), Ok(Since::Time(time.parse().unwrap())));
        let hour = SignedDuration::from_hours(1);
        let Ok(Since::Time(ago)) = Since::parse("1h") else {
            panic!("an hour is a length of time");
        };
        assert!(Timestamp::now().duration_since(ago) >= hour);
        for wrong in ["yesterday", "-5", "1 parsec", ""] {
            assert!(Since::parse(wrong).is_err(), "{wrong}");
        }
    }
}
