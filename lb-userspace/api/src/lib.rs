//! What is said over the API: requests, answers, errors.
//!
//! The server, the command line and the OpenAPI document are made from these types, so that they
//! can't disagree. Shares are numbers from 0 to 1; rates are per second; times are RFC 3339 in UTC.

#![warn(missing_docs)]

mod alert;
mod change;
pub mod client;
mod error;
mod explain;
mod plan;
mod revision;
mod status;

pub use alert::{Alert, Event, Severity};
pub use change::{
    ApplyRequest, BackendSpec, Change, ConfirmRequest, Edit, Guard, PlanRequest, RollbackRequest,
    VipSpec, WantedState,
};
pub use error::{ApiError, ErrorCode, Refused};
pub use explain::{ExplainRequest, ExplainStep, Explanation};
pub use plan::{
    GuardResult, GuardVerdict, MemberPlan, MemberSide, Plan, PlanVerdict, VipAction, VipPlan,
};
pub use revision::{Applied, Diff, Progress, Revision, RevisionInfo, RevisionState};
pub use status::{
    CapacityStatus, HealthStatus, InterfaceStatus, MemberState, MemberStatus, NodeStatus, Rates,
    RingStatus, Status, Totals, VipStatus,
};

/// Number of a revision; the first is 1.
pub type RevisionNumber = u64;
