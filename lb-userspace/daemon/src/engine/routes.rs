//! Routes to the backends: waited for before a change, written to the maps when they change.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use lb_common::member::NextHop;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tracing::{error, info, warn};

use super::data_path::DataPath;
use crate::{
    nexthop::{NextHopState, NextHops, Resolver, UnresolvedReason},
    reconciler::{Reconciler, Route, Routes},
};
use lb_dataplane::EgressTable;
use lb_model::config::Config;

/// How long a change waits for the next hops of its backends.
const FIRST_ROUTES: Duration = Duration::from_secs(2);

/// Waits until the kernel was asked about all backends and their neighbours answered, or for
/// [`FIRST_ROUTES`]: late answers follow as updates.
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
    // A timeout or a resolver that ended shows later.
    let _ = timeout_at(Instant::now() + FIRST_ROUTES, watch.wait_for(known)).await;
}

pub(super) fn backends_of(config: &Config) -> impl Iterator<Item = IpAddr> + '_ {
    let all = config.vips.iter().flat_map(|vip| &vip.backends);
    all.map(|backend| backend.address)
}

/// The resolver of next hops, and the problems that were logged, so that each is logged once.
pub(super) struct RouteMonitor {
    resolver: Resolver,
    table: watch::Receiver<NextHops>,
    /// Backends without a next hop.
    unresolved: BTreeMap<IpAddr, UnresolvedReason>,
    /// Backends without a source address.
    without_source: Vec<String>,
    /// Why the maps don't have the current routes; the next tick tries again.
    stale: Option<String>,
}

impl RouteMonitor {
    pub(super) fn new(resolver: Resolver) -> Self {
        Self {
            table: resolver.watch(),
            resolver,
            unresolved: BTreeMap::new(),
            without_source: Vec::new(),
            stale: None,
        }
    }

    pub(super) fn table(&self) -> NextHops {
        self.table.borrow().clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<NextHops> {
        self.resolver.watch()
    }

    /// Waits for the next change of the table.
    pub(super) async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        self.table.changed().await
    }

    pub(super) const fn is_stale(&self) -> bool {
        self.stale.is_some()
    }

    /// Why a backend has no next hop.
    pub(super) fn problem(&self, backend: &IpAddr) -> Option<&UnresolvedReason> {
        self.unresolved.get(backend)
    }

    fn set_stale(&mut self, stale: Option<String>) {
        if stale != self.stale {
            match &stale {
                Some(error) => error!(
                    error,
                    "can't update the routes to the backends; trying again"
                ),
                None => info!("the routes to the backends are up to date again"),
            }
        }
        self.stale = stale;
    }

    /// Logs which backends have lost or found their next hop.
    pub(super) fn log_changes(&mut self, table: &NextHops, reconciler: &Reconciler) {
        for (&backend, state) in table {
            let l2 = reconciler.l2_backends_at(backend);
            let (reason, names) = match state {
                // Not answered yet.
                NextHopState::Unresolved(UnresolvedReason::Resolving { .. }) => continue,
                NextHopState::Unresolved(reason) => {
                    (Some(reason.clone()), reconciler.backends_at(backend))
                }
                NextHopState::Resolved(route) if !l2.is_empty() => (route.obstacle_to_l2(), l2),
                NextHopState::Resolved(_) => (None, Vec::new()),
            };
            let before = match &reason {
                Some(reason) => self.unresolved.insert(backend, reason.clone()),
                None => self.unresolved.remove(&backend),
            };
            if before == reason {
                continue;
            }
            match reason {
                Some(reason) => {
                    warn!(%backend, backends = names.join(", "), %reason, "no next hop: packets to it are dropped");
                }
                None => {
                    let interface = state.resolved().map(|route| route.ifname.as_str());
                    let names = reconciler.backends_at(backend).join(", ");
                    info!(%backend, backends = names, interface, "next hop found");
                }
            }
        }
        self.unresolved
            .retain(|backend, _| table.contains_key(backend));
        let without = reconciler.without_source();
        if without != self.without_source && !without.is_empty() {
            warn!(
                backends = without.join(", "),
                "no source address: packets to these backends are dropped; set node.encap_source or \
                 node.nat_source, or give the interface an address that no VIP has"
            );
        }
        self.without_source = without;
    }

    /// The routes as the maps hold them; interfaces get their index in the egress map.
    pub(super) fn resolved(&self, table: &NextHops, interfaces: &mut EgressTable) -> Routes {
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
            let assigned = interfaces.assign(resolved.ifindex, resolved.mtu, resolved.own_mac);
            let egress = match assigned {
                Ok(egress) => egress,
                Err(error) => {
                    // The interface may have just gone.
                    warn!(%error, interface = resolved.ifname, "can't transmit on this interface");
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
        routes
    }

    /// Resolves these backends.
    pub(super) fn follow(&self, backends: BTreeSet<IpAddr>) {
        self.resolver.set_backends(backends);
    }
}

impl DataPath {
    /// Writes the current routes to the maps.
    pub(super) fn update_routes(&mut self) {
        let table = self.routes.table.borrow_and_update().clone();
        let routes = self.routes.resolved(&table, &mut self.dataplane.egress);
        let set = self.reconciler.set_routes(&mut self.dataplane, routes);
        let stale = set
            .err()
            .map(|error| format!("{:#}", anyhow::Error::from(error)));
        self.routes.set_stale(stale);
        self.routes.log_changes(&table, &self.reconciler);
    }
}
