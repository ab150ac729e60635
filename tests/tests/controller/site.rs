//! Set-up of the tests: a lab with servers behind a balancer, flows through it, and an operator of the node.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lab::balancer::binary;
use lab::configuration::{Configuration, Forward};
use lab::host::Host;
use lab::node::Node;
use lab::operator::Operator;
use lab::service::{FAMILIES, Kind, Servers, address, vip};
use lab::stats::damage;
use lab::topology::{Family, Lab, Layout, Plan};
use lab::traffic::flows::{FlowLoad, FlowPlan, Transport};
use lab::traffic::http::{HttpPlan, HttpReport, request};
use serde_json::Value;

/// Limit of waits, long enough for a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Number of backends.
pub(crate) const BACKENDS: usize = 4;

pub(crate) const FORWARD: Forward = Forward::L2;

/// Returns whether the test can run here.
pub(crate) fn can_run(test: &str) -> bool {
    let tools = ["ip", "ethtool", "nginx", "curl"];
    lab::skip::can_run(&format!("controller {test}"), &tools)
}

pub(crate) fn build() -> Lab {
    Lab::build(Plan {
        backends: BACKENDS as u8,
        ..Plan::new(Layout::OneArm)
    })
    .unwrap()
}

/// A lab with running servers and its node.
pub(crate) struct Site<'lab> {
    pub(crate) lab: &'lab Lab,
    pub(crate) servers: Servers,
    pub(crate) node: Node<'lab>,
    pub(crate) operator: Operator,
}

impl<'lab> Site<'lab> {
    /// Starts echo in both families and web over IPv4, with equal backends.
    pub(crate) fn start(lab: &'lab Lab, change: impl FnOnce(&mut Configuration)) -> Self {
        Self::start_with(lab, FORWARD, change)
    }

    /// The same with another forwarding mode.
    pub(crate) fn start_with(
        lab: &'lab Lab,
        forward: Forward,
        change: impl FnOnce(&mut Configuration),
    ) -> Self {
        let binary = binary().unwrap();
        let kinds = [Kind::Echo, Kind::Web];
        let servers = Servers::start(lab, forward, &kinds, &binary).unwrap();
        let mut configuration = Configuration::new(&lab.balancers[0]);
        let weights = [100; BACKENDS];
        for family in FAMILIES {
            let echo = vip(lab, forward, Kind::Echo, family, &weights);
            configuration.vips.push(echo);
        }
        let web = vip(lab, forward, Kind::Web, Family::V4, &weights);
        configuration.vips.push(web);
        change(&mut configuration);
        let node = Node::start(&lab.balancers[0], &binary, configuration).unwrap();
        let operator = node.operator();
        for client in &lab.clients {
            let range = ("net.ipv4.ip_local_port_range", "1024 65535");
            client.ns.set_sysctl(range.0, range.1).unwrap();
        }
        let site = Self {
            lab,
            servers,
            node,
            operator,
        };
        lab::deadline::until("the controller answers", LIMIT, || {
            Ok(site.operator.controller().is_some())
        })
        .unwrap();
        site
    }

    /// Opens flows in both families and waits until all of them carry data.
    pub(crate) fn open(&self, flows: usize) -> Flows {
        self.open_in(&FAMILIES, flows)
    }

    /// The same over IPv4 only.
    pub(crate) fn open_ipv4(&self, flows: usize) -> Flows {
        self.open_in(&[Family::V4], flows)
    }

    fn open_in(&self, families: &[Family], flows: usize) -> Flows {
        let loads = families.iter().map(|&family| {
            let to = address(self.lab, Kind::Echo, family);
            let mut plan = FlowPlan::new(Transport::Tcp, to, flows);
            plan.pause = Duration::from_millis(100);
            // Longer than a busy machine needs, so that only lost flows time out.
            plan.answer_limit = Duration::from_secs(30);
            let load = FlowLoad::start(&self.lab.clients[0], &plan).unwrap();
            load.wait_answers(1, LIMIT).unwrap();
            load
        });
        Flows(loads.collect())
    }

    /// Writes a configuration to a new file.
    pub(crate) fn write(&self, name: &str, configuration: &Configuration) -> PathBuf {
        let folder = self.lab.balancers[0].directory();
        let file = folder.join(name);
        std::fs::write(&file, configuration.to_toml(folder)).unwrap();
        file
    }

    /// Returns the present configuration with a change.
    pub(crate) fn changed(&self, change: impl FnOnce(&mut Configuration)) -> Configuration {
        let mut configuration = self.node.configuration().clone();
        change(&mut configuration);
        configuration
    }

    /// Panics if the maps differ from this configuration.
    #[track_caller]
    pub(crate) fn assert_kernel(&self, when: &str, configuration: &Configuration) {
        assert_eq!(self.node.difference(configuration), None, "{when}");
    }

