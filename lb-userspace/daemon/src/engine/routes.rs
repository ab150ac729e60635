//! The ways to the backends: waited for before a change, put into the tables when they change.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use anyhow::Result;
use lb_common::member::NextHop;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tracing::{error, info, warn};

use super::actor::Actor;
use crate::{
    nexthop::{NextHopState, NextHops, UnresolvedReason},
    reconciler::{Route, Routes},
};
use lb_model::config::Config;

/// How long a change waits for the ways to its backends.
const FIRST_ROUTES: Duration = Duration::from_secs(2);

/// Waits until the kernel was asked about all backends and their neighbours answered, or not for
/// some time: the others follow when they answer.
pub(super) async fn wait_for(watch: &mut watch::Receiver<NextHops>, backends: &BTreeSet<IpAddr>) {
    let known = |table: &NextHops| {
        backends.iter().all(|backend| {
            let state = table.get(backend);
            state.is_some_and(|s| {
                !matches!(
                    s,
                    NextHopState::Unresolved(UnresolvedReason::Resolving { .. })
                )
            })
        })
    };
    // Running out of time, or out of a resolver, is found out later.
    let _ = timeout_at(Instant::now() + FIRST_ROUTES, watch.wait_for(known)).await;
}

/// Addresses of the backends of a configuration.
pub(super) fn backends_of(config: &Config) -> impl Iterator<Item = IpAddr> + '_ {
    let all = config.vips.iter().flat_map(|vip| &vip.backends);
    all.map(|backend| backend.address)
}

/// What was said about ways, so that it is said once.
#[derive(Default)]
pub(super) struct Said {
    /// Ways that are not known, and why.
    pub(super) unresolved: BTreeMap<IpAddr, UnresolvedReason>,
    /// Backends that have no source.
    without_source: Vec<String>,
    /// Why the tables don't have the ways as they are now; the next tick tries again.
    pub(super) stale: Option<String>,
}

impl Actor {
    /// The ways as the tables need them; interfaces get their place in the egress table.
    pub(super) fn routes(&mut self, table: &NextHops) -> Result<Routes> {
        let mut routes = Routes::new();
        for (&backend, state) in table {
            let resolved = match state {
                NextHopState::Resolved(resolved) => resolved,
                NextHopState::Unresolved(UnresolvedReason::Resolving { .. }) => continue,
                NextHopState::Unresolved(_) => {
                    routes.insert(backend, None);
                    continue;
                }
            };
            let assigned =
                self.dataplane
                    .egress
                    .assign(resolved.ifindex, resolved.mtu, resolved.own_mac);
            let egress = match assigned {
                Ok(egress) => egress,
                Err(error) => {
                    // The interface may have gone this very moment.
                    warn!(%error, interface = resolved.ifname, "no frames can leave there");
                    routes.insert(backend, None);
                    continue;
                }
            };
            let next_hop = NextHop {
                mac: resolved.mac,
                egress,
            };
            let route = Route {
                next_hop,
                on_link: resolved.gateway.is_none(),
                source: resolved.source,
            };
            routes.insert(backend, Some(route));
        }
        Ok(routes)
    }

    pub(super) fn routes_changed(&mut self) {
        let table = self.routes.borrow_and_update().clone();
        let changed = self
            .routes(&table)
            .and_then(|routes| Ok(self.reconciler.set_routes(&mut self.dataplane, routes)?));
        let stale = changed.err().map(|error| format!("{error:#}"));
        if stale != self.said.stale {
            match &stale {
                Some(error) => error!(
                    error,
                    "the ways to the backends can't be updated; trying again"
                ),
                None => info!("the ways to the backends are up to date again"),
            }
        }
        self.said.stale = stale;
        self.report_routes(&table);
        self.follow_probe_interfaces();
    }

    /// Says which ways are not known, and which are again: each once.
    pub(super) fn report_routes(&mut self, table: &NextHops) {
        for (&backend, state) in table {
            let l2 = self.reconciler.l2_backends_at(backend);
            let (reason, named) = match state {
                // The answer is on its way.
                NextHopState::Unresolved(UnresolvedReason::Resolving { .. }) => continue,
                NextHopState::Unresolved(reason) => {
                    (Some(reason.clone()), self.reconciler.backends_at(backend))
                }
                NextHopState::Resolved(route) if !l2.is_empty() => (route.obstacle_to_l2(), l2),
                NextHopState::Resolved(_) => (None, Vec::new()),
            };
            let before = match &reason {
                Some(reason) => self.said.unresolved.insert(backend, reason.clone()),
                None => self.said.unresolved.remove(&backend),
            };
            if before == reason {
                continue;
            }
            match reason {
                Some(reason) => {
                    warn!(%backend, backends = named.join(", "), %reason, "no next hop: its packets are dropped");
                }
                None => {
                    let interface = state.resolved().map(|route| route.ifname.as_str());
                    let named = self.reconciler.backends_at(backend).join(", ");
                    info!(%backend, backends = named, interface, "next hop found");
                }
            }
        }
        self.said
            .unresolved
            .retain(|backend, _| table.contains_key(backend));
        let without = self.reconciler.without_source();
        if without != self.said.without_source && !without.is_empty() {
            warn!(
                backends = without.join(", "),
                "no address to send from, so their packets are dropped: set node.encap_source or \
                 node.nat_source, or give the interface an address that no VIP has"
            );
        }
        self.said.without_source = without;
    }

    /// Has the resolver look for the backends of the running configuration, those that leave, and
    /// `more`.
    pub(super) fn follow_backends(&self, more: impl IntoIterator<Item = IpAddr>) {
        let mut backends = self.reconciler.backends();
        backends.extend(backends_of(&self.running.config));
        backends.extend(more);
        self.resolver.set_backends(backends);
    }
}
