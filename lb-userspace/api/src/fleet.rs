//! The fleet: nodes with one desired configuration of their VIPs.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;
use utoipa::ToSchema;

use super::{Explanation, Guard, Plan};
pub use health::{FleetDisagreement, FleetDown, FleetHealth, FleetOpinion, FleetSuspect};

mod health;

/// Number of a fleet revision; the first is 1.
pub type FleetRevisionNumber = u64;

/// The fleet as this node sees it: `GET /v1/fleet`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FleetState {
    /// Name of the fleet.
    pub fleet: String,
    /// Random identity of the fleet, made by `fleet init`; none before, or if etcd was never reached.
    pub id: Option<String>,
    /// Name of this node.
    pub node: String,
    /// Whether etcd answers.
    pub connected: bool,
    /// Seconds since etcd last answered; none if it never did.
    pub contact_age_s: Option<f64>,
    /// Why etcd does not answer, or takes no writes.
    pub last_error: Option<String>,
    /// The node that drives rollouts; none while there is none, or etcd does not answer.
    pub leader: Option<String>,
    /// State of this node.
    pub state: FleetNodeState,
    /// What is wrong with this node, and what to do; empty if nothing is.
    pub reason: String,
    /// The confirmed fleet revision, as last read from etcd.
    pub head: Option<FleetHead>,
    /// The fleet revision that this node confirmed last.
    pub confirmed: Option<FleetHead>,
    /// The newest rollout, running or ended.
    pub rollout: Option<FleetRollout>,
    /// The joined nodes, sorted by name.
    pub nodes: Vec<FleetNode>,
    /// The exchange of the past of connections; none if `fleet.exchange` is not set.
    pub exchange: Option<FleetExchange>,
    /// What the nodes say of the health of backends; none if `fleet.exchange` is not set.
    pub health: Option<FleetHealth>,
}

/// The exchange of the past of connections with the other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetExchange {
    /// Why the other nodes can't ask this one; none if they can.
    pub error: Option<String>,
    /// The other nodes, sorted by name.
    pub peers: Vec<FleetPeer>,
    /// Flows that the other nodes were told.
    pub flows_told: u64,
    /// Flows of other nodes that this one would choose another backend for without having been told.
    pub flows_taken: u64,
    /// Flows of other nodes for which the tracking table had no room.
    pub flows_without_room: u64,
}

/// Another node of which this one asks the past of connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetPeer {
    /// Its name.
    pub node: String,
    /// Address of its exchange.
    pub address: String,
    /// Whether it has told everything, and tells what changes.
    pub connected: bool,
    /// Why it can't be asked; none if it can.
    pub error: Option<String>,
}

/// A fleet revision by number and content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetHead {
    /// Number of the fleet revision.
    pub revision: FleetRevisionNumber,
    /// SHA-256 of its text, in hexadecimal.
    pub digest: String,
}

/// State of a node of the fleet.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
    IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum FleetNodeState {
    /// The node has not joined a fleet.
    #[default]
    NotJoined,
    /// The node runs the head.
    InSync,
    /// The node runs a candidate on trial.
    OnTrial,
    /// The node does not run the head yet; it tries to.
    Behind,
    /// The VIPs were changed on the node itself.
    Differs,
    /// The node takes nothing from etcd: what is there contradicts what the node has confirmed, or the
    /// node's facts differ from the fleet's.
    Refused,
    /// The node's lease has ended: it is down, or does not reach etcd.
    Away,
}

/// A node of the fleet, as etcd has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetNode {
    /// Name of the node.
    pub node: String,
    /// The rack, from its configuration.
    pub rack: Option<String>,
    /// Its state.
    pub state: FleetNodeState,
    /// What is wrong, and what to do; empty if nothing is.
    pub reason: String,
    /// The fleet revision that it confirmed last; none if none, or if the node is away.
    pub revision: Option<FleetRevisionNumber>,
    /// Version of its controller; none if the node is away.
    pub version: Option<String>,
    /// When it joined.
    pub joined: Timestamp,
}

/// State of a rollout.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema, IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum FleetRolloutState {
    /// Written; the leader has not begun.
    Written,
    /// Every live node plans the candidate.
    Preflight,
    /// A wave is on trial; the first one is the canary.
    Wave,
    /// All waves have passed; `fleet confirm` makes the candidate head.
    AwaitingConfirm,
    /// The candidate is head.
    Confirmed,
    /// The rollout failed; nodes undo it.
    Failed,
    /// The rollout failed, and no node runs the candidate.
    Undone,
}

