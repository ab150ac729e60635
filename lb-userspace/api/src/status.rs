//! State of the node, its VIPs and their members.

use std::{collections::BTreeMap, net::IpAddr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;
use utoipa::ToSchema;

use super::{Alert, AnnounceSummary, FleetState, RevisionInfo, SourceStatus};

/// State of the node, its VIPs and alerts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Time of this status.
    pub at: Timestamp,
    /// The node.
    pub node: NodeStatus,
    /// The active revision.
    pub revision: Option<RevisionInfo>,
    /// The configuration file, compared with the active revision.
    #[serde(default)]
    pub file: Option<FileStatus>,
    /// The VIPs, in the order of the configuration.
    pub vips: Vec<VipStatus>,
    /// Sources of members. Missing if no VIP uses one and none was set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceStatus>,
    /// What is announced. Missing without `[announce]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announce: Option<AnnounceSummary>,
    /// Firing alerts.
    pub alerts: Vec<Alert>,
    /// Packets by reason (names as in `docs/operations.md`), since the maps were created.
    pub reasons: BTreeMap<String, u64>,
    /// The fleet as this node sees it; none outside of a fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<FleetState>,
}

/// The configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileStatus {
    /// Path of the file.
    pub path: String,
    /// The file, compared with the active revision.
    pub state: FileState,
    /// Why the file is invalid.
    pub problem: Option<String>,
}

/// The configuration file, compared with the active revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum FileState {
    /// It means the same as the active revision.
    Active,
    /// It was applied, and the active revision was changed since, by commands or by a rollback.
    Overridden,
    /// It was edited and not applied: a reload or a restart applies it.
    Edited,
    /// It has errors or can't be read: a reload or a restart changes nothing.
    Invalid,
}

/// State of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    /// Host name.
    pub host: String,
    /// Version of the controller.
    pub version: String,
    /// Process ID of the controller.
    pub pid: u32,
    /// When the controller started.
    pub started_at: Timestamp,
    /// Whether the controller adopted a running data path.
    pub adopted: bool,
    /// ID of the XDP program.
    pub program_id: u32,
    /// The interfaces that the program is attached to.
    pub interfaces: Vec<InterfaceStatus>,
}

/// State of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InterfaceStatus {
    /// Name of the interface.
    pub name: String,
    /// `native` or `generic`; `none` if Evenkeel's program is not attached.
    pub mode: String,
    /// ID of the attached XDP program, if any.
    pub program_id: Option<u32>,
}

/// State of a VIP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VipStatus {
    /// Name of the VIP.
    pub name: String,
    /// Address that clients connect to.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Port that clients connect to; 0: any port.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Forwarding mode: `l2`, `ipip` or `nat`.
    pub forward: String,
    /// Panic mode: too few backends are healthy, and new flows go to all of them.
    pub panic: bool,
    /// State of the ring.
    pub ring: RingStatus,
    /// Rates of all members together.
    pub rates: Rates,
    /// Highest rate of new flows in the last hour, per second, averaged over ten seconds.
    #[serde(default)]
    pub peak_new_flows_per_s: f64,
    /// Use of the capacity; none unless the capacity of every eligible backend is configured.
    #[serde(default)]
    pub capacity: Option<CapacityStatus>,
    /// Number of entries in the tracking table; with `nat`, its established sessions.
    pub tracked_flows: u64,
    /// Use of its limits; none without.
    #[serde(default)]
    pub limit: Option<LimitStatus>,
    /// What its bound spilled; none without.
    #[serde(default)]
    pub bound: Option<BoundStatus>,
    /// The members in the order of the configuration, followed by those that are leaving.
    pub members: Vec<MemberStatus>,
}

/// Use of a VIP's capacity and the number of backends it needs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CapacityStatus {
    /// Capacity of the eligible backends together, in new flows per second.
    pub eligible_new_flows_per_s: f64,
    /// Current new flows over that capacity; above 1, it is exceeded.
    pub utilisation: f64,
    /// The target utilisation.
    pub target_utilisation: f64,
    /// New flows per second that are left if the largest eligible backend fails; negative: the
    /// others could not take the current load.
    pub headroom_after_failure: f64,
    /// Number of backends that can get new flows.
    pub eligible_backends: u32,
    /// Number of backends of the current mean capacity at which the utilisation meets its target.
    pub wanted_backends: u32,
}

/// Packets over the limits of a VIP in the last ten seconds, whether they were dropped or not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LimitStatus {
    /// New flows over the limit of their source, per second.
    pub source_new_flows_per_s: f64,
    /// Packets over the limit of their source, per second.
    pub source_packets_per_s: f64,
    /// New flows over the limit of the VIP, per second.
    pub new_flows_per_s: f64,
    /// Packets over the limit of the VIP, per second.
    pub packets_per_s: f64,
    /// Packets from denied sources, per second.
    pub denied_per_s: f64,
    /// What happens over the limits of sources: `drop`, `count` or `second_syn`.
    pub source_on_excess: String,
    /// What happens over the limits of the VIP.
    pub on_excess: String,
    /// The sources of most of these packets.
    pub sources: Vec<ExcessSource>,
}

