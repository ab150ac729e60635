//! How everything stands.

use std::{collections::BTreeMap, net::IpAddr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Alert, RevisionInfo};

/// Everything on one screen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// When this was so.
    pub at: Timestamp,
    /// The node.
    pub node: NodeStatus,
    /// The running revision.
    pub revision: Option<RevisionInfo>,
    /// The VIPs, in the order of the configuration.
    pub vips: Vec<VipStatus>,
    /// Alerts that are on.
    pub alerts: Vec<Alert>,
    /// Packets by what became of them (names as in `docs/operations.md`), since the maps were made.
    pub reasons: BTreeMap<String, u64>,
}

/// The node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    /// Name of the host.
    pub host: String,
    /// Version of the controller.
    pub version: String,
    /// Process id of the controller.
    pub pid: u32,
    /// When the controller started.
    pub started_at: Timestamp,
    /// Whether it adopted a running data path.
    pub adopted: bool,
    /// Id of the XDP program.
    pub program_id: u32,
    /// The interfaces.
    pub interfaces: Vec<InterfaceStatus>,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// `native` or `generic`; `none` when our program is not there.
    pub mode: String,
    /// Id of the program that runs there.
    pub program_id: Option<u32>,
}

/// A VIP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VipStatus {
    /// Its name.
    pub name: String,
    /// Its address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Its port; 0 for any.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// `l2`, `ipip` or `nat`.
    pub forward: String,
    /// Whether too few are healthy and traffic is spread over all.
    pub panic: bool,
    /// The ring.
    pub ring: RingStatus,
    /// Rates of all members together.
    pub rates: Rates,
    /// The highest number of new flows a second, over ten seconds each, in the last hour.
    #[serde(default)]
    pub peak_new_flows_per_s: f64,
    /// What the rates mean for the size of the service; none while the capacity of an eligible backend is not configured.
    #[serde(default)]
    pub capacity: Option<CapacityStatus>,
    /// Entries of the tracking table.
    pub tracked_flows: u64,
    /// The members, in the order of the configuration; then those that leave.
    pub members: Vec<MemberStatus>,
}

/// How much of a VIP's capacity is used, and how many backends it should have.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CapacityStatus {
    /// New flows a second that the eligible backends can take together.
    pub eligible_new_flows_per_s: f64,
    /// New flows a second now over that; above 1 it is exceeded.
    pub utilisation: f64,
    /// The wanted utilisation.
    pub target_utilisation: f64,
    /// New flows a second that could still come if the largest eligible backend failed; below 0, the others could not take what
    /// there is now.
    pub headroom_after_failure: f64,
    /// Backends that can get new flows.
    pub eligible_backends: u32,
    /// Backends of the present mean capacity that would bring the utilisation to its target.
    pub wanted_backends: u32,
}

/// The slots of a ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RingStatus {
    /// All.
    pub slots: u32,
    /// Those in transition.
    pub in_transition: u32,
    /// Those whose transition ended and whose flows still have entries.
    pub settling: u32,
}

/// Rates over the last ten seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Rates {
    /// Packets a second.
    pub packets_per_s: f64,
    /// Bytes a second.
    pub bytes_per_s: f64,
    /// New flows a second.
    pub new_flows_per_s: f64,
}

/// The state of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// It serves.
    Up,
    /// Its checks fail, or have not yet succeeded.
    Down,
    /// It keeps its flows and gets no new ones.
    Draining,
    /// The operator wants it to get nothing.
    Disabled,
    /// It is not in the configuration any more, and keeps its flows until they end.
    Leaving,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MemberStatus {
    /// Name of the backend.
    pub backend: String,
    /// Its address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Its port; 0: that of the packet.
    pub port: u16,
    /// Its state.
    pub state: MemberState,
    /// The configured weight.
    pub weight: u32,
    /// The weight in force: less while it starts slowly.
    pub effective_weight: u32,
    /// New flows a second that it can take, if that is known.
    pub capacity: Option<u32>,
    /// What its checks say; none if it is not checked.
    pub health: Option<HealthStatus>,
    /// Whether frames can be sent to it; if not, why.
    pub next_hop: Option<String>,
    /// Counters since the controller first knew it; they never go backwards.
    pub totals: Totals,
    /// Rates over the last ten seconds.
    pub rates: Rates,
    /// Flows of it in the tracking table.
    pub tracked_flows: u64,
    /// Weight over the sum of the eligible weights.
    pub intended_share: f64,
    /// Slots over ring size.
    pub table_share: f64,
    /// New flows over those of the VIP, in the last minute; none when there were none.
    pub observed_share: Option<f64>,
}

/// Counters that never go backwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Totals {
    /// Packets sent to it.
    pub packets: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// New flows.
    pub new_flows: u64,
}

/// What checks say about a member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HealthStatus {
    /// Whether it counts as healthy.
    pub healthy: bool,
    /// Since when.
    pub since: Timestamp,
    /// Whether the newest check succeeded; none before the first.
    pub last_ok: Option<bool>,
    /// What the newest check that failed met.
    pub last_error: Option<String>,
    /// How long the newest check took.
    pub latency_ms: Option<f64>,
    /// Whether it goes up and down so often that it is held down.
    pub damped: bool,
}
