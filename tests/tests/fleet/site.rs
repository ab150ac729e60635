//! A fleet with servers and steady load, for tests: what fails, panics.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut, Range};
use std::time::Duration;

use lab::fleet::Fleet;
pub(crate) use lab::fleet::{EXCHANGE_PORT, LIMIT, SERVING};
use lab::nginx::Nginx;
use lab::operator::CommandResult;
use lab::topology::{Family, Lab};
use lab::traffic::steady::{Finished, Outcome, SteadyLoad};
use lb_api::{FleetState, RevisionInfo, RevisionState, Status};

pub(crate) type Options = lab::fleet::Options<'static>;

/// Nodes of a site with steady load.
pub(crate) const NODES: usize = 3;
/// New connections per second.
const RATE: u64 = 150;
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn can_run(test: &str) -> bool {
    lab::skip::can_run(
        &format!("fleet {test}"),
        &["ip", "ethtool", "etcd", "etcdctl", "nginx"],
    )
}

pub(crate) fn build(nodes: usize) -> Lab {
    lab::fleet::build(nodes).unwrap()
}

pub(crate) fn route(lab: &Lab, nodes: &[usize]) {
    lab::fleet::route(lab, nodes).unwrap();
}

pub(crate) struct Site<'lab> {
    fleet: Fleet<'lab>,
    load: Option<SteadyLoad>,
    _nginx: Vec<Nginx>,
}

impl<'lab> Deref for Site<'lab> {
    type Target = Fleet<'lab>;

    fn deref(&self) -> &Fleet<'lab> {
        &self.fleet
    }
}

impl DerefMut for Site<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.fleet
    }
}

impl<'lab> Site<'lab> {
    /// Starts servers and nodes, makes the fleet, and sends steady load through it.
    pub(crate) fn start(lab: &'lab Lab) -> Self {
        let any = "0.0.0.0:80".parse().unwrap();
        let serving = lab.backends.iter().take(SERVING);
        let nginx = serving.map(|host| Nginx::start(host, &[any]).unwrap());
        let nginx = nginx.collect();
        let site = Self::start_nodes(lab, Options::default());
        let to = SocketAddr::new(lab.vip(Family::V4, 1), 80);
        let load = SteadyLoad::start(&lab.clients[0], to, RATE, REQUEST_LIMIT).unwrap();
        Self {
            load: Some(load),
            _nginx: nginx,
            ..site
        }
    }

    /// Starts the nodes, makes the fleet, and waits until all have its VIP, with all backends. These must
    /// serve already.
    pub(crate) fn start_nodes(lab: &'lab Lab, options: Options) -> Self {
        let fleet = Fleet::start(lab, options).unwrap();
        fleet.join().unwrap();
        Self {
            fleet,
            load: None,
            _nginx: Vec::new(),
        }
    }

    #[track_caller]
    pub(crate) fn wait_serving(&self, nodes: Range<usize>, count: usize) {
        self.fleet.wait_serving(nodes, count).unwrap();
    }

    #[track_caller]
    pub(crate) fn run(&self, node: usize, arguments: &[&str]) -> CommandResult {
        self.fleet.run(node, arguments).unwrap()
    }

    /// Runs a command, and returns it if it exits with `code`.
    #[track_caller]
    pub(crate) fn expect(&self, code: i32, node: usize, arguments: &[&str]) -> CommandResult {
        let result = self.fleet.expect(code, node, arguments);
        result.unwrap_or_else(|error| panic!("{error:#}"))
    }

    #[track_caller]
    pub(crate) fn status(&self, node: usize) -> Status {
        self.fleet.status(node).unwrap()
    }

    #[track_caller]
    pub(crate) fn fleet(&self, node: usize) -> FleetState {
        self.fleet.fleet(node).unwrap()
    }

    /// The local revisions of a node that the fleet made, oldest first.
    pub(crate) fn fleet_changes(&self, node: usize) -> Vec<RevisionInfo> {
        let all = self.nodes[node].operator().get("/v1/revisions").unwrap();
        let all: Vec<RevisionInfo> = serde_json::from_value(all).unwrap();
        all.into_iter()
            .filter(|revision| revision.how.starts_with("fleet revision"))
            .collect()
    }

    /// The number of the active local revision.
    pub(crate) fn active(&self, node: usize) -> u64 {
        self.status(node).revision.unwrap().number
    }

    /// The share of the first backend in the ring of a node.
    pub(crate) fn first_share(&self, node: usize) -> f64 {
        self.status(node).vips[0].members[0].table_share
    }

    #[track_caller]
    pub(crate) fn wait(&self, what: &str, mut holds: impl FnMut() -> bool) -> Duration {
        let waited = self.fleet.wait(what, || Ok(holds()));
        waited.unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Waits until all nodes run and have confirmed a fleet revision.
    #[track_caller]
    pub(crate) fn wait_in_sync(&self, revision: u64) -> Duration {
        let waited = self.fleet.wait_in_sync(revision);
        waited.unwrap_or_else(|error| panic!("{error:#}"))
    }

    pub(crate) fn file(&self, name: &str, weight: u32, with_dead: bool) -> String {
        self.fleet.file(name, weight, with_dead).unwrap()
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        self.fleet.write(name, text).unwrap()
    }

    /// Ends the traffic, of which nothing may have been lost.
    pub(crate) fn assert_nothing_lost(self) -> usize {
        let finished = self.load.unwrap().finish();
        let lost: Vec<&Finished> = finished
            .iter()
            .filter(|request| request.outcome != Outcome::Answered)
            .collect();
        assert!(
            lost.is_empty(),
            "{} of {}: {lost:?}",
            lost.len(),
            finished.len()
        );
        finished.len()
    }
}

/// Whether a revision was rolled back.
pub(crate) fn rolled_back(revision: &RevisionInfo) -> bool {
    matches!(revision.state, RevisionState::RolledBack { .. })
}
