//! `evenkeel events`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use jiff::{SignedDuration, Timestamp};

use super::{
    argument,
    session::{Output, Session},
    view,
};
use lb_api::client::Client;

/// Show the event log: revisions, health, alerts, rollbacks, starts.
///
/// Oldest first, each event with its number; with --json, one JSON object per line.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  evenkeel events
  evenkeel events --follow --since 10m
  evenkeel events --since 120 --json | jq -r .message")]
pub(super) struct EventsArgs {
    /// Follow the log: print new events as they happen.
    #[arg(long, short)]
    follow: bool,
    /// Start after the event of this number, this long ago (10m), or at this time
    /// (2026-11-23T02:00:00Z).
    #[arg(long, value_name = "START", value_parser = Since::parse)]
    since: Option<Since>,
    /// Print at most this many events, the newest [default: 1000].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: Option<u32>,
    #[command(flatten)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    Event(u64),
    Time(Timestamp),
}

impl Since {
    fn parse(text: &str) -> Result<Self, String> {
        const HELP: &str = "expected an event number, a duration such as 10m, or a time such as \
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

pub(super) async fn run(args: EventsArgs, client: Client) -> Result<ExitCode> {
    let session = Session::new(client, args.output);
    let (first, from) = match args.since {
        Some(Since::Event(id)) => (Some(id), Timestamp::MIN),
        Some(Since::Time(time)) => (None, time),
        None => (None, Timestamp::MIN),
    };
    let mut since = first;
    let step = async || {
        // The limit applies to the first request only.
        let limit = args.limit.filter(|_| since == first);
        for event in session.client.events(since, limit).await? {
            since = since.max(Some(event.id));
            if event.at >= from {
                session.print(&event, |view| view::events::event(view, &event))?;
            }
        }
        Ok(())
    };
    session.repeat(args.follow, step).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_an_event_a_duration_or_a_time() {
        assert_eq!(Since::parse("120"), Ok(Since::Event(120)));
        let time = "2026-11-23T02:00:00Z";
        assert_eq!(Since::parse(time), Ok(Since::Time(time.parse().unwrap())));
        let hour = SignedDuration::from_hours(1);
        let Ok(Since::Time(ago)) = Since::parse("1h") else {
            panic!("an hour is a duration");
        };
        assert!(Timestamp::now().duration_since(ago) >= hour);
        for wrong in ["yesterday", "-5", "1 parsec", ""] {
            assert!(Since::parse(wrong).is_err(), "{wrong}");
        }
    }
}
