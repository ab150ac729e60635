//! Results of all contestants: as a table and as JSON.

use serde::Serialize;

use super::contestant::Contestant;
use super::result::{Run, WholeAfter};
use crate::table::{Align, Table};

/// The runs of each contestant.
#[derive(Debug)]
pub struct Report {
    rows: Vec<(Contestant, Vec<Run>)>,
}

/// The JSON is an interface: only what is documented.
#[derive(Serialize)]
struct JsonReport<'a> {
    rows: Vec<JsonRow<'a>>,
}

#[derive(Serialize)]
struct JsonRow<'a> {
    name: &'a str,
    rounds: Vec<JsonRun>,
}

#[derive(Serialize)]
struct JsonRun {
    refused_change: bool,
    sent: usize,
    refused: usize,
    reset: usize,
    timed_out: usize,
    p50_ms: Option<u64>,
    p99_ms: Option<u64>,
    crashes: usize,
    /// 0 if no request was lost; null if requests were lost until the end.
    whole_after_s: Option<i64>,
    busiest_share: f64,
}

impl From<&Run> for JsonRun {
    fn from(run: &Run) -> Self {
        Self {
            refused_change: run.refused_change,
            sent: run.sent(),
            refused: run.lost.refused,
            reset: run.lost.reset,
            timed_out: run.lost.timed_out,
            p50_ms: run.p50_ms,
            p99_ms: run.p99_ms,
            crashes: run.crashes.len(),
            whole_after_s: match run.whole_after() {
                WholeAfter::NeverLost => Some(0),
                WholeAfter::Seconds(after) => Some(after),
                WholeAfter::NotBefore(_) => None,
            },
            busiest_share: (run.busiest_share * 1000.0).round() / 1000.0,
        }
    }
}

impl Report {
    pub(super) fn new(contestants: &[Contestant]) -> Self {
        let rows = contestants.iter().map(|it| (*it, Vec::new()));
        Self {
            rows: rows.collect(),
        }
    }

    pub(super) fn add(&mut self, run: Run) {
        let mut rows = self.rows.iter_mut();
        if let Some((_, runs)) = rows.find(|(contestant, _)| *contestant == run.contestant) {
            runs.push(run);
        }
    }

    /// Returns a run per contestant: that with the median of the lost requests.
    pub fn medians(&self) -> Vec<&Run> {
        let rows = self.rows.iter();
        rows.filter_map(|(_, runs)| {
            let mut sorted: Vec<&Run> = runs.iter().collect();
            sorted.sort_by_key(|run| run.lost.all());
            sorted.get(sorted.len() / 2).copied()
        })
        .collect()
    }

    /// Returns one JSON object on one line.
    pub fn to_json(&self) -> String {
        let rows = self.rows.iter().map(|(contestant, runs)| JsonRow {
            name: contestant.name(),
            rounds: runs.iter().map(JsonRun::from).collect(),
        });
        let report = JsonReport {
            rows: rows.collect(),
        };
        serde_json::to_string(&report)
            .unwrap_or_else(|error| unreachable!("a report as JSON: {error}"))
    }

    /// Returns a row per contestant.
    pub fn to_table(&self) -> Table {
        let mut table = Table::new(&[
            ("balancer", Align::Left),
            ("change", Align::Left),
            ("sent", Align::Right),
            ("lost", Align::Right),
            ("lost %", Align::Right),
            ("p50 ms", Align::Right),
            ("p99 ms", Align::Right),
            ("crashes", Align::Right),
            ("whole after", Align::Right),
            ("busiest", Align::Right),
        ]);
        for run in self.medians() {
            let change = if run.refused_change {
                "refused"
            } else {
                "active"
            };
            let whole_after = match run.whole_after() {
                WholeAfter::NeverLost => "–".to_owned(),
                WholeAfter::Seconds(after) => format!("{after} s"),
                WholeAfter::NotBefore(end) => format!(">{end} s"),
            };
            let latency = |ms: Option<u64>| ms.map_or_else(|| "–".to_owned(), |ms| ms.to_string());
            table.row(vec![
                run.contestant.name().to_owned(),
                change.to_owned(),
                run.sent().to_string(),
                run.lost.all().to_string(),
                format!("{:.1}", run.lost_share() * 100.0),
                latency(run.p50_ms),
                latency(run.p99_ms),
                run.crashes.len().to_string(),
                whole_after,
                format!("{:.0} %", run.busiest_share * 100.0),
            ]);
        }
        table
    }
}