impl FleetRolloutState {
    /// Whether the rollout has ended.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Confirmed | Self::Undone)
    }
}

/// A rollout: the process that makes a fleet revision the head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetRollout {
    /// The candidate.
    pub revision: FleetRevisionNumber,
    /// The head when it was written.
    pub parent: FleetRevisionNumber,
    /// Its state.
    pub state: FleetRolloutState,
    /// Why it failed; empty if it did not. Names the node.
    pub reason: String,
    /// When it was written.
    pub started: Timestamp,
    /// When it was confirmed, or failed.
    pub ended: Option<Timestamp>,
    /// Who undid it, if `fleet rollback` did.
    pub aborted: Option<String>,
    /// The waves; empty until the preflight has passed.
    pub waves: Vec<FleetWave>,
    /// Index of the wave on trial; the waves before it have passed.
    pub position: usize,
    /// Nodes that were away at the preflight: they take the head when they are back.
    pub absent: Vec<String>,
    /// Who paused it.
    pub paused: Option<String>,
    /// Whether it waits for `fleet confirm` at the end.
    pub manual: bool,
    /// Bake time of every wave in seconds.
    pub bake_s: u32,
    /// What each node reported, sorted by name.
    pub results: Vec<FleetResult>,
}

/// A wave of a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetWave {
    /// Its nodes.
    pub nodes: Vec<String>,
    /// The verdict; none until the wave was judged.
    pub verdict: Option<FleetVerdict>,
}

/// Verdict of a wave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetVerdict {
    /// What was decided.
    pub kind: FleetVerdictKind,
    /// The compared figures.
    pub detail: String,
}

/// Kind of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum FleetVerdictKind {
    /// The changed nodes were compared with the rest, and are not worse.
    Passed,
    /// Too little traffic to compare; the trial of each node passed.
    Unseen,
    /// No other nodes to compare with; the trial of each node passed.
    Alone,
    /// The changed nodes are worse than the rest, or a trial failed.
    Failed,
}

/// What a node reported about a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetResult {
    /// Name of the node.
    pub node: String,
    /// How far it is.
    pub phase: FleetPhase,
    /// Why it refused, failed or undid the candidate; empty otherwise.
    pub reason: String,
}

/// How far a node is with a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum FleetPhase {
    /// Its plan passed.
    Planned,
    /// Its plan or a guard refused the candidate.
    Refused,
    /// It is about to apply the candidate, or the candidate bakes.
    Baking,
    /// Its trial passed; it waits for the fleet.
    Baked,
    /// It could not apply the candidate, or its trial failed and was rolled back.
    Failed,
    /// It rolled the candidate back because the rollout failed.
    Undone,
}

/// A fleet revision without its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetRevisionInfo {
    /// Number.
    pub number: FleetRevisionNumber,
    /// The head when it was written; none for the first one and after an import.
    pub parent: Option<FleetRevisionNumber>,
    /// SHA-256 of the text, in hexadecimal.
    pub digest: String,
    /// Who wrote it: user and process.
    pub author: String,
    /// The node where it was written.
    pub node: String,
    /// Reason given by the author.
    pub why: Option<String>,
    /// When it was written.
    pub at: Timestamp,
    /// How it ended; none while its rollout runs.
    pub outcome: Option<FleetOutcome>,
}

/// How a fleet revision ended: head, or undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetOutcome {
    /// Whether it became head.
    pub confirmed: bool,
    /// Why it did not; or how the waves passed. One line.
    pub detail: String,
    /// When.
    pub at: Timestamp,
}

/// A fleet revision with its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetRevision {
    /// Metadata.
    #[serde(flatten)]
    pub info: FleetRevisionInfo,
    /// The `[[vip]]` tables (TOML).
    pub text: String,
}

/// Request to create a fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FleetInitRequest {
    /// The `[[vip]]` tables (TOML) of revision 1; if absent, those of the running configuration.
    pub text: Option<String>,
    /// Reason, for the history.
    pub why: Option<String>,
}

