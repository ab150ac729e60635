//! A fleet of simulated nodes with a real etcd.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use lb_api::{
    FleetApplyRequest, FleetInitRequest, FleetNodeState, FleetRolloutState, FleetStarted,
    FleetState,
};
use lb_etcd::{Cluster, Options};
use lb_fleet::{Fleet, Settings, Tls};
use tempfile::TempDir;

use crate::node::SimNode;

/// Bake of the tests in seconds.
pub(crate) const BAKE_S: u32 = 1;

/// The first configuration.
pub(crate) const FIRST: &str = "# one\n";

pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) nodes: Vec<Member>,
    folder: TempDir,
}

pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) node: SimNode,
    pub(crate) fleet: Fleet,
}

/// None, and a report, if etcd is not installed.
pub(crate) fn cluster(test: &str, options: Options) -> Option<Cluster> {
    if let Err(reason) = lb_etcd::installed() {
        lb_skip::skip(test, &reason);
        return None;
    }
    Some(Cluster::start(options))
}

pub(crate) fn settings(cluster: &Cluster, folder: &Path, name: &str) -> Settings {
    let endpoints = cluster.endpoints();
    let certificates = cluster.certificates();
    let is_tls = endpoints[0].starts_with("https");
    Settings {
        fleet: "test".to_owned(),
        node: name.to_owned(),
        rack: Some("r1".to_owned()),
        exchange: None,
        endpoints,
        tls: is_tls.then(|| Tls {
            ca: certificates.ca.clone(),
            client: Some(certificates.client.clone()),
        }),
        state_file: folder.join(format!("{name}.json")),
        bake_s: BAKE_S,
        confirm_s: 6,
    }
}

impl World {
    /// Starts nodes; the first creates the fleet, the others join it.
    pub(crate) async fn start(cluster: Cluster, count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut world = Self {
            cluster,
            nodes: Vec::new(),
            folder,
        };
        for index in 0..count {
            world.add(&format!("n{index:02}"), FIRST);
        }
        let first = &world.nodes[0].fleet;
        first
            .init(FleetInitRequest::default(), "root".to_owned())
            .await
            .unwrap();
        for member in &world.nodes[1..] {
            member.fleet.join("root".to_owned()).await.unwrap();
        }
        world.all(FleetNodeState::InSync).await;
        world
    }

    /// Starts a node that has joined nothing.
    pub(crate) fn add(&mut self, name: &str, text: &str) {
        self.add_node(name, SimNode::new(name, text));
    }

    pub(crate) fn add_node(&mut self, name: &str, node: SimNode) {
        let settings = settings(&self.cluster, self.folder.path(), name);
        self.nodes.push(Member {
            name: name.to_owned(),
            fleet: Fleet::start(settings, node.clone()),
            node,
        });
    }

    /// Stops the agent of a node and starts it again, as a restart of its controller does.
    pub(crate) async fn restart(&mut self, index: usize) {
        let member = &mut self.nodes[index];
        member.fleet.stop().await;
        let settings = settings(&self.cluster, self.folder.path(), &member.name);
        member.fleet = Fleet::start(settings, member.node.clone());
    }

    pub(crate) fn state(&self, index: usize) -> FleetState {
        self.nodes[index].fleet.state().borrow().clone()
    }

    /// Waits until all nodes are shown in this state by the first one.
    pub(crate) async fn all(&self, wanted: FleetNodeState) {
        let count = self.nodes.len();
        self.until("all nodes in the state", |state| {
            state.nodes.len() == count && state.nodes.iter().all(|node| node.state == wanted)
        })
        .await;
    }

    /// Waits for a state of the fleet, as the first node sees it.
    pub(crate) async fn until(
        &self,
        what: &str,
        is_there: impl Fn(&FleetState) -> bool,
    ) -> FleetState {
        until_of(&self.nodes[0].fleet, what, is_there).await
    }

    /// Waits for the end of a rollout, and returns its state and reason.
    pub(crate) async fn end(&self, revision: u64) -> (FleetRolloutState, String) {
        let state = self
            .until("the end of the rollout", |state| {
                let rollout = state.rollout.as_ref();
                rollout.is_some_and(|r| r.revision == revision && r.state.is_over())
            })
            .await;
        let rollout = state.rollout.unwrap();
        (rollout.state, rollout.reason)
    }

    pub(crate) async fn apply(&self, text: &str) -> FleetStarted {
        let request = FleetApplyRequest {
            text: text.to_owned(),
            ..FleetApplyRequest::default()
        };
        let applied = self.nodes[0].fleet.apply(request, "root".to_owned()).await;
        applied.unwrap_or_else(|error| panic!("apply: {}", error.message))
    }

    /// How many nodes ever ran a text.
    pub(crate) fn reached(&self, text: &str) -> usize {
        let ran = |member: &&Member| !member.node.spans(text).is_empty();
        self.nodes.iter().filter(ran).count()
    }

    /// Waits until all nodes run a text.
    pub(crate) async fn all_run(&self, text: &str) {
        let run = || self.nodes.iter().all(|member| member.node.active() == text);
        wait(&format!("all nodes run {text:?}"), run).await;
    }
}

pub(crate) async fn until_of(
    fleet: &Fleet,
    what: &str,
    is_there: impl Fn(&FleetState) -> bool,
) -> FleetState {
    let mut states = fleet.state();
    let waiting = states.wait_for(|state| is_there(state));
    match tokio::time::timeout(Duration::from_secs(90), waiting).await {
        Ok(state) => state.expect("the agent runs").clone(),
        Err(_) => panic!(
            "no {what} within 90 s: {:#?}",
            fleet.state().borrow().clone()
        ),
    }
}

pub(crate) async fn wait(what: &str, is_there: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_there() {
        assert!(
            began.elapsed() < Duration::from_secs(90),
            "not within 90 s: {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
