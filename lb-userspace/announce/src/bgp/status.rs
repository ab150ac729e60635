//! What the speaker reports about a peer.

use std::{fmt, net::IpAddr, time::Duration, time::Instant};

use super::{Family, State};
use crate::bfd::BfdState;

/// State of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    pub name: String,
    pub address: IpAddr,
    pub state: State,
    /// When `state` was entered.
    pub since: Instant,
    /// Why there is no session, or why the last one ended. Kept until the next error.
    pub last_error: Option<String>,
    /// How many established sessions ended other than by our own stop.
    pub flaps: u64,
    /// Routes that were sent on this session and not withdrawn.
    pub routes_sent: usize,
    /// All routes and withdrawals were sent, and the peer's TCP has acknowledged them.
    pub acknowledged: bool,
    pub families: Families,
    /// `None` if BFD is not configured.
    pub bfd: Option<BfdState>,
    /// Why BFD can't run, such as a port that another daemon uses.
    pub bfd_error: Option<String>,
    /// Negotiated hold time of the session.
    pub hold_time: Option<Duration>,
}

/// Whether routes of each family are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Families {
    pub v4: FamilyState,
    pub v6: FamilyState,
}

/// Whether routes of a family are sent to a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FamilyState {
    /// There is no session.
    #[default]
    Unknown,
    Active,
    /// The peer's OPEN does not offer the family: enable it there.
    NotSupportedByPeer,
    /// The session's local address is of the other family, and no next hop is configured.
    NoNextHop,
}

impl Families {
    /// Returns the families that routes are sent for.
    pub(crate) fn active(&self) -> impl Iterator<Item = Family> {
        Family::ALL
            .into_iter()
            .filter(|family| self.of(*family) == FamilyState::Active)
    }

    pub fn of(&self, family: Family) -> FamilyState {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}

impl fmt::Display for FamilyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Active => "active",
            Self::NotSupportedByPeer => "not supported by the peer",
            Self::NoNextHop => "no next hop configured",
        })
    }
}
