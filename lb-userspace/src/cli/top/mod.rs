//! `evenkeel top`: the live status.
//!
//! Polls the controller once per second; [`Model`] keeps the history, [`draw`] renders it. While the
//! controller is unavailable (restart, upgrade), the last status stays on screen with a gap in the
//! graphs. The terminal is restored on every exit: key, signal, error or panic.

mod draw;
mod model;
#[cfg(test)]
mod tests;

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use jiff::Timestamp;
use model::{After, Model};
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event as Input, KeyEventKind},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::{MissedTickBehavior, interval},
};

use super::{
    stream::{self, print_error},
    view::paint::Paint,
};
use lb_api::{
    Event, Status,
    client::{Client, ClientError},
};

const INTERVAL: Duration = Duration::from_secs(1);
/// Timeout after which the controller counts as unavailable.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum number of events read per second.
const MAX_EVENTS: u32 = 100;

/// Show the live status with a graph of new flows per backend.
///
/// Marks above the graphs: ▼ a revision was applied, ! an alert fired, + health changed. Keeps running
/// while the controller restarts.
#[derive(Args, Debug)]
#[command(after_help = "\
Keys:
  q, Esc          quit
  ↑ ↓ (k j)       select a VIP
  PgUp PgDn       scroll its members
  s               sort by the next column
  c n f p t o d   sort by configuration, name, new flows, packets, table share, observed share, deviation
  r               reverse the order")]
pub(super) struct TopArgs {
    /// Print the status once per second as one line of JSON instead.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: TopArgs, client: Client) -> Result<ExitCode> {
    let client = client.with_timeout(TIMEOUT);
    if args.json {
        return stream(&client).await;
    }
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        bail!("top needs a terminal; use `evenkeel status`, or --json");
    }
    // ratatui's panic hook restores the terminal too.
    let mut terminal = ratatui::try_init().context("cannot initialise the terminal")?;
    let restore = Restore;
    let done = show(&mut terminal, client).await;
    drop(restore);
    done.map(|()| ExitCode::SUCCESS)
}

/// Restores the terminal when dropped.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

async fn stream(client: &Client) -> Result<ExitCode> {
    let mut ticks = ticks();
    let mut out = stream::stdout();
    while !out.is_closed() {
        ticks.tick().await;
        match client.status().await {
            Ok(status) => {
                writeln!(out, "{}", serde_json::to_string(&status)?)?;
                out.flush()?;
            }
            Err(error) if error.is_transient() => {
                print_error(&format!("evenkeel: {error}"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

async fn show(terminal: &mut DefaultTerminal, client: Client) -> Result<()> {
    let listen = |kind| signal(kind).context("cannot handle signals");
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hang_up = listen(SignalKind::hangup())?;
    let mut updates = poll(client);
    let mut inputs = read_keys();
    let paint = Paint::when(true);
    let mut model = Model::default();
    loop {
        terminal
            .draw(|frame| draw::draw(frame, &model, paint))
            .context("cannot draw")?;
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hang_up.recv() => return Ok(()),
            Some(update) = updates.recv() => match update {
                Ok((status, events)) => model.update(status, &events),
                Err(error) if error.is_transient() => model.set_unavailable(Timestamp::now(), error.to_string()),
                Err(error) => return Err(error.into()),
            },
            input = inputs.recv() => match input {
                Some(Input::Key(key)) if key.kind != KeyEventKind::Release => {
                    if model.press(key.code, key.modifiers) == After::Quit {
                        return Ok(());
                    }
                }
                // Resized: redraw.
                Some(_) => {}
                // The terminal is gone.
                None => return Ok(()),
            },
        }
    }
}

type Update = Result<(Status, Vec<Event>), ClientError>;

/// Polls the controller in a task of its own.
fn poll(client: Client) -> UnboundedReceiver<Update> {
    let (sender, receiver) = unbounded_channel();
    tokio::spawn(async move {
        let mut ticks = ticks();
        let mut last_event = None;
        loop {
            ticks.tick().await;
            let update = fetch(&client, &mut last_event).await;
            if sender.send(update).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Fetches the status and the events after `last_event`.
async fn fetch(client: &Client, last_event: &mut Option<u64>) -> Update {
    let status = client.status().await?;
    let limit = if last_event.is_some() { MAX_EVENTS } else { 1 };
    // The status is shown even if the events cannot be read.
    let mut events = client
        .events(*last_event, Some(limit))
        .await
        .unwrap_or_default();
    let newest = events.iter().map(|event| event.id).max();
    if last_event.is_none() {
        // Earlier events are not on the graphs.
        events.clear();
    }
    *last_event = (*last_event).max(newest).or(Some(0));
    Ok((status, events))
}

/// Reads keys in a thread, which ends with the process: the read cannot be interrupted.
fn read_keys() -> UnboundedReceiver<Input> {
    let (sender, receiver): (UnboundedSender<Input>, _) = unbounded_channel();
    std::thread::spawn(move || {
        while let Ok(input) = event::read() {
            if sender.send(input).is_err() {
                return;
            }
        }
    });
    receiver
}
