//! Result of the demonstration of a fleet: scenes, printed while they happen, and as JSON.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::traffic::{Counted, failed_since};

/// The scenes so far.
#[derive(Debug)]
pub struct Report {
    /// Whether stdout is for the JSON.
    json: bool,
    pub scenes: Vec<Scene>,
}

/// A scene and what was found.
#[derive(Clone, Debug)]
pub struct Scene {
    pub name: &'static str,
    pub traffic: Counted,
    /// From the event until the router no longer routes to the node.
    pub withdrawn: Option<Duration>,
    /// From the start of the node's processes, or the command, until the router routes to it again.
    pub announced: Option<Duration>,
    /// From its application to the undo of the change.
    pub undone: Option<Duration>,
    /// What did not happen as it should.
    pub problems: Vec<String>,
}

impl Scene {
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            traffic: Counted::default(),
            withdrawn: None,
            announced: None,
            undone: None,
            problems: Vec::new(),
        }
    }

    /// Notes a problem unless `holds`.
    pub fn expect(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.problems.push(problem());
        }
    }

    /// Notes the losses that must not be. With `since`, requests before it may fail: a node that dies takes with it
    /// what only it had.
    pub fn judge(&mut self, traffic: Counted, since: Option<Instant>) {
        let failed = match since {
            Some(since) => failed_since(&traffic, since),
            None => traffic.failed().count(),
        };
        let broken = traffic.broken();
        self.expect(failed == 0, || format!("{failed} requests failed"));
        self.expect(broken == 0, || format!("{broken} connections broke"));
        let few = traffic.requests.len() < 100;
        self.expect(!few, || "there was hardly any traffic".to_owned());
        self.traffic = traffic;
    }
}

/// The JSON is an interface: only what is documented.
#[derive(Serialize)]
struct JsonReport<'a> {
    scenes: Vec<JsonScene<'a>>,
}

#[derive(Serialize)]
struct JsonScene<'a> {
    name: &'a str,
    requests: usize,
    failed: usize,
    slowest_ms: u128,
    connections: usize,
    broken_connections: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    withdrawn_ms: Option<u128>,
    #[serde(skip_serializing_if = "Option::is_none")]
    announced_ms: Option<u128>,
    #[serde(skip_serializing_if = "Option::is_none")]
    undone_ms: Option<u128>,
    problems: &'a [String],
}

impl Report {
    pub fn new(json: bool) -> Self {
        Self {
            json,
            scenes: Vec::new(),
        }
    }

    /// Prints a line.
    pub fn say(&self, line: &str) {
        if self.json {
            eprintln!("{line}");
        } else {
            println!("{line}");
        }
    }

    /// Prints a fact of the present scene.
    pub fn fact(&self, text: &str) {
        self.say(&format!("     {text}"));
    }

    /// Prints a command of the operator.
    pub fn command(&self, node: &str, arguments: &[&str]) {
        let shown: Vec<String> = arguments.iter().map(|it| quoted(it)).collect();
        self.say(&format!("   {node}$ evenkeel {}", shown.join(" ")));
    }

    /// Prints the end of a scene.
    pub fn end(&mut self, scene: Scene) {
        self.fact(&scene.traffic.to_string());
        for problem in &scene.problems {
            self.say(&format!("   NOT AS IT SHOULD BE: {problem}"));
        }
        self.scenes.push(scene);
    }

    /// Returns the problems of all scenes.
    pub fn problems(&self) -> Vec<String> {
        let of = |scene: &Scene| {
            let name = scene.name;
            let problems = scene.problems.iter();
            problems
                .map(|problem| format!("{name}: {problem}"))
                .collect::<Vec<_>>()
        };
        self.scenes.iter().flat_map(of).collect()
    }

