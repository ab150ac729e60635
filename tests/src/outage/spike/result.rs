//! Result of a run.

use std::time::Instant;

use super::Timeline;
use super::contestant::{Change, Contestant};
use crate::traffic::steady::{Finished, Outcome};

/// What was observed in a run.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) contestant: Contestant,
    pub(super) change: Change,
    pub(super) timeline: Timeline,
    /// When the spike began. The change was made directly before.
    pub(super) start: Instant,
    pub(super) requests: Vec<Finished>,
    /// Per backend.
    pub(super) crashes: Vec<Vec<Instant>>,
    /// Per backend, in the spike.
    pub(super) connections: Vec<u64>,
}

/// Result of a run.
#[derive(Clone, Debug)]
pub struct Run {
    pub contestant: Contestant,
    pub timeline: Timeline,
    /// Whether the balancer refused the change.
    pub refused_change: bool,
    pub answered: usize,
    pub lost: Lost,
    /// Median latency of the answered requests.
    pub p50_ms: Option<u64>,
    pub p99_ms: Option<u64>,
    pub crashes: Vec<Crash>,
    /// Largest share of the connections of the spike that one backend got.
    pub busiest_share: f64,
    pub seconds: Vec<Second>,
}

/// Lost requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    pub refused: usize,
    pub reset: usize,
    pub timed_out: usize,
}

impl Lost {
    pub fn all(self) -> usize {
        self.refused + self.reset + self.timed_out
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Crash {
    pub backend: usize,
    /// Seconds since the change.
    pub at_s: f64,
}

/// The requests that were sent in one second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Second {
    /// Its start, in seconds since the change.
    pub at_s: i64,
    pub answered: usize,
    pub lost: usize,
}

/// When the last request was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WholeAfter {
    /// No request was lost.
    NeverLost,
    /// Seconds from the change to the end of the last second with a lost request.
    Seconds(i64),
    /// Requests were lost until the end.
    NotBefore(i64),
}

fn since(start: Instant, time: Instant) -> f64 {
    match time.checked_duration_since(start) {
        Some(after) => after.as_secs_f64(),
        None => -start.duration_since(time).as_secs_f64(),
    }
}

impl Run {
    pub(super) fn new(observed: Observed) -> Self {
        let Observed {
            contestant,
            change,
            timeline,
            start,
            requests,
            crashes,
            connections,
        } = observed;
        let mut lost = Lost::default();
        for request in &requests {
            match request.outcome {
                Outcome::Answered => {}
                Outcome::Refused => lost.refused += 1,
                Outcome::Reset => lost.reset += 1,
                Outcome::TimedOut => lost.timed_out += 1,
            }
        }
        let latencies = latencies(&requests);
        let all: u64 = connections.iter().sum();
        let most = connections.iter().copied().max().unwrap_or(0);
        let crashes = crashes.iter().enumerate().flat_map(|(backend, times)| {
            times.iter().map(move |time| Crash {
                backend,
                at_s: since(start, *time),
            })
        });
        Self {
            contestant,
            timeline,
            refused_change: change == Change::Refused,
            answered: latencies.len(),
            lost,
            p50_ms: percentile(&latencies, 50),
            p99_ms: percentile(&latencies, 99),
            crashes: crashes.collect(),
            busiest_share: most as f64 / all.max(1) as f64,
            seconds: seconds(&requests, start, timeline),
        }
    }

    pub fn sent(&self) -> usize {
        self.answered + self.lost.all()
    }

    pub fn lost_share(&self) -> f64 {
        self.lost.all() as f64 / self.sent().max(1) as f64
    }

    pub fn whole_after(&self) -> WholeAfter {
        let last = self.seconds.iter().rev().find(|second| second.lost > 0);
        let end = self.timeline.end_s() as i64;
        match last.map(|second| second.at_s + 1) {
            None => WholeAfter::NeverLost,
            Some(after) if after >= end => WholeAfter::NotBefore(end),
            Some(after) => WholeAfter::Seconds(after),
        }
    }

