//! Result of the runs: as a table, as JSON, and as a list of problems.

use serde::Serialize;

use super::{Fault, record::Record};
use crate::table::{Align, Table};

/// Limit of the time between the first misplaced flow and the alert, in seconds.
const ALERT_LIMIT_S: f64 = 15.0;
/// Limit of the time until the rollback of a bad change.
const ROLLBACK_LIMIT_S: f64 = 10.0;

#[derive(Debug, Default)]
pub struct Report {
    pub runs: Vec<Run>,
}

/// Result of a run.
#[derive(Debug)]
pub struct Run {
    pub fault: Fault,
    pub refused: bool,
    /// Seconds until the rollback.
    pub rolled_back_s: Option<f64>,
    /// Seconds until Alertmanager received the alert.
    pub alerted_s: Option<f64>,
    /// New flows beyond their share until then.
    pub misplaced_flows: Option<u64>,
    pub named_cause: Option<String>,
    /// The revision named as the cause.
    pub revision: Option<u64>,
    pub record: Record,
}

/// The JSON is an interface: only what is documented.
#[derive(Serialize)]
struct JsonReport<'a> {
    runs: Vec<JsonRun<'a>>,
}

#[derive(Serialize)]
struct JsonRun<'a> {
    name: &'a str,
    refused: Option<bool>,
    rolled_back_s: Option<f64>,
    alerted_s: Option<f64>,
    misplaced_flows: Option<u64>,
    expected_cause: Option<&'a str>,
    named_cause: Option<&'a str>,
    revision: Option<u64>,
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 10.0).round() / 10.0
}

impl Run {
    pub(super) fn new(fault: Fault, record: Record) -> Self {
        Self {
            fault,
            refused: false,
            rolled_back_s: None,
            alerted_s: None,
            misplaced_flows: None,
            named_cause: None,
            revision: None,
            record,
        }
    }

    /// Creates the result of a run that ended with an alert.
    pub(super) fn alerted(fault: Fault, record: Record, misplaced_flows: Option<u64>) -> Self {
        let first = record.alerts.first();
        let alerted_s = first.map(|(at_s, _)| rounded(*at_s));
        let named_cause = first.map(|(_, alert)| alert.cause().to_owned());
        let revision =
            first.and_then(|(_, alert)| alert.annotations.revision.as_ref()?.parse().ok());
        Self {
            alerted_s,
            named_cause,
            revision,
            misplaced_flows,
            ..Self::new(fault, record)
        }
    }

    /// Creates the result of a run that ended with a rollback.
    pub(super) fn rolled_back(fault: Fault, record: Record, misplaced_flows: u64) -> Self {
        let rolled_back = record.rolled_back.clone();
        let revision = rolled_back.as_ref().map(|rolled_back| rolled_back.revision);
        Self {
            rolled_back_s: rolled_back.map(|rolled_back| rounded(rolled_back.at_s)),
            alerted_s: record.alerts.first().map(|(at_s, _)| rounded(*at_s)),
            misplaced_flows: Some(misplaced_flows),
            named_cause: revision.map(|_| "revision".to_owned()),
            revision,
            ..Self::new(fault, record)
        }
    }

    fn is_change(&self) -> bool {
        matches!(self.fault, Fault::Guarded | Fault::Baked | Fault::Forced)
    }

    fn to_json(&self) -> JsonRun<'_> {
        JsonRun {
            name: self.fault.name(),
            refused: self.is_change().then_some(self.refused),
            rolled_back_s: self.rolled_back_s,
            alerted_s: self.alerted_s,
            misplaced_flows: self.misplaced_flows,
            expected_cause: self.fault.cause(),
            named_cause: self.named_cause.as_deref(),
            revision: self.revision,
        }
    }

    /// Returns the percentage of the source that is named as the cause: `one source, 192.0.2.1, has 50 % of the flows`.
    fn named_share(&self) -> Option<u64> {
        let cause = self.record.alerts.first()?.1.annotations.cause.as_ref()?;
        let (_, after) = cause.split_once(", has ")?;
        after.split_once(" %")?.0.parse().ok()
    }

    /// Returns the deviations from the expected result.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let name = self.fault.name();
        let mut check = |is_met: bool, text: String| {
            if !is_met {
                problems.push(format!("{name}: {text}"));
            }
        };
        let named = self.named_cause.as_deref();
        match self.fault {
            Fault::Guarded => check(
                self.refused,
                "the guard did not refuse the change".to_owned(),
            ),
            Fault::Baked => {
                let in_time = self.rolled_back_s.is_some_and(|s| s <= ROLLBACK_LIMIT_S);
                check(
                    in_time,
                    format!(
                        "rolled back after {:?} s, limit {ROLLBACK_LIMIT_S} s",
                        self.rolled_back_s
                    ),
                );
            }
            _ => {
                let in_time = self.alerted_s.is_some_and(|s| s <= ALERT_LIMIT_S);
                check(
                    in_time,
                    format!(
                        "alerted after {:?} s, limit {ALERT_LIMIT_S} s",
                        self.alerted_s
                    ),
                );
                let count = self.record.alerts.len();
                check(
                    count <= 1,
                    format!("{count} alerts for one cause, expected 1"),
                );
            }
        }
        let expected = self.fault.cause();
        if self.fault == Fault::Nat {
            let share = self.named_share();
            // The source opens half of the connections.
            let is_right = share.is_some_and(|percent| (40..=60).contains(&percent));
            check(
                is_right,
                format!("the alert gives the source {share:?} % of the flows, expected about 50"),
            );
        }
        check(
            named == expected,
            format!("cause {named:?}, expected {expected:?}"),
        );
        if expected == Some("revision") {
            check(
                self.revision == Some(2),
                format!("revision {:?}, expected 2", self.revision),
            );
        }
        problems
    }
}

fn or_dash<T: std::fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| value.to_string())
}

impl Report {
    /// Returns one JSON object on one line.
    pub fn to_json(&self) -> String {
        let runs = self.runs.iter().map(Run::to_json).collect();
        serde_json::to_string(&JsonReport { runs })
            .unwrap_or_else(|error| unreachable!("a report as JSON: {error}"))
    }

    /// Returns a row per run.
    pub fn to_table(&self) -> Table {
        let mut table = Table::new(&[
            ("run", Align::Left),
            ("refused", Align::Left),
            ("rolled back after", Align::Right),
            ("alert after", Align::Right),
            ("misplaced flows", Align::Right),
            ("cause", Align::Left),
            ("revision", Align::Right),
        ]);
        for run in &self.runs {
            let seconds = |s: Option<f64>| or_dash(s.map(|s| format!("{s:.1} s")));
            table.row(vec![
                run.fault.name().to_owned(),
                if run.refused { "yes" } else { "–" }.to_owned(),
                seconds(run.rolled_back_s),
                seconds(run.alerted_s),
                or_dash(run.misplaced_flows),
                or_dash(run.named_cause.as_deref()),
                or_dash(run.revision),
            ]);
        }
        table
    }

    /// Returns the deviations of all runs.
    pub fn problems(&self) -> Vec<String> {
        self.runs.iter().flat_map(Run::problems).collect()
    }
}
