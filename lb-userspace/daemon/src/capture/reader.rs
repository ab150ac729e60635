//! Reads the records of a capture and writes pcapng for the client.

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use lb_common::capture::{CaptureCounts, Record};
use lb_dataplane::Records;
use nix::time::{ClockId, clock_gettime};
use tokio::sync::{mpsc, watch};

use super::{
    pcapng::{Blocks, Totals, write_record},
    words::Names,
};
use crate::reconciler::VipReport;

/// Pause when there is nothing to read. The ring buffer has space for many times that.
const PAUSE: Duration = Duration::from_millis(5);

/// Bytes that are passed to the client at a time.
const CHUNK: usize = 256 << 10;

/// How a capture ends by itself, and what its file says about it.
#[derive(Clone, Debug)]
pub struct Terms {
    pub for_s: Option<u32>,
    /// Packets.
    pub count: Option<u64>,
    /// Bytes of a frame.
    pub snap: u32,
    /// Host and caller.
    pub title: String,
}

/// A running capture.
pub struct Reader {
    pub records: Records,
    pub terms: Terms,
    /// The newest names.
    pub reports: watch::Receiver<Arc<[VipReport]>>,
    /// Set to end the capture, with the cause.
    pub stop: watch::Receiver<Option<String>>,
    /// The response. Closed when the client is gone.
    pub out: mpsc::Sender<Vec<u8>>,
}

/// Why a capture ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cause {
    ClientGone,
    Time,
    Count,
    Stopped(String),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientGone => f.write_str("the client closed the connection"),
            Self::Time => f.write_str("the time is over"),
            Self::Count => f.write_str("the number of packets is reached"),
            Self::Stopped(why) => f.write_str(why),
        }
    }
}

/// What is needed to write records.
struct Output {
    blocks: Blocks,
    names: Names,
    interfaces: HashMap<u32, String>,
    /// Time of the system's clock at boot, in nanoseconds since 1970.
    boot_ns: u64,
    delivered: u64,
    /// Packets that may still be delivered.
    left: u64,
}

impl Reader {
    /// Runs until the capture ends. `end` puts the balancer's program back; no packet uses the other one
    /// afterwards. Returns a summary.
    pub fn run(mut self, end: impl FnOnce() -> Result<(), String>) -> String {
        let mut output = Output {
            blocks: Blocks::default(),
            names: Names::default(),
            interfaces: HashMap::new(),
            boot_ns: boot_ns(),
            delivered: 0,
            left: self.terms.count.unwrap_or(u64::MAX),
        };
        self.reports.mark_changed();
        output.blocks.begin(&self.terms.title, self.terms.snap);
        let cause = self.follow(&mut output);
        let ended = end();
        if !matches!(cause, Cause::ClientGone) {
            while self.read(&mut output) > 0 && self.flush(&mut output) {}
        }
        let summary = self.summary(&cause, &output, ended);
        if let Ok((totals, text)) = &summary {
            output
                .blocks
                .end(text, output.boot_ns + since_boot_ns(), totals);
        }
        self.flush(&mut output);
        summary.map_or_else(|error| error, |(_, text)| text)
    }

    fn follow(&mut self, output: &mut Output) -> Cause {
        let seconds = self.terms.for_s.map(|s| Duration::from_secs(s.into()));
        let deadline = seconds.and_then(|time| Instant::now().checked_add(time));
        loop {
            // Names first: records may be of VIPs that are new.
            if self.reports.has_changed().unwrap_or(false) {
                output.names = Names::of(&self.reports.borrow_and_update());
            }
            let read = self.read(output);
            if !self.flush(output) {
                return Cause::ClientGone;
            }
            if output.left == 0 {
                return Cause::Count;
            }
            if let Some(why) = &*self.stop.borrow() {
                return Cause::Stopped(why.clone());
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Cause::Time;
            }
            if read == 0 {
                thread::sleep(PAUSE);
            }
        }
    }

    /// Reads the records that are there, up to a chunk. Returns their number.
    fn read(&mut self, output: &mut Output) -> usize {
        if output.left == 0 {
            return 0;
        }
        self.records.read(|record, received, transmitted| {
            output.write(record, [received, transmitted]);
            output.left > 0 && output.blocks.0.len() < CHUNK
        })
    }

    /// Passes what was written to the client, waiting for it. Returns false if it is gone.
    fn flush(&self, output: &mut Output) -> bool {
        if output.blocks.0.is_empty() {
            return !self.out.is_closed();
        }
        let chunk = std::mem::take(&mut output.blocks.0);
        self.out.blocking_send(chunk).is_ok()
    }

    fn summary(
        &self,
        cause: &Cause,
        output: &Output,
        ended: Result<(), String>,
    ) -> Result<(Totals, String), String> {
        let counts = self.records.counts().map_err(|error| error.to_string())?;
        let CaptureCounts {
            matched,
            no_space,
            over_limit,
            ..
        } = counts;
        let delivered = output.delivered;
        let lost = no_space + over_limit;
        let mut text = format!("{delivered} packets captured");
        if lost > 0 {
            text += &format!(", {lost} lost");
            let causes = [
                (no_space, "the reader was too slow"),
                (over_limit, "more than the rate allows"),
            ];
            let causes = causes.iter().filter(|(count, _)| *count > 0);
            let causes: Vec<String> = causes.map(|(n, why)| format!("{n}: {why}")).collect();
            text += &format!(" ({})", causes.join("; "));
        } else {
            text += ", none lost";
        }
        text += &format!("; ended: {cause}");
        if let Err(error) = ended {
            text += &format!("; the ordinary program is not back on all interfaces: {error}");
        }
        let totals = Totals {
            matched,
            delivered,
            lost,
        };
        Ok((totals, text))
    }
}

impl Output {
    fn write(&mut self, record: &Record, frames: [&[u8]; 2]) {
        let interface = self.interfaces.entry(record.ifindex).or_insert_with(|| {
            let name = nix::net::if_::if_indextoname(record.ifindex).ok();
            let name = name.and_then(|name| name.into_string().ok());
            name.unwrap_or_else(|| format!("interface {}", record.ifindex))
        });
        let comment = self.names.describe(&record.trace, interface);
        self.delivered += 1;
        self.left -= 1;
        let (blocks, packet) = (&mut self.blocks, self.delivered);
        write_record(blocks, record, frames, self.boot_ns, packet, &comment);
    }
}

fn since_boot_ns() -> u64 {
    nanoseconds(ClockId::CLOCK_MONOTONIC)
}

fn boot_ns() -> u64 {
    nanoseconds(ClockId::CLOCK_REALTIME).saturating_sub(since_boot_ns())
}

fn nanoseconds(clock: ClockId) -> u64 {
    // Both clocks exist on every machine.
    let time = clock_gettime(clock).map_or(Duration::ZERO, Duration::from);
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