    /// Checks that the history is linear, no change is in progress, and the maps match the active revision.
    /// Returns its number.
    #[track_caller]
    pub(crate) fn assert_settled(&self, when: &str) -> u64 {
        assert_linear(when, &self.revisions());
        let (number, configuration) = self.node.active().unwrap();
        self.assert_kernel(when, &configuration);
        number
    }

    pub(crate) fn revisions(&self) -> Vec<Value> {
        let revisions = self.operator.get("/v1/revisions").unwrap();
        revisions.as_array().unwrap().clone()
    }

    /// Returns the description of a revision.
    pub(crate) fn info(&self, number: u64) -> Value {
        let mut revisions = self.revisions().into_iter();
        revisions
            .find(|revision| revision["number"] == number)
            .unwrap()
    }

    /// Waits until a revision is in this state.
    #[track_caller]
    pub(crate) fn wait_state(&self, number: u64, state: &str) -> Value {
        let what = format!("revision {number} is {state}");
        let waited = lab::deadline::until(&what, LIMIT, || Ok(self.info(number)["state"] == state));
        waited.unwrap_or_else(|error| panic!("{error:#}: {}", self.info(number)));
        self.info(number)
    }

    /// Returns everything in the kernel that determines forwarding, for comparison.
    pub(crate) fn snapshot(&self) -> String {
        let view = self.node.view().unwrap();
        let mut picture = format!("{:?}", view.members.present().collect::<Vec<_>>());
        for vip in &self.node.configuration().vips {
            let number = view.vip(vip.at.ip(), vip.at.port(), lb_common::proto::TCP);
            let number = number.unwrap().unwrap();
            let entry = view.vips.read(number).unwrap();
            let ring = view.ring(number).unwrap().unwrap();
            let slots: Vec<_> = ring.slots().collect();
            picture += &format!("{entry:?}{slots:?}");
        }
        picture
    }

    /// Checks that no packet was damaged and all servers run.
    pub(crate) fn check_health(&mut self) {
        self.servers.check_running().unwrap();
        assert_eq!(damage(self.lab).unwrap(), []);
    }
}

/// Makes requests for a page until `stop`.
pub(crate) fn browse(lab: &Lab, stop: &AtomicBool) -> HttpReport {
    let mut report = HttpReport::default();
    while !stop.load(Ordering::Relaxed) {
        report.add(&pages(&lab.clients[0], lab, 50));
        std::thread::sleep(Duration::from_millis(100));
    }
    report
}

/// Makes requests for a page, each on a new connection.
pub(crate) fn pages(client: &Host, lab: &Lab, requests: u32) -> HttpReport {
    let url = format!("http://{}/", address(lab, Kind::Web, Family::V4));
    let mut plan = HttpPlan::new(url, requests);
    plan.parallel = 8;
    plan.limit = Duration::from_secs(30);
    request(client, &plan).unwrap()
}

/// Flows of both families.
pub(crate) struct Flows(pub(crate) Vec<FlowLoad>);

impl Flows {
    /// Checks that each flow gets more replies, from the same backend.
    #[track_caller]
    pub(crate) fn assert_alive(&self, when: &str) {
        for load in &self.0 {
            let waited = load.wait_answers(2, LIMIT);
            waited.unwrap_or_else(|error| panic!("{when}: {error:#}"));
        }
        self.assert_intact(when);
    }

    /// Returns the backends of the flows.
    pub(crate) fn backends(&self) -> BTreeSet<String> {
        let reports = self.0.iter().map(FlowLoad::snapshot);
        reports
            .flat_map(|report| report.per_backend().into_keys())
            .collect()
    }

    /// Checks that no flow was lost, moved or damaged.
    #[track_caller]
    pub(crate) fn assert_intact(&self, when: &str) {
        for load in &self.0 {
            assert_eq!(load.snapshot().faults(), [].into(), "{when}");
        }
    }
}

/// Checks that the history is linear: numbers increase (that of an interrupted write is not reused), each
/// revision is based on the newest good one before it, and only the last may be in progress.
#[track_caller]
pub(crate) fn assert_linear(when: &str, revisions: &[Value]) {
    let (mut head, mut last) = (None, 0);
    for (index, revision) in revisions.iter().enumerate() {
        let number = revision["number"].as_u64().unwrap();
        assert!(number > last, "{when}: {revision} after {last}");
        last = number;
        assert_eq!(revision["parent"].as_u64(), head, "{when}: {revision}");
        match revision["state"].as_str().unwrap() {
            "applied" => head = Some(number),
            "rolled_back" | "failed" => {}
            _ => assert_eq!(index + 1, revisions.len(), "{when}: {revision}"),
        }
    }
}