    /// Describes the result in a few words.
    pub fn summary(&self) -> String {
        let (lost, sent) = (self.lost.all(), self.sent());
        let crashes = match self.crashes.len() {
            0 => "no crash".to_owned(),
            1 => "1 crash".to_owned(),
            count => format!("{count} crashes"),
        };
        let refused = if self.refused_change {
            "change refused, "
        } else {
            ""
        };
        format!("{refused}lost {lost} of {sent} requests, {crashes}")
    }
}

/// Returns the latencies of the answered requests in milliseconds, sorted.
fn latencies(requests: &[Finished]) -> Vec<u64> {
    let answered = requests
        .iter()
        .filter(|request| request.outcome == Outcome::Answered);
    let mut latencies: Vec<u64> = answered
        .map(|request| request.took.as_millis() as u64)
        .collect();
    latencies.sort_unstable();
    latencies
}

/// Returns the nearest-rank percentile.
fn percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.max(1) - 1).copied()
}

fn seconds(requests: &[Finished], start: Instant, timeline: Timeline) -> Vec<Second> {
    let first = -(timeline.before.as_secs() as i64);
    let end = timeline.end_s() as i64;
    let mut seconds: Vec<Second> = (first..end)
        .map(|at_s| Second {
            at_s,
            ..Second::default()
        })
        .collect();
    for request in requests {
        // Those before and after the time axis belong to its ends: starting and stopping the load takes a moment.
        let at_s = since(start, request.began).floor() as i64;
        let second = &mut seconds[(at_s.clamp(first, end - 1) - first) as usize];
        match request.outcome {
            Outcome::Answered => second.answered += 1,
            _ => second.lost += 1,
        }
    }
    seconds
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Returns a run with one request per pair: when it began in milliseconds after the change, and its outcome.
    fn run(requests: &[(u64, Outcome)]) -> Run {
        let start = Instant::now();
        let finished = requests.iter().map(|(at_ms, outcome)| Finished {
            began: start + Duration::from_millis(*at_ms),
            took: Duration::from_millis(100 + at_ms),
            outcome: *outcome,
        });
        Run::new(Observed {
            contestant: Contestant::NfTables,
            change: Change::Active,
            timeline: Timeline::SHORT,
            start,
            requests: finished.collect(),
            crashes: vec![vec![], vec![start + Duration::from_millis(1500)]],
            connections: vec![30, 10],
        })
    }

    #[test]
    fn counts_outcomes_per_second() {
        use Outcome::{Answered, Refused, Reset, TimedOut};
        let run = run(&[
            (0, Answered),
            (900, Answered),
            (1000, Reset),
            (1100, Refused),
            (2999, TimedOut),
        ]);
        let lost = Lost {
            refused: 1,
            reset: 1,
            timed_out: 1,
        };
        assert_eq!((run.sent(), run.lost), (5, lost));
        assert_eq!((run.p50_ms, run.p99_ms), (Some(100), Some(1000)));
        assert_eq!(run.whole_after(), WholeAfter::Seconds(3));
        assert_eq!(run.busiest_share, 0.75);
        let crash = Crash {
            backend: 1,
            at_s: 1.5,
        };
        assert_eq!(run.crashes, [crash]);
        let second = |at_s, answered, lost| Second {
            at_s,
            answered,
            lost,
        };
        assert_eq!(
            run.seconds[2..6],
            [
                second(0, 2, 0),
                second(1, 0, 2),
                second(2, 0, 1),
                second(3, 0, 0)
            ]
        );
    }

    #[test]
    fn is_whole_only_if_nothing_is_lost_at_the_end() {
        let never = run(&[(0, Outcome::Answered)]);
        assert_eq!(never.whole_after(), WholeAfter::NeverLost);
        // Timeline::SHORT ends 9 s after the change.
        let to_the_end = run(&[(8100, Outcome::Reset)]);
        assert_eq!(to_the_end.whole_after(), WholeAfter::NotBefore(9));
        assert_eq!(to_the_end.p50_ms, None);
    }
}
