//! The routes to announce.

use std::{collections::BTreeMap, net::IpAddr};

use crate::community::{Community, LargeCommunity};

/// Addresses to announce as host routes (`/32` and `/128`).
pub type Routes = BTreeMap<IpAddr, Attributes>;

/// Path attributes of a route. [`KernelRoutes`](crate::KernelRoutes) does not carry them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attributes {
    pub communities: Vec<Community>,
    pub large_communities: Vec<LargeCommunity>,
    /// MULTI_EXIT_DISC: the lower one is preferred.
    pub med: Option<u32>,
    /// LOCAL_PREF: the higher one is preferred. Sent only to peers in the same AS (RFC 4271, 5.1.5), 100
    /// if not given.
    pub local_pref: Option<u32>,
    /// How many times more than once the own AS is in AS_PATH. Ignored for peers in the same AS, which
    /// would reject the route as a loop.
    pub prepend: u8,
}

/// Attributes do not fit into an UPDATE.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{count} {kind}; at most {limit} are possible", limit = Attributes::MOST_COMMUNITIES)]
pub struct AttributesError {
    pub kind: &'static str,
    pub count: usize,
}

impl Attributes {
    /// Most communities, and most large communities, of a route. With them and the longest AS_PATH, an
    /// UPDATE has room for more than 100 prefixes. Further ones are not sent.
    pub const MOST_COMMUNITIES: usize = 64;

    /// Fails if a list of communities is too long.
    pub fn check(&self) -> Result<(), AttributesError> {
        for (kind, count) in [
            ("communities", self.communities.len()),
            ("large communities", self.large_communities.len()),
        ] {
            if count > Self::MOST_COMMUNITIES {
                return Err(AttributesError { kind, count });
            }
        }
        Ok(())
    }
}
