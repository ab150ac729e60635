//! The node that the agent changes: the daemon's engine, or a simulated one in tests.

use std::future::Future;

use lb_api::{ExplainRequest, Explanation, Guard, Plan, RevisionNumber};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What all nodes of a fleet must have in common, so that they choose alike; and the version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Version of the layout of the maps.
    pub abi: u32,
    /// Slots of the largest ring.
    pub table_size: u32,
    /// HMAC-SHA256 of a fixed text under the hash seed: the first 16 bytes, in hexadecimal. Never the seed.
    pub seed_fingerprint: String,
    /// Version of the controller. May differ between nodes.
    pub version: String,
}

/// What a node runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// SHA-256 of the fleet part of the active configuration, in hexadecimal: [`crate::digest`].
    pub digest: String,
    /// The active local revision.
    pub local: RevisionNumber,
    /// The change on trial, if there is one: always of the revision `local`.
    pub trial: Option<Trial>,
}

/// A local revision on trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// It bakes.
    Baking,
    /// It has baked, and is rolled back unless it is confirmed in time.
    AwaitsConfirm,
}

/// The outcome of a local revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is on trial.
    Trial(Trial),
    /// It was applied and kept; it may have been replaced since.
    Kept,
    /// It was rolled back, or could not be applied.
    RolledBack {
        /// Why.
        why: String,
        /// Whether an operator rolled it back, on this node.
        by_operator: bool,
    },
    /// The node does not know the revision.
    Unknown,
}

/// How a text is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct How {
    /// Bake time in seconds; 0: do not bake.
    pub bake_s: u32,
    /// Seconds after the end of the bake until the node rolls back unless confirmed or extended; none: the
    /// change needs no confirmation. The agent itself rolls back earlier, also during the bake, when it
    /// has lost the fleet for so long.
    pub confirm_s: Option<u32>,
    /// Guards to override.
    pub force: Vec<Guard>,
    /// Origin, for the local history: `fleet revision 7`.
    pub origin: String,
    /// Reason, for the local history.
    pub why: Option<String>,
}

/// Counters of a node. They only grow, but for `members_down`, and start at 0 with the controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// New flows.
    pub new_flows: u64,
    /// TCP connections that were reset by backends, or refused.
    pub resets: u64,
    /// Packets dropped for reasons that a good change does not make more frequent.
    pub drops: u64,
    /// Backends that should serve and are down now.
    pub members_down: u64,
}

/// Error of a node.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum NodeError {
    /// Another change is in progress; it can be tried again.
    #[error("{message}")]
    Busy {
        /// Which change.
        message: String,
        /// Seconds until it is settled.
        remaining_s: f64,
    },
    /// A guard refused the change.
    #[error("{message}")]
    Refused {
        /// The guards and the values they measured.
        message: String,
        /// The refused plan.
        plan: Box<Plan>,
    },
    /// The composed configuration is invalid.
    #[error("{0}")]
    Invalid(String),
    /// The revision is not on trial (any more).
    #[error("{0}")]
    Conflict(String),
    /// The kernel or the file system failed; the previous configuration is active.
    #[error("{0}")]
    Failed(String),
}

/// The node that the agent changes.
///
/// Texts are fleet parts (`[[vip]]` tables); the node composes them with its own sections. No method may
/// wait for etcd. All are called from one task, one at a time, but for `plan`.
pub trait Node: Clone + Send + Sync + 'static {
    /// The facts of this node.
    fn facts(&self) -> Facts;

    /// What is active now.
    fn running(&self) -> impl Future<Output = Result<Running, NodeError>> + Send;

    /// The fleet part of the active configuration.
    fn text(&self) -> impl Future<Output = Result<String, NodeError>> + Send;

    /// The outcome of a local revision. It must survive a restart for as long as the revision is kept.
    fn outcome(
        &self,
        local: RevisionNumber,
    ) -> impl Future<Output = Result<Outcome, NodeError>> + Send;

    /// Plans a text. A guard's refusal is a plan with this verdict, not an error.
    fn plan(
        &self,
        text: &str,
        force: &[Guard],
    ) -> impl Future<Output = Result<Plan, NodeError>> + Send;

    /// What the data path would do with a packet.
    fn explain(
        &self,
        request: &ExplainRequest,
    ) -> impl Future<Output = Result<Explanation, NodeError>> + Send;

    /// Applies a text, on trial if `how` says so, and returns its local revision; none if the text means the
    /// same as the active configuration, which then stays as it is (and its digest).
    fn apply(
        &self,
        text: &str,
        how: &How,
    ) -> impl Future<Output = Result<Option<RevisionNumber>, NodeError>> + Send;

    /// Moves the deadline to confirm to `confirm_s` seconds from now, durably. Called only for
    /// [`Trial::AwaitsConfirm`], about every 10 seconds.
    fn extend(
        &self,
        local: RevisionNumber,
        confirm_s: u32,
    ) -> impl Future<Output = Result<(), NodeError>> + Send;

    /// Removes the deadline to confirm. Does nothing if the revision is kept already.
    fn confirm(&self, local: RevisionNumber) -> impl Future<Output = Result<(), NodeError>> + Send;

    /// Rolls a revision on trial back. If it is not on trial: [`NodeError::Conflict`].
    fn roll_back(
        &self,
        local: RevisionNumber,
        why: &str,
    ) -> impl Future<Output = Result<(), NodeError>> + Send;

    /// Counters, for the comparison of nodes.
    fn observed(&self) -> impl Future<Output = Observed> + Send;
}