/// A source of packets over a limit, or of new flows of a full backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExcessSource {
    /// Its address or prefix, and its ports if a block of them counts as a source.
    pub source: String,
    /// Its share of the recorded packets over a limit, or of the backend's sampled new flows.
    pub share: f64,
}

/// New flows that the bound of a VIP spilled in the last ten seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BoundStatus {
    /// The multiple of its share that a backend does not exceed; none if shares are not bounded.
    pub factor: Option<f64>,
    /// Whether backends are bounded by their capacity.
    pub capacity: bool,
    /// Share of the new flows that went to another backend because that of the ring was full.
    pub spilled: f64,
    /// The same, per second.
    pub spilled_per_s: f64,
    /// Share of the new flows that stayed with a full backend.
    pub unplaced: f64,
    /// Those that stayed because all candidates were full, per second.
    pub all_full_per_s: f64,
    /// Those that stayed because the tracking table had no room, per second.
    pub no_room_per_s: f64,
    /// The backends whose flows spilled, those with the most first.
    pub spilling: Vec<SpillingBackend>,
    /// The backends that these flows went to, likewise.
    pub receiving: Vec<ReceivingBackend>,
}

/// A backend whose new flows spilled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SpillingBackend {
    /// Name of the backend.
    pub backend: String,
    /// Its part of all spilled flows.
    pub share_of_spilled: f64,
    /// New flows that the ring assigned to it, per second.
    pub assigned_per_s: f64,
    /// The same as a multiple of its share.
    pub times_share: f64,
    /// Its capacity, if that bounds it.
    pub capacity: Option<u32>,
    /// The source of most of these flows; none if no source stands out.
    pub source: Option<ExcessSource>,
}

/// A backend that got flows of full ones.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReceivingBackend {
    /// Name of the backend.
    pub backend: String,
    /// Its part of all spilled flows.
    pub share_of_spilled: f64,
}

/// Slots of a ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RingStatus {
    /// Number of slots.
    pub slots: u32,
    /// Slots in transition.
    pub in_transition: u32,
    /// Slots whose transition has ended but whose flows still have tracking entries.
    pub settling: u32,
}

/// Rates over the last ten seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Rates {
    /// Packets per second.
    pub packets_per_s: f64,
    /// Bytes per second.
    pub bytes_per_s: f64,
    /// New flows per second.
    pub new_flows_per_s: f64,
}

/// Operational state of a member.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    ToSchema,
    IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum MemberState {
    /// Serves.
    Up,
    /// Its health checks fail or have not succeeded yet.
    Down,
    /// Keeps its flows and gets no new ones.
    Draining,
    /// Disabled by the operator; gets no packets.
    Disabled,
    /// Removed from the configuration; keeps its flows until they end.
    Leaving,
}

/// State of a member: one backend of one VIP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MemberStatus {
    /// Name of the backend.
    pub backend: String,
    /// Address of the backend.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Port of the backend; 0: the packet's destination port.
    pub port: u16,
    /// Operational state.
    pub state: MemberState,
    /// Configured weight.
    pub weight: u32,
    /// Effective weight: lower than configured during slow start.
    pub effective_weight: u32,
    /// Capacity in new flows per second, if known.
    pub capacity: Option<u32>,
    /// State of the health checks; none if the member is not checked.
    pub health: Option<HealthStatus>,
    /// Why frames cannot be sent to the backend; none if its next hop is resolved.
    pub next_hop: Option<String>,
    /// Counters since the controller first saw the member; they never decrease.
    pub totals: Totals,
    /// Rates over the last ten seconds.
    pub rates: Rates,
    /// Number of the member's flows in the tracking table; with `nat`, its established sessions.
    pub tracked_flows: u64,
    /// Ports for `nat` sessions with the backend; none without `nat`.
    #[serde(default)]
    pub nat_ports: Option<NatPorts>,
    /// Weight over the sum of the eligible weights.
    pub intended_share: f64,
    /// Slots owned over ring size.
    pub table_share: f64,
    /// New flows over the VIP's new flows in the last minute; none if the VIP had none.
    pub observed_share: Option<f64>,
}

/// Ports for `nat` sessions with one port of a backend. Members with the same backend, protocol and
/// source address share them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NatPorts {
    /// Ports with an established session whose connection is not over.
    pub in_use: u32,
    /// Ports with a session whose connection is over: used again if the backend accepts that, and
    /// otherwise after 60 seconds.
    pub over: u32,
    /// Number of ports: `node.nat_ports` of one source address.
    pub total: u32,
}

/// Counters that never decrease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Totals {
    /// Packets sent to the member.
    pub packets: u64,
    /// Bytes of these packets.
    pub bytes: u64,
    /// New flows.
    pub new_flows: u64,
}

/// State of a member's health checks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HealthStatus {
    /// Whether the member is considered healthy.
    pub healthy: bool,
    /// When `healthy` last changed.
    pub since: Timestamp,
    /// Whether the last check succeeded; none before the first.
    pub last_ok: Option<bool>,
    /// Error of the last check that failed.
    pub last_error: Option<String>,
    /// Why the last check can't tell whether the member is healthy; none if it can.
    #[serde(default)]
    pub inconclusive: Option<String>,
    /// Duration of the last check in milliseconds.
    pub latency_ms: Option<f64>,
    /// Flap damping: the member goes up and down so often that it is held down.
    pub damped: bool,
}
