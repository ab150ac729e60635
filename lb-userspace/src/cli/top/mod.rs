//! `evenkeel top`: the status, live.
//!
//! Asks the controller once a second, [`Model`] remembers what it says, [`draw`] shows it. A
//! controller that is away – restarted, upgraded – is waited for: what is shown stays, with a gap in
//! the curves. The terminal is put back however this ends: by key, signal, error or panic.

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

use super::{stream, view::paint::Paint};
use lb_api::{
    Event, Status,
    client::{Client, ClientError},
};

const EVERY: Duration = Duration::from_secs(1);
/// How long an answer may take before the controller counts as away.
const PATIENCE: Duration = Duration::from_secs(3);
/// Events of one second that are looked at.
const EVENTS: u32 = 100;

/// Show the status live, with a curve of new flows for each backend.
///
/// Above the curves, ▼ marks where a revision was applied, ! an alert, and + a change of health. Goes on
/// when the controller is restarted.
#[derive(Args, Debug)]
#[command(after_help = "\
Keys:
  q, Esc          quit
  ↑ ↓ (k j)       choose the VIP
  PgUp PgDn       scroll its members
  s               sort by the next column; or at once:
  c n f p t o d   by configuration, name, new flows, packets, table share, observed share, deviation
  r               the other way around

With --json, prints the status once a second, a JSON object in a line.")]
pub(super) struct TopArgs {
    /// Print the status once a second as JSON instead.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: &TopArgs, client: Client) -> Result<ExitCode> {
    let client = client.with_patience(PATIENCE);
    if args.json {
        return stream(&client).await;
    }
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        bail!("top needs a terminal; `evenkeel status` prints the same once");
    }
    // From here on also a panic puts the terminal back: ratatui hooks in.
    let mut terminal = ratatui::try_init().context("take over the terminal")?;
    let restore = Restore;
    let done = show(&mut terminal, client).await;
    drop(restore);
    done.map(|()| ExitCode::SUCCESS)
}

/// Puts the terminal back.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

async fn stream(client: &Client) -> Result<ExitCode> {
    let mut every = ticks();
    let mut out = stream::stdout();
    while !out.is_closed() {
        every.tick().await;
        match client.status().await {
            Ok(status) => {
                writeln!(out, "{}", serde_json::to_string(&status)?)?;
                out.flush()?;
            }
            Err(error) if error.is_passing() => {
                super::change::complain(&format!("evenkeel: {error}"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn ticks() -> tokio::time::Interval {
    let mut every = interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Skip);
    every
}

async fn show(terminal: &mut DefaultTerminal, client: Client) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen to signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen to signals")?;
    let mut hang_up = signal(SignalKind::hangup()).context("listen to signals")?;
    let mut answers = ask(client);
    let mut inputs = read_keys();
    let paint = Paint::when(true);
    let mut model = Model::default();
    loop {
        terminal
            .draw(|frame| draw::draw(frame, &model, paint))
            .context("draw")?;
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hang_up.recv() => return Ok(()),
            Some(answer) = answers.recv() => match answer {
                Ok((status, events)) => model.take(status, &events),
                Err(error) if error.is_passing() => model.miss(Timestamp::now(), error.to_string()),
                Err(error) => return Err(error.into()),
            },
            input = inputs.recv() => match input {
                Some(Input::Key(key)) if key.kind != KeyEventKind::Release => {
                    if model.press(key.code, key.modifiers) == After::Quit {
                        return Ok(());
                    }
                }
                // Resized: drawn anew.
                Some(_) => {}
                // The terminal is gone.
                None => return Ok(()),
            },
        }
    }
}

type Answer = Result<(Status, Vec<Event>), ClientError>;

/// Asks the controller, beside everything else.
fn ask(client: Client) -> UnboundedReceiver<Answer> {
    let (sender, receiver) = unbounded_channel();
    tokio::spawn(async move {
        let mut every = ticks();
        let mut newest = None;
        loop {
            every.tick().await;
            let answer = look(&client, &mut newest).await;
            if sender.send(answer).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The status, and what happened since the event of number `newest`.
async fn look(client: &Client, newest: &mut Option<u64>) -> Answer {
    let status = client.status().await?;
    let limit = if newest.is_some() { EVENTS } else { 1 };
    // Without events there is still the status.
    let mut events = client
        .events(*newest, Some(limit))
        .await
        .unwrap_or_default();
    let last = events.iter().map(|event| event.id).max();
    if newest.is_none() {
        // What happened before is not for the curves.
        events.clear();
    }
    *newest = (*newest).max(last).or(Some(0));
    Ok((status, events))
}

/// Reads keys in a thread of its own, which ends with the process: reading can't be interrupted.
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
