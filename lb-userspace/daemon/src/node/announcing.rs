//! What `evenkeel announce` announces.

use std::{collections::BTreeSet, fmt, net::IpAddr, sync::Arc};

/// What `evenkeel announce` does, compared with what the active configuration asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Announcing {
    /// Addresses of the VIPs that are to be announced.
    pub wanted: BTreeSet<IpAddr>,
    /// Names of the configured BGP peers.
    pub peers: Vec<String>,
    /// Its newest answer, or why there is none.
    pub answer: Result<Arc<Announced>, String>,
}

impl Announcing {
    /// Addresses that are to be announced, and that the announcer did not find in the data path.
    pub fn unknown(&self) -> impl Iterator<Item = IpAddr> {
        let answer = self.answer.as_ref().ok();
        let known = answer.into_iter().flat_map(|answer| &answer.addresses);
        let known: BTreeSet<IpAddr> = known.map(|it| it.address).collect();
        let wanted = self.wanted.iter().filter(move |_| answer.is_some());
        wanted.filter(move |it| !known.contains(it)).copied()
    }
}

/// An answer of the announcer.
#[derive(Clone, Debug, PartialEq)]
pub struct Announced {
    pub drain: DrainPhase,
    /// None with `via = "kernel"`.
    pub sessions: Vec<BgpSession>,
    /// With `via = "kernel"`.
    pub table: Option<RouteTable>,
    /// Unmet conditions of the node.
    pub unmet: Vec<Unmet>,
    pub addresses: Vec<AnnouncedAddress>,
}

/// Whether a node is drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainPhase {
    No,
    /// Its addresses are announced as worse, and then withdrawn.
    Draining,
    Drained,
}

/// The session with a BGP peer.
#[derive(Clone, Debug, PartialEq)]
pub struct BgpSession {
    pub peer: String,
    pub address: IpAddr,
    /// State of RFC 4271.
    pub state: String,
    pub is_up: bool,
    /// Seconds in this state.
    pub for_s: f64,
    pub last_error: Option<String>,
    /// How many times it ended other than by our own end.
    pub flaps: u64,
    pub routes_sent: u64,
    /// What does not work, though the session is up.
    pub problems: Vec<String>,
}

/// The routing table that a routing daemon of this host exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteTable {
    pub number: u32,
    /// Whether it has the announced addresses, and no others.
    pub in_sync: bool,
    /// Why not.
    pub last_error: Option<String>,
}

/// What is announced of an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Announcement {
    #[default]
    Withheld,
    /// For routers to use only if no other node announces it.
    Worse,
    Announced,
}

/// An address of one or more VIPs.
#[derive(Clone, Debug, PartialEq)]
pub struct AnnouncedAddress {
    pub address: IpAddr,
    pub state: Announcement,
    /// Seconds in this state.
    pub for_s: f64,
    pub vips: Vec<String>,
    /// Names of unmet conditions.
    pub unmet: Vec<String>,
    /// The one that matters most; none if it is announced, or not wanted.
    pub reason: Option<Unmet>,
    /// Whether nothing but time is missing.
    pub waits: bool,
}

/// An unmet condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    pub name: String,
    pub text: String,
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.text)
    }
}
