//! What came of the demonstration: for a person, for a machine, and as problems.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::table::{Align, Table};
use crate::traffic::flows::FlowReport;

/// Everything.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Each forwarding mode and family.
    pub modes: Vec<ModeReport>,
    /// What the kernel counted as damaged or lost.
    pub damage: Vec<String>,
}

/// A forwarding mode and family.
#[derive(Clone, Debug)]
pub struct ModeReport {
    /// Forwarding mode.
    pub forward: &'static str,
    /// Address family.
    pub family: &'static str,
    /// Requests made.
    pub requests: u64,
    /// Requests that failed.
    pub failed: u64,
    /// How they failed, and how often.
    pub errors: BTreeMap<String, u64>,
    /// The long-lived connections.
    pub connections: FlowReport,
    /// The backends.
    pub backends: Vec<BackendReport>,
}

/// A backend.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendReport {
    /// Its name.
    pub name: String,
    /// Its weight over the sum of the weights of those that are up.
    pub intended_share: f64,
    /// Its slots over the ring's size, in the kernel.
    pub table_share: f64,
    /// Its new flows over the VIP's, counted by the kernel after the last change.
    pub observed_share: f64,
    /// Its new flows in that time.
    pub new_flows: u64,
    /// What clients got from it in that time.
    pub answers: u64,
}

/// The JSON is an interface: it has what is documented and nothing else.
#[derive(Serialize)]
struct JsonReport<'a> {
    modes: Vec<JsonMode<'a>>,
}

#[derive(Serialize)]
struct JsonMode<'a> {
    forward: &'a str,
    family: &'a str,
    requests: u64,
    failed: u64,
    broken_connections: usize,
    backends: Vec<JsonBackend<'a>>,
}

#[derive(Serialize)]
struct JsonBackend<'a> {
    name: &'a str,
    intended_share: f64,
    table_share: f64,
    observed_share: f64,
}

impl Report {
    /// One object, on one line.
    pub fn to_json(&self) -> String {
        let modes = self.modes.iter().map(ModeReport::to_json).collect();
        serde_json::to_string(&JsonReport { modes }).unwrap_or_else(|error| {
            // Numbers and texts always can be written.
            unreachable!("a report as JSON: {error}")
        })
    }

    /// The table: a row for each backend; what is about the mode as a whole is in its first row.
    pub fn to_table(&self) -> Table {
        let mut table = Table::new(&[
            ("forward", Align::Left),
            ("family", Align::Left),
            ("backend", Align::Left),
            ("intended", Align::Right),
            ("table", Align::Right),
            ("observed", Align::Right),
            ("requests", Align::Right),
            ("failed", Align::Right),
            ("broken connections", Align::Right),
        ]);
        for mode in &self.modes {
            for (index, backend) in mode.backends.iter().enumerate() {
                table.row(mode.row(backend, index == 0));
            }
        }
        table
    }

    /// What should not have been, in words.
    pub fn problems(&self) -> Vec<String> {
        let modes = self.modes.iter().flat_map(ModeReport::problems);
        modes.chain(self.damage.iter().cloned()).collect()
    }
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

impl ModeReport {
    /// Connections that broke.
    pub fn broken_connections(&self) -> usize {
        self.connections.broken().count()
    }

    fn row(&self, backend: &BackendReport, first: bool) -> Vec<String> {
        let once = |cell: String| if first { cell } else { String::new() };
        vec![
            once(self.forward.to_owned()),
            once(self.family.to_owned()),
            backend.name.clone(),
            percent(backend.intended_share),
            percent(backend.table_share),
            percent(backend.observed_share),
            once(self.requests.to_string()),
            once(self.failed.to_string()),
            once(format!(
                "{} of {}",
                self.broken_connections(),
                self.connections.flows.len()
            )),
        ]
    }

    fn to_json(&self) -> JsonMode<'_> {
        let backends = self.backends.iter().map(|backend| JsonBackend {
            name: &backend.name,
            intended_share: backend.intended_share,
            table_share: backend.table_share,
            observed_share: backend.observed_share,
        });
        JsonMode {
            forward: self.forward,
            family: self.family,
            requests: self.requests,
            failed: self.failed,
            broken_connections: self.broken_connections(),
            backends: backends.collect(),
        }
    }

