//! What the actor can be asked for.

use std::{collections::BTreeSet, net::IpAddr};

use tokio::sync::oneshot;

use super::EngineResult;
use crate::http::Caller;
use lb_api::{
    Applied, ApplyRequest, Change, ConfirmRequest, Diff, ExplainRequest, Plan, PlanRequest,
    Progress, Revision, RevisionInfo, RevisionNumber, RollbackRequest,
};
use lb_dataplane::explain::Explanation;

/// Where the answer goes. Nobody there any more is fine.
pub(super) type Ask<T> = oneshot::Sender<EngineResult<T>>;

pub(super) enum Command {
    Plan(PlanRequest, Ask<Plan>),
    /// Look for the ways to the backends of a change; gives their addresses.
    Prepare(Change, Ask<BTreeSet<IpAddr>>),
    Apply(Box<ApplyRequest>, Caller, Ask<Applied>),
    Confirm(ConfirmRequest, Caller, Ask<RevisionInfo>),
    Rollback(RollbackRequest, Caller, Ask<Applied>),
    PrepareReload(Ask<BTreeSet<IpAddr>>),
    Reload(Ask<Applied>),
    Explain(ExplainRequest, Ask<Explanation>),
    Revisions(Ask<Vec<RevisionInfo>>),
    /// Without a number: the running one.
    Revision(Option<RevisionNumber>, Ask<Revision>),
    Progress(RevisionNumber, Ask<Progress>),
    Diff(RevisionNumber, RevisionNumber, Ask<Diff>),
}