    /// Returns one JSON object on one line.
    pub fn to_json(&self) -> String {
        let ms = |time: Option<Duration>| time.map(|time| time.as_millis());
        let scenes: Vec<JsonScene<'_>> = self
            .scenes
            .iter()
            .map(|scene| JsonScene {
                name: scene.name,
                requests: scene.traffic.requests.len(),
                failed: scene.traffic.failed().count(),
                slowest_ms: scene.traffic.slowest().as_millis(),
                connections: scene.traffic.connections,
                broken_connections: scene.traffic.broken(),
                withdrawn_ms: ms(scene.withdrawn),
                announced_ms: ms(scene.announced),
                undone_ms: ms(scene.undone),
                problems: &scene.problems,
            })
            .collect();
        serde_json::to_string(&JsonReport { scenes })
            .unwrap_or_else(|error| unreachable!("a report as JSON: {error}"))
    }

    /// Returns the last line.
    pub fn summary(&self) -> String {
        let scenes = || self.scenes.iter().map(|scene| &scene.traffic);
        let requests: usize = scenes().map(|it| it.requests.len()).sum();
        let failed: usize = scenes().map(|it| it.failed().count()).sum();
        let broken: u64 = scenes().map(Counted::broken).sum();
        let connections = scenes().map(|it| it.connections).max().unwrap_or_default();
        format!(
            "{failed} of {requests} requests failed, {broken} of {connections} open connections broke"
        )
    }
}

/// Returns an argument as a shell would take it.
fn quoted(argument: &str) -> String {
    if argument.contains(' ') {
        format!("'{argument}'")
    } else {
        argument.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::steady::{Finished, Outcome};

    fn traffic(began: Instant, failed: usize, broken: u64) -> Counted {
        let request = |number| Finished {
            began,
            took: Duration::from_millis(3),
            outcome: match number < failed {
                true => Outcome::Reset,
                false => Outcome::Answered,
            },
        };
        let faults = [("reset: by peer".to_owned(), broken)];
        Counted {
            requests: (0..200).map(request).collect(),
            connections: 20,
            faults: faults.into_iter().filter(|it| it.1 > 0).collect(),
        }
    }

    fn problems(traffic: Counted, since: Option<Instant>) -> Vec<String> {
        let mut scene = Scene::new("drained");
        scene.judge(traffic, since);
        scene.problems
    }

    #[test]
    fn a_loss_is_a_problem() {
        let now = Instant::now();
        assert_eq!(problems(traffic(now, 0, 0), None), [""; 0]);
        assert_eq!(problems(traffic(now, 2, 0), None), ["2 requests failed"]);
        assert_eq!(problems(traffic(now, 0, 1), None), ["1 connections broke"]);
        let nothing = Counted::default();
        assert_eq!(problems(nothing, None), ["there was hardly any traffic"]);
    }

    #[test]
    fn a_dead_node_may_take_requests_with_it_until_the_router_has_noticed() {
        let now = Instant::now();
        let (before, after) = (now - Duration::from_secs(1), now + Duration::from_secs(1));
        assert_eq!(problems(traffic(before, 2, 0), Some(now)), [""; 0]);
        assert_eq!(
            problems(traffic(after, 2, 0), Some(now)),
            ["2 requests failed"]
        );
        assert_eq!(
            problems(traffic(before, 0, 1), Some(now)),
            ["1 connections broke"]
        );
    }

    #[test]
    fn json_has_the_documented_fields() {
        let mut report = Report::new(true);
        let mut scene = Scene::new("killed");
        scene.withdrawn = Some(Duration::from_micros(301_500));
        scene.judge(traffic(Instant::now(), 1, 0), None);
        report.end(scene);
        let expected = r#"{"scenes":[{"name":"killed","requests":200,"failed":1,"slowest_ms":3,"connections":20,"broken_connections":0,"withdrawn_ms":301,"problems":["1 requests failed"]}]}"#;
        assert_eq!(report.to_json(), expected);
        assert_eq!(report.problems(), ["killed: 1 requests failed"]);
        let summary = "1 of 200 requests failed, 0 of 20 open connections broke";
        assert_eq!(report.summary(), summary);
    }
}
