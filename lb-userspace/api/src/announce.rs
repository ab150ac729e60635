//! What `evenkeel announce` announces, and why.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The state of `evenkeel announce`: `GET /v1/announce` at its own socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AnnounceStatus {
    /// How addresses are announced.
    pub via: AnnounceVia,
    /// Whether the node is drained.
    pub drain: DrainState,
    /// Why a restart will not know whether the node is drained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_error: Option<String>,
    /// The BGP peers, in the order of the file; none with `via = "kernel"`.
    pub peers: Vec<PeerStatus>,
    /// The routing table, with `via = "kernel"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelTableStatus>,
    /// Conditions of the node: `linked` and `provable`. Unless both are met, addresses may be missing.
    #[serde(default)]
    pub checks: Vec<AnnounceCheck>,
    /// The addresses of VIPs, sorted.
    pub addresses: Vec<AddressStatus>,
}

impl AnnounceStatus {
    /// Conditions of the node that are not met, as `name: text`.
    pub fn unmet(&self) -> impl Iterator<Item = String> {
        let unmet = self.checks.iter().filter(|check| !check.is_met);
        unmet.map(|check| format!("{}: {}", check.name, check.text))
    }
}

/// What is announced, in short: part of the controller's status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AnnounceSummary {
    /// Why `evenkeel announce` does not answer. The rest is then empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether the node is drained.
    pub drain: DrainState,
    /// Addresses that are announced.
    pub announced: u32,
    /// Addresses that are announced as worse than other nodes.
    pub worse: u32,
    /// Addresses that are to be announced and are not.
    pub withheld: u32,
    /// BGP sessions that are established.
    pub sessions: u32,
    /// Configured BGP peers.
    pub peers: u32,
}

/// How addresses are announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnnounceVia {
    /// By BGP.
    Bgp,
    /// As routes in a table of the kernel.
    Kernel,
}

/// Whether a node is drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DrainState {
    /// It is not.
    No,
    /// Its addresses are announced as worse, and then withdrawn.
    Draining,
    /// Its addresses are withdrawn.
    Drained,
}

/// A BGP peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PeerStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Its address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// State of the session (RFC 4271): `Idle`, `Connect`, `OpenSent`, `OpenConfirm` or `Established`.
    pub state: String,
    /// Seconds since the state was entered.
    pub for_s: f64,
    /// Why there is no session, or why the last one ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// How many sessions ended other than by our own end.
    pub flaps: u64,
    /// Routes that were sent and not withdrawn.
    pub routes_sent: u64,
    /// Whether the peer's host has acknowledged all routes and withdrawals.
    pub acknowledged: bool,
    /// State of the BFD session: `AdminDown`, `Down`, `Init` or `Up`. Missing without BFD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bfd: Option<String>,
    /// What does not work, though the session is there: a family that the peer does not offer, for example.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

impl PeerStatus {
    /// Whether the session is established.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.state == "Established"
    }
}

/// The routing table that a routing daemon of this host exports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KernelTableStatus {
    /// Number of the table.
    pub table: u32,
    /// Routes in it.
    pub routes: u64,
    /// Whether it has the announced addresses, and no others.
    pub in_sync: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// How many times a route was made again that somebody else had removed.
    #[serde(default)]
    pub restored: u64,
    /// Host routes of others in the table, as far as they are to no address of a VIP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub foreign: Vec<String>,
}

/// What is announced of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AddressState {
    /// Nothing.
    Withheld,
    /// It is announced with the community `graceful-shutdown` and the largest MED: routers use it only if no
    /// other node announces it.
    Worse,
    /// It is announced.
    Announced,
}

/// An address of one or more VIPs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AddressStatus {
    /// The address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// What is announced of it.
    pub state: AddressState,
    /// Seconds since then.
    pub for_s: f64,
    /// Names of its VIPs.
    pub vips: Vec<String>,
    /// What was checked.
    pub checks: Vec<AnnounceCheck>,
}

impl AddressStatus {
    /// Returns the unmet condition that matters most: what makes forwarding impossible, before what an
    /// address only has to wait for. None if it is announced, or not wanted.
    #[must_use]
    pub fn reason(&self) -> Option<&AnnounceCheck> {
        let unmet = || self.checks.iter().filter(|check| !check.is_met);
        let first = |names: &[&str]| {
            let mut names = names.iter();
            names.find_map(|name| unmet().find(|check| check.name == **name))
        };
        match self.state {
            AddressState::Announced => None,
            AddressState::Worse => unmet().find(|check| check.name != "wanted"),
            AddressState::Withheld => first(&["linked", "forwards", "settled", "warm"]),
        }
    }

    /// Returns whether nothing but time is missing.
    #[must_use]
    pub fn waits(&self) -> bool {
        let reason = self.reason();
        reason.is_some_and(|it| it.name == "settled" || it.name == "warm")
    }
}

/// A condition of an announcement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AnnounceCheck {
    /// `linked`, `interfaces`, `provable`, `controller`, `wanted`, `warm`, `table`, `forwards`, `backends` or `settled`.
    pub name: String,
    /// Whether it is met.
    pub is_met: bool,
    /// What was found.
    pub text: String,
}
