//! `evenkeel backend drain`.

use std::{process::ExitCode, time::Duration};

use anyhow::{Result, bail};
use clap::Args;
use tokio::time::{Instant, sleep};

use super::{
    argument,
    backend::set_state,
    change::{self, ChangeArgs},
    exit,
    member::BackendPath,
    progress::ProgressLine,
    session::Session,
    stream::print_error,
    view::members::remaining,
};
use lb_api::{VipStatus, WantedState, client::Client};

const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Drain a backend: it keeps its flows and gets no new ones.
///
/// With --wait, returns when the backend is idle: no packet was sent to it for --idle. A connection
/// that is silent for longer is not noticed, unless it has an entry in the tracking table, whose
/// size `evenkeel status` shows.
#[derive(Args, Debug)]
#[command(after_help = "\
Example: restart a backend without a failed request
  evenkeel backend drain api-1 --wait && ssh api-1 systemctl restart api
  evenkeel backend undrain api-1")]
pub(super) struct DrainArgs {
    /// Backend; without VIP/, in every VIP that has it.
    #[arg(value_name = "[VIP/]BACKEND", value_parser = BackendPath::parse)]
    backend: BackendPath,
    /// Wait until the backend is idle.
    #[arg(long, conflicts_with_all = ["no_wait", "dry_run"])]
    wait: bool,
    /// Time without packets after which the backend counts as idle.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = argument::nonzero_seconds, requires = "wait")]
    idle: u32,
    /// Stop waiting after this time and exit with 1; the backend stays drained.
    #[arg(long, value_name = "DURATION", value_parser = argument::nonzero_seconds, requires = "wait")]
    timeout: Option<u32>,
    #[command(flatten)]
    change: ChangeArgs,
}

pub(super) async fn run(args: &DrainArgs, client: Client) -> Result<ExitCode> {
    let edit = set_state(args.backend.clone(), WantedState::Drain);
    let session = Session::new(client.clone(), args.change.output);
    let done = change::edit(client, edit, &args.change).await?;
    if done != ExitCode::SUCCESS {
        return Ok(done);
    }
    if !args.wait {
        for line in traffic(&session.client.vips().await?, &args.backend) {
            session.print_text(&format!("{line}\n"))?;
        }
        return Ok(done);
    }
    tokio::select! {
        done = wait(&session, args) => done,
        pressed = tokio::signal::ctrl_c() => {
            pressed?;
            print_error("\nthe backend is still draining; `evenkeel backend undrain` enables it again");
            Ok(exit::INTERRUPTED.into())
        }
    }
}

async fn wait(session: &Session, args: &DrainArgs) -> Result<ExitCode> {
    let backend = &args.backend.backend;
    let started = Instant::now();
    let mut line = ProgressLine::new();
    let mut idle = IdleTimer::default();
    loop {
        match session.client.vips().await {
            Ok(vips) => {
                let idle = idle.update(packets(&vips, &args.backend), Instant::now());
                if idle >= Duration::from_secs(args.idle.into()) {
                    drop(line);
                    session.print_text(&format!("{backend} is idle\n"))?;
                    return Ok(ExitCode::SUCCESS);
                }
                line.show(&traffic(&vips, &args.backend).join("; "));
            }
            Err(error) if error.is_transient() => {
                line.show(&format!("waiting for the controller: {error}"));
            }
            Err(error) => return Err(error.into()),
        }
        if let Some(limit) = args.timeout
            && started.elapsed() >= Duration::from_secs(limit.into())
        {
            bail!("{backend} is not idle after {limit} s; it stays drained");
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// The remaining traffic of each member, in words.
fn traffic(vips: &[VipStatus], path: &BackendPath) -> Vec<String> {
    path.members(vips)
        .map(|(name, member)| format!("{}: {}", name.path(), remaining(member)))
        .collect()
}

/// The number of packets sent to each member.
fn packets(vips: &[VipStatus], path: &BackendPath) -> Vec<u64> {
    path.members(vips)
        .map(|(_, member)| member.totals.packets)
        .collect()
}

/// Measures how long packet counters have not changed.
#[derive(Default)]
struct IdleTimer {
    last: Option<(Vec<u64>, Instant)>,
}

impl IdleTimer {
    /// Returns how long the counters have had these values. A restarted controller counts from zero,
    /// which is a change.
    fn update(&mut self, packets: Vec<u64>, now: Instant) -> Duration {
        match &self.last {
            Some((last, since)) if *last == packets => now.duration_since(*since),
            _ => {
                self.last = Some((packets, now));
                Duration::ZERO
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::view::tests::fixtures, *};

    #[test]
    fn idle_time_starts_anew_with_each_packet() {
        let path = BackendPath::parse("api/api-2").unwrap();
        let mut vips = fixtures::status().vips;
        let sent = packets(&vips, &path);
        assert_eq!(sent.len(), 1);
        let mut idle = IdleTimer::default();
        let start = Instant::now();
        let later = start + Duration::from_secs(20);
        assert_eq!(idle.update(sent.clone(), start), Duration::ZERO);
        assert_eq!(idle.update(sent, later), Duration::from_secs(20));
        vips[0].members[1].totals.packets += 1;
        assert_eq!(idle.update(packets(&vips, &path), later), Duration::ZERO);
    }
}
