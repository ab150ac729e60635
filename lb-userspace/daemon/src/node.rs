//! The state of the node, as the engine publishes it: once per second and after each change.
//!
//! Alerts and metrics are derived from it, and `http` makes the API's status of it.

mod announcing;

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use jiff::Timestamp;
use lb_fleet::FleetState;
use lb_model::{
    config::{Bound, Forward, OnExcess, Protocol},
    membership::{Families, Known, MemberSource},
};

pub use announcing::{
    Announced, AnnouncedAddress, Announcement, Announcing, BgpSession, DrainPhase, RouteTable,
    Unmet,
};

use crate::{
    alerts::Alert,
    health::HealthStatus,
    revision::RevisionInfo,
    traffic::{Capacity, Rates, Totals},
};

/// The node at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeState {
    pub at: Timestamp,
    pub node: NodeInfo,
    /// The active revision.
    pub revision: Option<RevisionInfo>,
    pub file: FileStatus,
    /// In the order of the configuration.
    pub vips: Vec<VipState>,
    /// Sources of members that VIPs use, and those that were set.
    pub sources: Vec<SourceState>,
    /// None if nothing is to be announced, and before the announcer was asked.
    pub announcing: Option<Announcing>,
    /// Firing alerts.
    pub alerts: Vec<Alert>,
    /// Packets by verdict reason since the maps were created.
    pub reasons: BTreeMap<&'static str, u64>,
    /// The fleet as the agent sees it; none outside of a fleet.
    pub fleet: Option<FleetState>,
}

/// The configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileStatus {
    pub path: PathBuf,
    pub state: FileState,
}

/// The configuration file, compared with the active configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FileState {
    /// It means the same.
    #[default]
    Active,
    /// It was applied, and the active configuration was changed since, by commands or a rollback.
    Overridden,
    /// It was edited and not applied.
    Edited,
    /// It has errors or can't be read: why.
    Invalid(String),
}

impl FileState {
    pub const NAMES: [&'static str; 4] = ["active", "overridden", "edited", "invalid"];

    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        Self::NAMES[match self {
            Self::Active => 0,
            Self::Overridden => 1,
            Self::Edited => 2,
            Self::Invalid(_) => 3,
        }]
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeInfo {
    pub host: String,
    pub version: &'static str,
    pub pid: u32,
    pub started_at: Timestamp,
    /// Whether a running data path was adopted.
    pub adopted: bool,
    /// Id of the XDP program.
    pub program_id: u32,
    pub interfaces: Vec<Interface>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub mode: InterfaceMode,
    /// Id of the program attached there; none if there is no link.
    pub program_id: Option<u32>,
}

/// How the program is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterfaceMode {
    Detached,
    Generic,
    Native,
}

impl InterfaceMode {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Detached => "none",
            Self::Generic => "generic",
            Self::Native => "native",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct VipState {
    pub name: String,
    pub address: IpAddr,
    /// 0: any.
    pub port: u16,
    pub protocol: Protocol,
    pub forward: Forward,
    /// Whether too few backends are healthy, so that traffic is spread over all of them.
    pub panic: bool,
    pub ring: RingSlots,
    /// Sum over all members.
    pub rates: Rates,
    /// The highest rate over ten seconds in the last hour.
    pub peak_new_flows_per_s: f64,
    /// Configured utilisation target, above 0.
    pub target_utilisation: f64,
    /// Entries in the tracking table.
    pub tracked_flows: u64,
    /// Packets whose flow found no room there; monotonic.
    pub untracked_packets: u64,
    /// Use of its limits; none without.
    pub limit: Option<LimitUse>,
    /// What its bound did; none without.
    pub bound: Option<BoundUse>,
    /// In the order of the configuration, then those that are leaving.
    pub members: Vec<MemberState>,
}

/// A source of members.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceState {
    pub source: MemberSource,
    /// The same name can be asked for both.
    pub families: Families,
    /// The VIPs that use it.
    pub vips: Vec<String>,
    /// Also those that are leaving.
    pub members: Vec<Known>,
    /// None before the first answer.
    pub answered_at: Option<Timestamp>,
    /// In a row.
    pub failures: u32,
    /// Why there is no newer answer.
    pub error: Option<String>,
    /// Whether it fails for so long that somebody should know.
    pub is_failing: bool,
    /// Members that its last answer does not name and that have not gone, in words.
    pub held: Option<String>,
    /// Questions without an answer; monotonic.
    pub failed: u64,
    /// Answers that were refused; monotonic.
    pub refused: u64,
}

/// Packets over the limits of a VIP in the last seconds, per second, whether they were dropped or not.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitUse {
    pub source_new_flows_per_s: f64,
    pub source_packets_per_s: f64,
    pub new_flows_per_s: f64,
    pub packets_per_s: f64,
    /// Packets of denied sources.
    pub denied_per_s: f64,
    /// What happens to those over a limit for sources, and over one for the VIP.
    pub source_on_excess: OnExcess,
    pub on_excess: OnExcess,
    /// Where most of them came from.
    pub sources: Vec<ExcessSource>,
}

/// A source of packets over a limit, or of new flows of a full backend.
#[derive(Clone, Debug, PartialEq)]
pub struct ExcessSource {
    /// Its prefix, and its ports if a block of them counts as a source.
    pub source: String,
    /// Its share of the recorded packets over a limit, or of the backend's sampled new flows.
    pub share: f64,
}

