//! Plans: the effect of a change before it is made.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;
use utoipa::ToSchema;

use super::{BoundPlan, Guard, LimitsPlan, RevisionNumber, WantedState};

/// Effect of a change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// The active revision that the plan was made from.
    pub base: RevisionNumber,
    /// Whether the change may be applied.
    pub verdict: PlanVerdict,
    /// VIPs that change.
    pub vips: Vec<VipPlan>,
    /// Changed settings outside of VIPs: `node.interfaces: ["eth0"] → ["eth0", "eth1"]`.
    pub other: Vec<String>,
    /// Warnings, which do not prevent the change.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// Result of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum PlanVerdict {
    /// No changes.
    Nothing,
    /// The change may be applied.
    Allowed,
    /// A guard refuses the change.
    Refused,
}

/// What a change does to a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum VipAction {
    /// The VIP is new.
    Added,
    /// The VIP is removed.
    Removed,
    /// The VIP is removed and added again; its connections break.
    Replaced,
    /// Members, weights or settings change.
    Changed,
}

/// Effect of a change on a VIP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VipPlan {
    /// Name of the VIP.
    pub vip: String,
    /// What the change does to the VIP.
    pub action: VipAction,
    /// The members before and after.
    pub members: Vec<MemberPlan>,
    /// Number of slots in the ring.
    pub ring_size: u32,
    /// Number of slots that get another member.
    pub slots_moved: u32,
    /// Current rate of new flows, per second.
    pub new_flows_per_s: f64,
    /// Highest rate of new flows in the last hour, per second.
    pub peak_new_flows_per_s: f64,
    /// Changed settings: `health.interval: 1s → 2s`.
    pub settings: Vec<String>,
    /// Whom the limits would have limited, if the change makes them stricter.
    #[serde(default)]
    pub limits: Option<LimitsPlan>,
    /// How many new flows the bound would have spilled, if the change sets it or changes shares or
    /// capacities.
    #[serde(default)]
    pub bound: Option<BoundPlan>,
    /// Results of the guards.
    pub guards: Vec<GuardResult>,
}

/// Effect of a change on a member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MemberPlan {
    /// Name of the backend.
    pub backend: String,
    /// Address of the backend.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// The member before the change; none if it is added.
    pub before: Option<MemberSide>,
    /// The member after the change; none if it is removed.
    pub after: Option<MemberSide>,
    /// New flows per second that the member would get at the VIP's peak.
    pub predicted_new_flows_per_s: f64,
    /// Capacity in new flows per second, if known.
    pub capacity: Option<u32>,
}

/// A member before or after a change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MemberSide {
    /// Configured weight.
    pub weight: u32,
    /// Administrative state.
    pub state: WantedState,
    /// Whether the member can own slots: healthy, up, and with weight.
    pub eligible: bool,
    /// Weight over the sum of the eligible weights.
    pub intended_share: f64,
    /// Slots owned over ring size.
    pub table_share: f64,
}

/// Result of a guard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GuardResult {
    /// The guard.
    pub guard: Guard,
    /// Whether the guard lets the change pass.
    pub verdict: GuardVerdict,
    /// The measured value and its limit: `backend b1 would have 62 % of the ring; maximum is 40 %`.
    pub detail: String,
}

/// Verdict of a guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GuardVerdict {
    /// The change is within the limit.
    Passed,
    /// The change is refused.
    Refused,
    /// The change exceeds the limit, and the guard is overridden.
    Forced,
}
