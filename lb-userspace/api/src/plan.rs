//! Plans: what a change would do.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Guard, RevisionNumber, WantedState};

/// What a change would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// The revision that it starts from.
    pub base: RevisionNumber,
    /// What would come of it.
    pub verdict: PlanVerdict,
    /// VIPs that change.
    pub vips: Vec<VipPlan>,
    /// Changes outside of VIPs, in words: `node.interfaces: ["eth0"] → ["eth0", "eth1"]`.
    pub other: Vec<String>,
    /// What hinders nothing, but may not be meant so, in sentences.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// What would come of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlanVerdict {
    /// Nothing to do.
    Nothing,
    /// It may be applied.
    Allowed,
    /// A guard refuses.
    Refused,
}

/// What happens to a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VipAction {
    /// It is new.
    Added,
    /// It goes.
    Removed,
    /// It goes and comes again; its connections break.
    Replaced,
    /// Its members, weights or settings change.
    Changed,
}

/// What a change would do to a VIP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VipPlan {
    /// Its name.
    pub vip: String,
    /// What happens.
    pub action: VipAction,
    /// Its members, before and after.
    pub members: Vec<MemberPlan>,
    /// Slots of the ring.
    pub ring_size: u32,
    /// Slots that another member gets.
    pub slots_moved: u32,
    /// New flows a second that the VIP has now.
    pub new_flows_per_s: f64,
    /// The highest number of new flows a second in the last hour.
    pub peak_new_flows_per_s: f64,
    /// Settings that change, in words: `health.interval: 1s → 2s`.
    pub settings: Vec<String>,
    /// What the guards say.
    pub guards: Vec<GuardResult>,
}

/// What a change would do to a member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MemberPlan {
    /// Name of the backend.
    pub backend: String,
    /// Its address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Before; none if it is new.
    pub before: Option<MemberSide>,
    /// After; none if it goes.
    pub after: Option<MemberSide>,
    /// New flows a second that it would get, of the VIP's peak.
    pub predicted_new_flows_per_s: f64,
    /// New flows a second that it can take, if that is known.
    pub capacity: Option<u32>,
}

/// A member on one side of a change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MemberSide {
    /// Its weight.
    pub weight: u32,
    /// What the operator wants of it.
    pub state: WantedState,
    /// Whether it can have slots: healthy, up, with weight.
    pub eligible: bool,
    /// Weight over the sum of the eligible weights.
    pub intended_share: f64,
    /// Slots over ring size.
    pub table_share: f64,
}

/// What a guard says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GuardResult {
    /// The guard.
    pub guard: Guard,
    /// Whether it lets the change pass.
    pub verdict: GuardVerdict,
    /// What it saw, and its limit: `backend b1 would have 62 % of the table; 40 % is allowed`.
    pub detail: String,
}

/// Whether a guard lets a change pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GuardVerdict {
    /// Nothing against it.
    Passed,
    /// It refuses.
    Refused,
    /// It would refuse, but is forced.
    Forced,
}