    fn problems(&self) -> Vec<String> {
        let name = format!("{} over {}", self.forward, self.family);
        let mut problems = Vec::new();
        for (error, count) in &self.errors {
            problems.push(format!("{name}: {count} requests failed: {error}"));
        }
        if self.failed > 0 && self.errors.is_empty() {
            problems.push(format!("{name}: {} requests failed", self.failed));
        }
        for (fault, count) in self.connections.faults() {
            problems.push(format!("{name}: {count} connections broke: {fault}"));
        }
        let flows: u64 = self.backends.iter().map(|backend| backend.new_flows).sum();
        for backend in &self.backends {
            problems.extend(backend.problem(flows).map(|text| format!("{name}: {text}")));
        }
        problems
    }
}

/// Deviations of a share that chance explains once in two million times.
const DEVIATIONS: f64 = 5.0;

/// Repeated SYNs count as new flows again: so many more of them than answers are no contradiction.
const REPEATED: f64 = 0.01;

impl BackendReport {
    /// Whether the three shares and the clients contradict each other; `flows` is the VIP's.
    fn problem(&self, flows: u64) -> Option<String> {
        let Self { name, .. } = self;
        let flows = flows as f64;
        if (self.table_share - self.intended_share).abs() > 0.001 {
            return Some(format!("{name}: the ring does not give the intended share"));
        }
        let deviation = (self.table_share * (1.0 - self.table_share) / flows.max(1.0)).sqrt();
        if (self.observed_share - self.table_share).abs() > DEVIATIONS * deviation {
            return Some(format!("{name}: flows do not follow the ring"));
        }
        if self.new_flows < self.answers
            || (self.new_flows - self.answers) as f64 > REPEATED * flows
        {
            return Some(format!(
                "{name}: the balancer counted {} new flows, but {} requests were answered by it",
                self.new_flows, self.answers
            ));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(observed: f64) -> Report {
        let backend = |name: &str, share: f64, observed: f64| BackendReport {
            name: name.to_owned(),
            intended_share: share,
            table_share: share,
            observed_share: observed,
            new_flows: (observed * 3000.0).round() as u64,
            answers: (observed * 3000.0).round() as u64,
        };
        Report {
            modes: vec![ModeReport {
                forward: "l2",
                family: "ipv4",
                requests: 5000,
                failed: 0,
                errors: BTreeMap::new(),
                connections: FlowReport { flows: Vec::new() },
                backends: vec![
                    backend("backend-0", 0.75, observed),
                    backend("backend-1", 0.25, 1.0 - observed),
                ],
            }],
            damage: Vec::new(),
        }
    }

    #[test]
    fn json_is_what_is_documented() {
        let want = r#"{"modes":[{"forward":"l2","family":"ipv4","requests":5000,"failed":0,"broken_connections":0,"backends":[{"name":"backend-0","intended_share":0.75,"table_share":0.75,"observed_share":0.75},{"name":"backend-1","intended_share":0.25,"table_share":0.25,"observed_share":0.25}]}]}"#;
        assert_eq!(report(0.75).to_json(), want);
    }

    #[test]
    fn a_share_that_chance_does_not_explain_is_a_problem() {
        assert_eq!(report(0.76).problems(), [""; 0]);
        assert_eq!(report(0.80).problems().len(), 2);
    }

    #[test]
    fn flows_that_nobody_answered_and_answers_that_were_no_flows_are_problems() {
        let mut report = report(0.75);
        report.modes[0].backends[0].answers -= 100;
        report.modes[0].backends[1].answers += 1;
        let problems = report.problems();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(
            problems[0].contains("2250 new flows, but 2150"),
            "{problems:?}"
        );
    }

    #[test]
    fn what_failed_is_told() {
        let mut report = report(0.75);
        report.modes[0].failed = 3;
        report.modes[0].errors.insert("status 503".to_owned(), 3);
        report
            .damage
            .push("backend-0 counted 1 TcpInCsumErrors".to_owned());
        let problems = report.problems();
        assert_eq!(
            problems,
            [
                "l2 over ipv4: 3 requests failed: status 503",
                "backend-0 counted 1 TcpInCsumErrors"
            ]
        );
    }
}
