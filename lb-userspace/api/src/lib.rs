//! Requests, responses and errors of the API, and its client.
//!
//! The server, the command line and the OpenAPI document are generated from these types. Shares are
//! numbers from 0 to 1, rates are per second, times are RFC 3339 in UTC.

#![cfg_attr(not(test), warn(clippy::too_many_lines))]
#![warn(missing_docs)]

mod alert;
mod announce;
mod bound;
mod capture;
mod change;
pub mod client;
mod error;
mod explain;
mod fleet;
mod limits;
mod plan;
mod revision;
mod source;
mod status;

pub use alert::{Alert, Event, Severity, TestedReceiver};
pub use announce::{
    AddressState, AddressStatus, AnnounceCheck, AnnounceStatus, AnnounceSummary, AnnounceVia,
    DrainState, KernelTableStatus, PeerStatus,
};
pub use bound::{BoundPlan, FullBackend};
pub use capture::{CaptureRequest, CaptureSide, SampledFlow};
pub use change::{
    ApplyRequest, BackendSpec, Change, ConfirmRequest, Edit, Guard, PlanRequest, ReloadRequest,
    RollbackRequest, VipSpec, WantedState,
};
pub use error::{ApiError, ErrorCode, Refused};
pub use explain::{ExplainRequest, ExplainStep, Explanation};
pub use fleet::{
    FleetApplyRequest, FleetCheck, FleetDiff, FleetDisagreement, FleetDoctor, FleetDown,
    FleetEndpoint, FleetExchange, FleetExplanation, FleetHead, FleetHealth, FleetInitRequest,
    FleetNode, FleetNodeExplanation, FleetNodePlan, FleetNodeState, FleetOpinion, FleetOutcome,
    FleetPeer, FleetPhase, FleetPlan, FleetPlanRequest, FleetResult, FleetRevision,
    FleetRevisionInfo, FleetRevisionNumber, FleetRollbackRequest, FleetRollout, FleetRolloutState,
    FleetStarted, FleetState, FleetSuspect, FleetVerdict, FleetVerdictKind, FleetWave,
};
pub use limits::{
    ExceededLimit, LimitSuggestion, LimitedRate, LimitedSource, LimitsPlan, SeenTraffic,
    SourceTraffic, SuggestedRates,
};
pub use plan::{
    GuardResult, GuardVerdict, MemberPlan, MemberSide, Plan, PlanVerdict, VipAction, VipPlan,
};
pub use revision::{
    Applied, Diff, FileDiff, Progress, Reloaded, Revision, RevisionInfo, RevisionState,
};
pub use source::{MemberIntent, NewMember, SetSourceRequest, SourceMember, SourceStatus};
pub use status::{
    BoundStatus, CapacityStatus, ExcessSource, FileState, FileStatus, HealthStatus,
    InterfaceStatus, LimitStatus, MemberState, MemberStatus, NatPorts, NodeStatus, Rates,
    ReceivingBackend, RingStatus, SpillingBackend, Status, Totals, VipStatus,
};
/// Gives [`Guard::VARIANTS`].
pub use strum::VariantArray;

/// Number of a revision; the first is 1.
pub type RevisionNumber = u64;

/// Gives enums the names that they have in JSON.
macro_rules! names {
    ($($name:ident),*) => {$(
        impl $name {
            /// Returns the name in JSON.
            #[must_use]
            pub fn as_str(&self) -> &'static str {
                self.into()
            }
        }
    )*};
}

names!(
    FileState,
    FleetNodeState,
    FleetPhase,
    FleetRolloutState,
    FleetVerdictKind,
    Guard,
    LimitedRate,
    MemberState,
    PlanVerdict,
    RevisionState,
    Severity,
    VipAction,
    WantedState
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_json() {
        for guard in Guard::VARIANTS {
            assert_eq!(serde_json::to_value(guard).unwrap(), guard.as_str());
        }
        let state = RevisionState::AwaitingConfirm {
            until: jiff::Timestamp::UNIX_EPOCH,
        };
        let json = serde_json::to_value(&state).unwrap();
        assert_eq!(json["state"], state.as_str());
    }
}