/// Request to plan a fleet configuration on all live nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FleetPlanRequest {
    /// The `[[vip]]` tables (TOML).
    pub text: String,
    /// Guards to override.
    #[serde(default)]
    pub force: Vec<Guard>,
    /// Whether changes that were made on a node itself may be replaced.
    #[serde(default)]
    pub override_local: bool,
}

/// Plans of the live nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FleetPlan {
    /// The head that the plans are based on.
    pub base: FleetRevisionNumber,
    /// The plan of this node; none if the text is invalid here.
    pub plan: Option<Plan>,
    /// What each node says, sorted by name.
    pub nodes: Vec<FleetNodePlan>,
    /// Joined nodes that are away.
    pub absent: Vec<String>,
}

/// What a node says about a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetNodePlan {
    /// Name of the node.
    pub node: String,
    /// Why it refuses; none if it would take the text.
    pub refusal: Option<String>,
}

/// What the nodes of a fleet would do with a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetExplanation {
    /// Whether there is an answer, and all have the same VIP, backend and verdict (`tx` and `redirect` both
    /// forward).
    pub agree: bool,
    /// What each live node answered, sorted by name.
    pub nodes: Vec<FleetNodeExplanation>,
    /// Joined nodes that are away.
    pub absent: Vec<String>,
}

/// What a node would do with a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetNodeExplanation {
    /// Name of the node.
    pub node: String,
    /// Its answer.
    pub explanation: Option<Explanation>,
    /// Why it has none.
    pub error: Option<String>,
}

/// Request to roll out a fleet configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FleetApplyRequest {
    /// The `[[vip]]` tables (TOML).
    pub text: String,
    /// Refuse unless this is the head.
    pub base: Option<FleetRevisionNumber>,
    /// The node that is changed first; if absent, one is chosen.
    pub canary: Option<String>,
    /// Bake time of every wave in seconds; if absent, `change.bake` of this node.
    pub bake_s: Option<u32>,
    /// Whether `fleet confirm` is needed at the end.
    #[serde(default)]
    pub manual: bool,
    /// All nodes in one wave.
    #[serde(default)]
    pub now: bool,
    /// Guards to override on every node.
    #[serde(default)]
    pub force: Vec<Guard>,
    /// Whether changes that were made on a node itself are replaced.
    #[serde(default)]
    pub override_local: bool,
    /// Reason, for the history.
    pub why: Option<String>,
}

/// Request to roll the fleet back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FleetRollbackRequest {
    /// The fleet revision to restore; if absent: a running rollout is undone, or the head's parent
    /// is restored.
    pub revision: Option<FleetRevisionNumber>,
    /// All nodes in one wave.
    #[serde(default)]
    pub now: bool,
    /// Whether changes that were made on a node itself are replaced.
    #[serde(default)]
    pub override_local: bool,
    /// Reason, for the history.
    pub why: Option<String>,
}

/// Result of `fleet apply` and `fleet rollback`: the rollout to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetStarted {
    /// The fleet revision of the rollout; of the undone one, if a running rollout was undone.
    pub revision: FleetRevisionNumber,
    /// Whether a running rollout was undone, so that no new one began.
    pub undone: bool,
}

/// Result of `fleet doctor`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FleetDoctor {
    /// The endpoints, in the order of the configuration.
    pub endpoints: Vec<FleetEndpoint>,
    /// What was checked of the fleet.
    pub checks: Vec<FleetCheck>,
}

/// An endpoint of etcd.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FleetEndpoint {
    /// Its URL.
    pub endpoint: String,
    /// Why it does not answer; none if it does.
    pub error: Option<String>,
    /// Version of etcd.
    pub version: Option<String>,
    /// Whether the member has a leader, and so a quorum.
    pub has_quorum: bool,
    /// Size of its database in bytes.
    pub db_bytes: Option<u64>,
    /// Milliseconds that the answer took.
    pub latency_ms: Option<f64>,
}

/// A check of `fleet doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetCheck {
    /// What was checked: `etcd`, `fleet`, `joined`, `facts`, `state`, `leader`, `nodes`.
    pub name: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was found, and what to do.
    pub text: String,
}

/// The difference of two fleet revisions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetDiff {
    /// The older side.
    pub from: FleetRevisionNumber,
    /// The newer side.
    pub to: FleetRevisionNumber,
    /// A unified diff of the texts.
    pub unified: String,
}
