//! The handle of the agent: the state of the fleet, and its commands.

use std::{path::PathBuf, sync::Arc};

use lb_api::{
    ExplainRequest, FleetApplyRequest, FleetDoctor, FleetExplanation, FleetInitRequest, FleetPlan,
    FleetPlanRequest, FleetRevision, FleetRevisionInfo, FleetRevisionNumber, FleetRollbackRequest,
    FleetStarted, FleetState, Refused,
};
use tokio::sync::watch;

use crate::{
    agent::{self, Running},
    exchange::{Exchange, PeerStates, Tables},
    node::Node,
};

/// Settings of the agent: `[fleet]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Name of the fleet: letters, digits, `-`, `_` and `.`.
    pub fleet: String,
    /// Name of this node, unique in the fleet; same characters.
    pub node: String,
    /// Rack of this node: nodes of different racks are never changed in one wave.
    pub rack: Option<String>,
    /// Where other nodes can ask this one for the past of connections: `10.0.0.1:7946`.
    pub exchange: Option<std::net::SocketAddr>,
    /// URLs of etcd: `https://10.0.0.1:2379`.
    pub endpoints: Vec<String>,
    /// Files for TLS; none with `http://`.
    pub tls: Option<Tls>,
    /// `fleet.json` in `node.state_dir`: what the agent remembers over restarts.
    pub state_file: PathBuf,
    /// Default bake of a wave in seconds: `change.bake`.
    pub bake_s: u32,
    /// Seconds after the last contact with the fleet at which a candidate is rolled back; 60 by default.
    pub confirm_s: u32,
}

/// Files for TLS, read again for every connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Certificates of the authorities that may sign etcd's certificate (PEM).
    pub ca: PathBuf,
    /// Our certificate and its key (PEM).
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Who asks: user and process, for the history.
pub type Who = String;

/// A handle of the running agent. Dropping all handles stops it.
#[derive(Clone, Debug)]
pub struct Fleet {
    running: Arc<Running>,
}

type Result<T> = std::result::Result<T, Refused>;

/// Errors of commands: [`lb_api::ErrorCode::Failed`] if etcd does not answer, `Conflict` if the fleet or
/// the node is in no state for the command, `NotFound` if there is no such fleet, node or revision.
#[expect(clippy::missing_errors_doc, reason = "the same for all: see above")]
impl Fleet {
    /// Starts the agent in the current tokio runtime. Never fails: what is wrong is in the state.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start<N: Node>(settings: Settings, node: N) -> Self {
        Self::start_with(settings, node, None)
    }

    /// As [`Self::start`]. `tables`: what is exchanged, if [`Settings::exchange`] says where.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start_with<N: Node>(settings: Settings, node: N, tables: Option<Tables>) -> Self {
        Self {
            running: Arc::new(agent::start(settings, node, tables)),
        }
    }

    /// The state of the fleet; changes when something in it does. Ages are in steps of 5 seconds.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<FleetState> {
        self.running.state.clone()
    }

    /// The states of the exchange with the other nodes; none without exchange.
    #[must_use]
    pub fn exchange(&self) -> Option<watch::Receiver<PeerStates>> {
        let exchange = self.running.shared.exchange();
        exchange.map(Exchange::states)
    }

    /// Stops the agent; returns when it has stopped. A candidate stays on trial.
    pub async fn stop(&self) {
        self.running.stop.send_replace(true);
        self.running.requests.closed().await;
    }

    /// Creates the fleet in etcd with revision 1, and joins it.
    pub async fn init(&self, request: FleetInitRequest, who: Who) -> Result<FleetRevisionInfo> {
        self.running.init(request, who).await
    }

    /// Joins the fleet, and takes its head, whatever the node runs. Also accepts a fleet that was refused.
    pub async fn join(&self, who: Who) -> Result<()> {
        self.running.join(&who).await
    }

    /// Removes a node (this one, if none is named) from the fleet. It keeps its configuration.
    pub async fn leave(&self, node: Option<String>, who: Who) -> Result<()> {
        self.running.leave(node, &who).await
    }

    /// Asks all live nodes to plan a text.
    pub async fn plan(&self, request: FleetPlanRequest, who: Who) -> Result<FleetPlan> {
        self.running.plan(request, &who).await
    }

    /// Asks all live nodes what they would do with a packet.
    pub async fn explain(&self, request: ExplainRequest, who: &str) -> Result<FleetExplanation> {
        self.running.explain(request, who).await
    }

    /// Begins a rollout; its progress is in the state.
    pub async fn apply(&self, request: FleetApplyRequest, who: Who) -> Result<FleetStarted> {
        self.running.apply(request, who).await
    }

    /// Confirms a rollout that waits for it.
    pub async fn confirm(&self, who: Who) -> Result<FleetStarted> {
        self.running.confirm(who).await
    }

    /// Holds the next wave, and the end of the last one.
    pub async fn pause(&self, who: Who) -> Result<FleetStarted> {
        self.running.pause(who).await
    }

    /// Continues a paused rollout.
    pub async fn resume(&self, who: Who) -> Result<FleetStarted> {
        self.running.resume(&who).await
    }

    /// Undoes a running rollout, or rolls an earlier revision out.
    pub async fn rollback(&self, request: FleetRollbackRequest, who: Who) -> Result<FleetStarted> {
        self.running.rollback(request, who).await
    }

    /// The fleet revisions that etcd has, newest first.
    pub async fn history(&self) -> Result<Vec<FleetRevisionInfo>> {
        self.running.history().await
    }

    /// A fleet revision with its text; the head, if none is named.
    pub async fn revision(&self, number: Option<FleetRevisionNumber>) -> Result<FleetRevision> {
        self.running.revision(number).await
    }

    /// Writes the fleet anew into an etcd that was wiped or restored, from what this node confirmed last.
    pub async fn import(&self, who: Who) -> Result<FleetRevisionInfo> {
        self.running.import(who).await
    }

    /// Checks the endpoints one by one, and the fleet.
    pub async fn doctor(&self) -> FleetDoctor {
        self.running.doctor().await
    }
}
