//! The host's ports that `nat` uses: checked before a configuration may use more of them, and
//! periodically.
//!
//! Any process on the host can bind such a port. A conflict therefore blocks only changes that need
//! new ports, never what keeps packets flowing: next hops, other changes, rollbacks.

use std::{collections::BTreeSet, net::IpAddr};

use crate::{
    alerts::{Condition, Severity},
    reconciler::{
        Routes,
        ports::{self, PortError, PortRange},
    },
};
use lb_model::config::{Config, Forward};

/// The ports and addresses that `nat` uses.
struct NatPorts {
    sources: BTreeSet<IpAddr>,
    range: PortRange,
}

impl NatPorts {
    /// None without `nat` VIPs.
    fn of(config: &Config, routes: &Routes) -> Option<Self> {
        let nat = config.vips.iter().filter(|vip| vip.forward == Forward::Nat);
        let backends: BTreeSet<IpAddr> = nat
            .flat_map(|vip| &vip.backends)
            .map(|backend| backend.address)
            .collect();
        if backends.is_empty() {
            return None;
        }
        let configured = &config.node.nat_source;
        let mut sources: BTreeSet<IpAddr> = configured.iter().copied().collect();
        for backend in backends {
            if !configured.iter().any(|s| s.is_ipv4() == backend.is_ipv4()) {
                let route = routes.get(&backend).copied().flatten();
                sources.extend(route.and_then(|route| route.source));
            }
        }
        let range = config.node.nat_ports.clone();
        Some(Self { sources, range })
    }

    fn is_part_of(&self, other: &Self) -> bool {
        let has = |port| other.range.contains(port);
        self.sources.is_subset(&other.sources) && has(self.range.start()) && has(self.range.end())
    }

    fn check(&self) -> Result<(), PortError> {
        let sources: Vec<IpAddr> = self.sources.iter().copied().collect();
        ports::check_sockets(&sources, &self.range)
    }
}

/// Reserves the ports that `nat` will use with a configuration but does not use with the one in `used`,
/// unless a socket has one of them.
pub(super) fn guard(
    config: &Config,
    used: Option<&Config>,
    routes: &Routes,
) -> Result<(), PortError> {
    let Some(wanted) = NatPorts::of(config, routes) else {
        return Ok(());
    };
    let used = used.and_then(|used| NatPorts::of(used, routes));
    if used.is_some_and(|used| wanted.is_part_of(&used)) {
        return Ok(());
    }
    wanted.check()?;
    ports::reserve(&wanted.range)
}

/// Why a port that `nat` uses can't be distinguished from a socket's.
pub(super) fn conflict(config: &Config, routes: &Routes) -> Option<String> {
    let used = NatPorts::of(config, routes)?;
    // Reserved first, so that no further socket gets one.
    let checked = ports::reserve(&used.range).and_then(|()| used.check());
    Some(checked.err()?.to_string())
}

/// The condition for a socket on a port of `nat`.
pub(super) fn condition(conflict: &str) -> Condition {
    let key = "data_path:nat_ports";
    let condition = Condition::new(key, "data_path", Severity::Warning, conflict);
    condition.cause(
        "a program on this host has bound the port; forwarding continues, but packets of that socket and of \
         a `nat` session with the same addresses and ports can't be told apart",
    )
}
