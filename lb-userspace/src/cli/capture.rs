//! `evenkeel capture`.

mod output;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Duration, interval},
};

use super::{argument, stream::print_error};
use lb_api::{
    CaptureRequest, CaptureSide,
    client::{CaptureStream, Client},
};
use output::{Output, Written};

/// Interval at which a pipe is checked for its reader.
const CHECK_READER: Duration = Duration::from_millis(500);

/// Capture packets with what the data path decides about them, as pcapng.
///
/// For each packet: the frame as received (interface `in`) and as transmitted (`out`), with the same
/// packet ID, and a comment with verdict, VIP, backend, reason, slot and how the backend was chosen.
/// A packet must meet all conditions; of an option that is given several times, one is enough.
///
/// While it runs, a program that records packets takes the place of the ordinary one; without a capture
/// it costs nothing. One capture runs at a time. Needs root: captures contain payload.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  evenkeel capture --vip api --for 30s -w api.pcapng
  evenkeel capture --verdict drop --count 1000 -w drops.pcapng
  evenkeel capture --reason NO_MEMBER --side in -w - | wireshark -k -i -
  evenkeel capture --flow '198.51.100.7 > :443' --snap 2048 -w client.pcapng
  evenkeel capture --stop")]
pub(super) struct CaptureArgs {
    /// Only packets of this VIP.
    #[arg(long, value_name = "VIP")]
    vip: Vec<String>,
    /// Only packets of this backend: VIP/BACKEND, or BACKEND for the backend in any VIP.
    #[arg(long, value_name = "[VIP/]BACKEND")]
    backend: Vec<String>,
    /// Only packets counted under this reason, such as NO_MEMBER (`evenkeel status` lists them).
    #[arg(long, value_name = "REASON")]
    reason: Vec<String>,
    /// Only packets with this verdict: tx, redirect, pass or drop.
    #[arg(long, value_name = "VERDICT")]
    verdict: Vec<String>,
    /// Only packets of this flow, or with these parts of it: 'tcp 198.51.100.7:40000 > 203.0.113.10:443',
    /// '198.51.100.7 >', '> :443'. Replies of `nat` are found by the client's flow.
    #[arg(long, value_name = "FLOW")]
    flow: Option<String>,
    /// Only packets with a source address in this prefix.
    #[arg(long, value_name = "PREFIX")]
    source: Option<String>,
    /// Frames to capture: as received, as transmitted, or both.
    #[arg(long, value_enum, default_value_t = Side::Both)]
    side: Side,
    /// End after this time, such as 30s.
    #[arg(long = "for", value_name = "TIME", value_parser = argument::nonzero_seconds)]
    time: Option<u32>,
    /// End after this number of packets.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Bytes to capture of each frame.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=2048))]
    snap: u32,
    /// Capture at most this many packets per second and CPU; more are counted as lost [default: 200000].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// File to write, readable by its owner only; - for standard output.
    #[arg(long, short, value_name = "FILE", required_unless_present = "stop")]
    write: Option<PathBuf>,
    /// End the capture that is running, whoever started it.
    #[arg(long, conflicts_with_all = ["write", "vip", "backend", "reason", "verdict", "flow", "source", "time", "count", "rate"])]
    stop: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Side {
    In,
    Out,
    Both,
}

impl CaptureArgs {
    fn request(&self) -> CaptureRequest {
        CaptureRequest {
            vips: self.vip.clone(),
            backends: self.backend.clone(),
            reasons: self.reason.clone(),
            verdicts: self.verdict.clone(),
            flow: self.flow.clone(),
            source: self.source.clone(),
            side: match self.side {
                Side::In => CaptureSide::In,
                Side::Out => CaptureSide::Out,
                Side::Both => CaptureSide::Both,
            },
            for_s: self.time,
            count: self.count,
            snap: Some(self.snap),
            rate: self.rate,
        }
    }
}

pub(super) async fn run(args: CaptureArgs, client: Client) -> Result<ExitCode> {
    let Some(file) = &args.write else {
        client.stop_capture().await?;
        return Ok(ExitCode::SUCCESS);
    };
    // First: an error must not begin a capture.
    let mut output = Output::open(file)?;
    let stream = match client.capture(&args.request()).await {
        Ok(stream) => stream,
        Err(error) => {
            output.discard();
            return Err(error.into());
        }
    };
    print_error("capturing; Ctrl-C ends the capture");
    let followed = follow(stream, &client, &mut output).await;
    let packets = output.frames();
    match (followed, output.summary()) {
        (Ok(End::Complete), Some(summary)) => print_error(summary),
        (Ok(End::Complete), None) => {
            bail!("the controller ended the capture after {packets} frames")
        }
        (Ok(End::NoReader), _) => {}
        (Err(error), _) => {
            return Err(error.context(format!("the capture ended early, with {packets} frames")));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// How a capture ended.
enum End {
    Complete,
    /// The reader of standard output is gone.
    NoReader,
}

/// Writes the stream until it ends. A signal has the controller end it; a second one ends it at once.
async fn follow(mut stream: CaptureStream, client: &Client, output: &mut Output) -> Result<End> {
    let handle = |kind| signal(kind).context("cannot handle signals");
    let mut interrupt = handle(SignalKind::interrupt())?;
    let mut terminate = handle(SignalKind::terminate())?;
    let mut check = interval(CHECK_READER);
    let mut is_ending = false;
    loop {
        let has_signal = tokio::select! {
            bytes = stream.next() => {
                let Some(bytes) = bytes? else {
                    return Ok(End::Complete);
                };
                if matches!(output.write(&bytes)?, Written::NoReader) {
                    return Ok(End::NoReader);
                }
                false
            }
            _ = interrupt.recv() => true,
            _ = terminate.recv() => true,
            _ = check.tick() => {
                if !output.has_reader() {
                    return Ok(End::NoReader);
                }
                false
            }
        };
        if has_signal {
            if is_ending {
                bail!("interrupted");
            }
            is_ending = true;
            // The rest of the stream tells what was captured.
            client.stop_capture().await?;
        }
    }
}
