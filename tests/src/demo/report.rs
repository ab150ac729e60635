//! Result of the demonstration: as a table, as JSON, and as a list of problems.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::table::{Align, Table};
use crate::traffic::flows::FlowReport;

#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One per forwarding mode and family.
    pub modes: Vec<ModeReport>,
    /// Packets that the kernel counted as damaged or lost.
    pub damage: Vec<String>,
}

/// Result of a forwarding mode and family.
#[derive(Clone, Debug)]
pub struct ModeReport {
    pub forward: &'static str,
    pub family: &'static str,
    pub requests: u64,
    pub failed: u64,
    /// Number of failed requests by error.
    pub errors: BTreeMap<String, u64>,
    pub connections: FlowReport,
    pub backends: Vec<BackendReport>,
}

/// Result of a backend.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendReport {
    pub name: String,
    /// Weight over the sum of the weights of backends that are up.
    pub intended_share: f64,
    /// Slots in the kernel over the ring's size.
    pub table_share: f64,
    /// New flows over those of the VIP, as counted by the kernel after the last change.
    pub observed_share: f64,
    /// New flows after the last change.
    pub new_flows: u64,
    /// Replies that clients received after the last change.
    pub replies: u64,
}

/// The JSON is an interface: only what is documented.
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
    /// Returns one JSON object on one line.
    pub fn to_json(&self) -> String {
        let modes = self.modes.iter().map(ModeReport::to_json).collect();
        serde_json::to_string(&JsonReport { modes })
            .unwrap_or_else(|error| unreachable!("a report as JSON: {error}"))
    }

    /// Returns a row per backend. Columns about the mode are filled in its first row only.
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

    /// Returns the failures.
    pub fn problems(&self) -> Vec<String> {
        let modes = self.modes.iter().flat_map(ModeReport::problems);
        modes.chain(self.damage.iter().cloned()).collect()
    }
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

impl ModeReport {
    /// Returns the number of broken connections.
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

/// Standard deviations of a share that chance exceeds once in two million.
const DEVIATIONS: f64 = 5.0;

/// Tolerated share of new flows without reply: retransmitted SYNs count again.
const RETRANSMITTED: f64 = 0.01;

impl BackendReport {
    /// Returns a contradiction between the shares and the replies, if any. `flows` are those of the VIP.
    fn problem(&self, flows: u64) -> Option<String> {
        let Self { name, .. } = self;
        let flows = flows as f64;
        if (self.table_share - self.intended_share).abs() > 0.001 {
            return Some(format!(
                "{name}: its share of the ring is not the intended share"
            ));
        }
        let deviation = (self.table_share * (1.0 - self.table_share) / flows.max(1.0)).sqrt();
        if (self.observed_share - self.table_share).abs() > DEVIATIONS * deviation {
            return Some(format!(
                "{name}: its share of the flows is not that of the ring"
            ));
        }
        if self.new_flows < self.replies
            || (self.new_flows - self.replies) as f64 > RETRANSMITTED * flows
        {
            return Some(format!(
                "{name}: the balancer counted {} new flows, but clients received {} replies",
                self.new_flows, self.replies
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
            replies: (observed * 3000.0).round() as u64,
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
    fn json_has_the_documented_fields() {
        let expected = r#"{"modes":[{"forward":"l2","family":"ipv4","requests":5000,"failed":0,"broken_connections":0,"backends":[{"name":"backend-0","intended_share":0.75,"table_share":0.75,"observed_share":0.75},{"name":"backend-1","intended_share":0.25,"table_share":0.25,"observed_share":0.25}]}]}"#;
        assert_eq!(report(0.75).to_json(), expected);
    }

    #[test]
    fn reports_shares_that_chance_does_not_explain() {
        assert_eq!(report(0.76).problems(), [""; 0]);
        assert_eq!(report(0.80).problems().len(), 2);
    }

    #[test]
    fn reports_differences_between_flows_and_replies() {
        let mut report = report(0.75);
        report.modes[0].backends[0].replies -= 100;
        report.modes[0].backends[1].replies += 1;
        let problems = report.problems();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(
            problems[0].contains("2250 new flows, but clients received 2150"),
            "{problems:?}"
        );
    }

    #[test]
    fn reports_failures() {
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
