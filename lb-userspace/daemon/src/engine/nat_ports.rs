//! The host's ports that `nat` uses: looked at before a configuration may use more of them, and now
//! and then.
//!
//! Anybody on the host can bind a socket to such a port. So it refuses what is new, and never keeps
//! from being done what keeps packets going: next hops, changes of what `nat` does not use, ways back.

use std::{collections::BTreeSet, net::IpAddr};

use tracing::{info, warn};

use super::actor::Actor;
use crate::{
    alerts::{Condition, Severity},
    events::Entry,
    reconciler::{
        Routes,
        ports::{self, PortError, PortRange},
    },
};
use lb_model::config::{Config, Forward};

/// Which ports of which addresses `nat` uses.
struct NatPorts {
    sources: BTreeSet<IpAddr>,
    range: PortRange,
}

impl NatPorts {
    /// None where nothing is forwarded by `nat`.
    fn of(config: &Config, routes: &Routes) -> Option<Self> {
        let nat = config.vips.iter().filter(|vip| vip.forward == Forward::Nat);
        let backends: BTreeSet<IpAddr> = nat
            .flat_map(|vip| &vip.backends)
            .map(|backend| backend.address)
            .collect();
        if backends.is_empty() {
            return None;
        }
        let configured = &config.node.nat_sources;
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

impl Actor {
    /// Reserves the ports that `nat` is to use and does not use yet, after a look at who has them.
    pub(super) fn guard_ports(&self, config: &Config, routes: &Routes) -> Result<(), PortError> {
        let Some(wanted) = NatPorts::of(config, routes) else {
            return Ok(());
        };
        // Before the first packet nothing is used, unless a data path was there already.
        let in_use = self.attached || self.observer.adopted;
        let used = in_use.then(|| NatPorts::of(&self.running.config, routes));
        if used.flatten().is_some_and(|used| wanted.is_part_of(&used)) {
            return Ok(());
        }
        wanted.check()?;
        ports::reserve(&wanted.range)
    }

    /// Looks whether a socket has a port that `nat` uses, and says so when that changes.
    pub(super) fn look_at_ports(&mut self) {
        let used = NatPorts::of(&self.running.config, self.reconciler.routes());
        // Reserved first: whoever has one port must not be followed by others.
        let looked = used.map(|used| ports::reserve(&used.range).and_then(|()| used.check()));
        let conflict = looked.and_then(|looked| Some(looked.err()?.to_string()));
        if conflict == self.drift_check.port_conflict {
            return;
        }
        match &conflict {
            Some(what) => {
                warn!(what, "the ports of `nat` are not its own");
                self.note(Entry::new("alert", what.clone()));
            }
            None => info!("the ports of `nat` are its own again"),
        }
        self.drift_check.port_conflict = conflict;
    }

    /// That a socket has a port that `nat` uses.
    pub(super) fn port_condition(&self) -> Option<Condition> {
        let what = self.drift_check.port_conflict.as_ref()?;
        let key = "data_path:nat_ports";
        let condition = Condition::new(key, "data_path", Severity::Warning, what.clone());
        Some(condition.cause(
            "a program of this host has bound the port; everything is forwarded, but packets of \
             this socket and of a session of `nat` with the same addresses and ports can't be told apart",
        ))
    }
}
