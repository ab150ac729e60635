//! Requests to the actor and their results.

use jiff::SignedDuration;
use lb_dataplane::explain::Explanation;
use lb_model::{
    edit::Edit,
    planner::{Guard, Plan},
    sources::LimitSuggestion,
};
use tokio::sync::oneshot;

use super::{
    EngineResult, capture::CaptureCommand, fleet::FleetCommand, flows::SampledFlow,
    membership::MembershipCommand, request::Prepared,
};
use crate::{
    caller::Caller,
    node::FileStatus,
    revision::{OnFailure, Revision, RevisionInfo, RevisionNumber},
};

/// A change of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A whole configuration. Relative paths in it start at the folder of `file`.
    Config { file: String, text: String },
    /// Edits of the running configuration, in this order; all or none.
    Edits(Vec<Edit>),
    /// The configuration of an earlier revision; by default the one before the last change.
    Revision(Option<RevisionNumber>),
    /// The running configuration with the VIPs of the fleet; the name of these in the history.
    Fleet { vips: String, origin: String },
}

impl Change {
    /// An operator must be able to take a backend out of service when the disk can't be written.
    pub(super) fn on_failure(&self) -> OnFailure {
        match self {
            Self::Edits(edits)
                if edits
                    .iter()
                    .all(|edit| matches!(edit, Edit::SetState { .. })) =>
            {
                OnFailure::Keep
            }
            _ => OnFailure::Fail,
        }
    }
}

/// A change to apply, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeRequest {
    pub change: Change,
    /// Guards to override.
    pub force: Vec<Guard>,
    /// Refuse unless this revision is running.
    pub base: Option<RevisionNumber>,
    /// Roll back unless confirmed within this time.
    pub confirm: Option<SignedDuration>,
    /// Bake for this time; by default `change.bake` of the configuration.
    pub bake: Option<SignedDuration>,
    /// The reason, for the history.
    pub why: Option<String>,
}

/// The result of a change.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The new revision; none if nothing changed.
    pub revision: Option<RevisionInfo>,
    pub plan: Plan,
}

/// The result of a reload.
#[derive(Clone, Debug, PartialEq)]
pub struct Reloaded {
    /// None if the reload waits.
    pub applied: Option<Applied>,
    /// The change in progress that the reload waits for.
    pub waits_for: Option<Progress>,
    pub file: FileStatus,
}

/// The difference from the active revision to the configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDiff {
    pub revision: RevisionNumber,
    pub file: String,
    pub unified: String,
}

/// The progress of a revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    pub revision: RevisionInfo,
    /// Seconds until the bake or the time to confirm ends.
    pub remaining_s: f64,
    /// What is being watched, and its state.
    pub notes: Vec<String>,
}

/// Where the result goes. The receiver may be gone.
pub(super) type Reply<T> = oneshot::Sender<EngineResult<T>>;

pub(super) fn send<T>(reply: Reply<T>, result: EngineResult<T>) {
    // The caller may have gone.
    let _ = reply.send(result);
}

pub(super) enum Command {
    Plan(Change, Vec<Guard>, Reply<Plan>),
    /// Reads the configuration of a change and starts to resolve the next hops of its backends.
    Prepare(Change, Reply<Box<Prepared>>),
    Apply(Box<ChangeRequest>, Box<Prepared>, Caller, Reply<Applied>),
    Confirm(Option<RevisionNumber>, Caller, Reply<RevisionInfo>),
    /// Nothing is prepared if there is no such revision.
    Rollback(
        Option<RevisionNumber>,
        Option<String>,
        Option<Box<Prepared>>,
        Caller,
        Reply<Applied>,
    ),
    PrepareReload(Reply<Box<Prepared>>),
    /// Whether it waits for a change in progress.
    Reload(Box<Prepared>, bool, Caller, Reply<Reloaded>),
    /// A flow, and whether the packet opens it.
    Explain(String, bool, Reply<Explanation>),
    /// Name of a VIP and of a backend.
    Flows(Option<String>, Option<String>, Reply<Vec<SampledFlow>>),
    /// Name of a VIP.
    SuggestLimits(Option<String>, Reply<Vec<LimitSuggestion>>),
    Revisions(Reply<Vec<RevisionInfo>>),
    /// Without a number: the running revision.
    Revision(Option<RevisionNumber>, Reply<Revision>),
    Progress(RevisionNumber, Reply<Progress>),
    Diff(RevisionNumber, RevisionNumber, Reply<String>),
    DiffFile(Reply<FileDiff>),
    Capture(CaptureCommand),
    Fleet(FleetCommand),
    Membership(MembershipCommand),
}