/// What the bound of a VIP did in the last seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct BoundUse {
    pub bound: Bound,
    /// New flows of all members.
    pub new_flows_per_s: f64,
    /// Those that went to another backend than that of the ring.
    pub spilled_per_s: f64,
    /// Those that stayed with a full backend because all candidates were full.
    pub all_full_per_s: f64,
    /// Those that stayed with a full backend because the tracking table had no room.
    pub no_room_per_s: f64,
    /// The backends whose flows spilled, those with the most first.
    pub spilling: Vec<SpillingBackend>,
    /// The backends that these flows went to, likewise.
    pub receiving: Vec<ReceivingBackend>,
}

/// A backend whose new flows spilled.
#[derive(Clone, Debug, PartialEq)]
pub struct SpillingBackend {
    pub backend: String,
    /// Its part of all spilled flows.
    pub share_of_spilled: f64,
    /// New flows that the ring assigned to it.
    pub assigned_per_s: f64,
    /// The same as a multiple of its share.
    pub times_share: f64,
    /// Its capacity, if that bounds it.
    pub capacity: Option<u32>,
    /// The source of most of them, with its part; none if no source stands out.
    pub source: Option<ExcessSource>,
}

/// A backend that got flows of full ones.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceivingBackend {
    pub backend: String,
    /// Its part of all spilled flows.
    pub share_of_spilled: f64,
}

impl BoundUse {
    /// Part of the new flows that spilled.
    #[must_use]
    pub fn spilled(&self) -> f64 {
        self.part(self.spilled_per_s)
    }

    /// Part of the new flows that stayed with a full backend.
    #[must_use]
    pub fn unplaced(&self) -> f64 {
        self.part(self.all_full_per_s + self.no_room_per_s)
    }

    fn part(&self, per_s: f64) -> f64 {
        if per_s <= 0.0 {
            return 0.0;
        }
        (per_s / self.new_flows_per_s).min(1.0)
    }
}

impl LimitUse {
    /// Packets over the limits of sources, and over those of the VIP.
    #[must_use]
    pub fn over_per_s(&self) -> [f64; 2] {
        [
            self.source_new_flows_per_s + self.source_packets_per_s,
            self.new_flows_per_s + self.packets_per_s,
        ]
    }
}

impl VipState {
    /// As written in the configuration.
    #[must_use]
    pub const fn forward_name(&self) -> &'static str {
        match self.forward {
            Forward::L2 => "l2",
            Forward::Ipip => "ipip",
            Forward::Nat => "nat",
        }
    }

    /// Capacity signals; none if no member is eligible or the capacity of an eligible one is unknown.
    #[must_use]
    pub fn capacity(&self) -> Option<Capacity> {
        Capacity::of(self)
    }
}

/// Slots of a ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingSlots {
    pub total: u32,
    pub in_transition: u32,
    /// The transition has ended, but there are still tracked flows.
    pub settling: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberPhase {
    Up,
    /// Its health checks fail or have not succeeded yet.
    Down,
    /// Keeps its flows and gets no new ones.
    Draining,
    Disabled,
    /// Removed from the configuration; keeps its flows until they end.
    Leaving,
}

impl MemberPhase {
    pub const ALL: [Self; 5] = [
        Self::Up,
        Self::Down,
        Self::Draining,
        Self::Disabled,
        Self::Leaving,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
            Self::Leaving => "leaving",
        }
    }
}

/// The ports for `nat` sessions with one backend port, shared by all members with the same backend,
/// protocol and source address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortUse {
    /// Have a session whose connection is not over.
    pub in_use: u32,
    /// Have a session whose connection is over: used again if the backend accepts that.
    pub over: u32,
    /// All ports, above 0.
    pub total: u32,
}

impl PortUse {
    #[must_use]
    pub fn ratio(&self) -> f64 {
        f64::from(self.in_use) / f64::from(self.total)
    }
}

/// A backend in its role as a member of one VIP.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberState {
    pub backend: String,
    pub address: IpAddr,
    /// 0: the packet's port.
    pub port: u16,
    pub phase: MemberPhase,
    /// Configured weight.
    pub weight: u32,
    /// Lower than `weight` during slow start.
    pub effective_weight: u32,
    /// New flows per second.
    pub capacity: Option<u32>,
    /// None without health checks.
    pub health: Option<HealthStatus>,
    /// Why no frame can be sent to it; none if one can.
    pub route_problem: Option<String>,
    /// Since the controller first saw the backend; monotonic.
    pub totals: Totals,
    pub rates: Rates,
    pub tracked_flows: u64,
    /// Members of `nat` VIPs with a known source address.
    pub nat_ports: Option<PortUse>,
    /// Weight over the sum of eligible weights.
    pub intended_share: f64,
    /// Slots over ring size.
    pub table_share: f64,
    /// Share of the VIP's new flows in the last minute; none without new flows.
    pub observed_share: Option<f64>,
}

impl MemberState {
    /// Whether it can get new flows.
    #[must_use]
    pub fn is_eligible(&self) -> bool {
        self.phase == MemberPhase::Up && self.effective_weight > 0
    }
}

impl NodeState {
    /// The state before the first one is published.
    #[must_use]
    pub fn empty(at: Timestamp) -> Self {
        Self {
            at,
            node: NodeInfo {
                started_at: at,
                ..NodeInfo::default()
            },
            revision: None,
            file: FileStatus::default(),
            vips: Vec::new(),
            sources: Vec::new(),
            announcing: None,
            alerts: Vec::new(),
            reasons: BTreeMap::new(),
            fleet: None,
        }
    }
}
