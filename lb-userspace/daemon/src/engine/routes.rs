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
    nexthop::{NextHopState, NextHops, ResolvedNextHop, Resolver, Stations, UnresolvedReason},
    reconciler::{Reconciler, Route, Routes},
};
use lb_model::config::{Config, Forward, XdpMode};

/// How long a change waits for the next hops of its backends.
const FIRST_ROUTES: Duration = Duration::from_secs(2);

/// How long backends are resolved for a change that has not been made yet: longer than it waits.
const EXPECTED: Duration = Duration::from_secs(10);

/// Backends of changes that are in preparation, and until when they are resolved.
#[derive(Default)]
struct Expected(BTreeMap<IpAddr, Instant>);

impl Expected {
    /// Adds backends, and returns all that are still expected.
    fn with(
        &mut self,
        backends: impl IntoIterator<Item = IpAddr>,
        now: Instant,
    ) -> impl Iterator<Item = IpAddr> {
        self.0.retain(|_, until| *until > now);
        let until = now + EXPECTED;
        self.0.extend(backends.into_iter().map(|it| (it, until)));
        self.0.keys().copied()
    }
}

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

/// What decides whether a resolved next hop can be used.
pub(super) struct Node<'a> {
    /// Whether the program runs in native mode on some interface.
    is_native: bool,
    /// Interfaces that the program is attached to.
    interfaces: &'a [String],
}

impl Node<'_> {
    /// Returns why frames for backends with this next hop can't be forwarded, and the forwarding mode
    /// that it is an obstacle to, if not all.
    fn obstacle(
        &self,
        route: &ResolvedNextHop,
        has_backends: impl Fn(Forward) -> bool,
    ) -> Option<(UnresolvedReason, Option<Forward>)> {
        if let Err(reason) = route.egress(self.is_native) {
            return Some((reason, None));
        }
        let of_mode = |mode, obstacle: Option<UnresolvedReason>| {
            obstacle
                .filter(|_| has_backends(mode))
                .map(|it| (it, Some(mode)))
        };
        of_mode(Forward::L2, route.obstacle_to_l2())
            .or_else(|| of_mode(Forward::Nat, route.obstacle_to_nat(self.interfaces)))
    }
}

/// The resolver of next hops, and the problems that were logged, so that each is logged once.
pub(super) struct RouteMonitor {
    resolver: Resolver,
    table: watch::Receiver<NextHops>,
    expected: Expected,
    stations: watch::Receiver<Stations>,
    /// Why some addresses of the interfaces are not in the station table.
    without_station: Option<String>,
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
            expected: Expected::default(),
            stations: resolver.watch_stations(),
            without_station: None,
            resolver,
            unresolved: BTreeMap::new(),
            without_source: Vec::new(),
            stale: None,
        }
    }

    pub(super) fn table(&self) -> NextHops {
        self.table.borrow().clone()
    }

    /// Resolves these backends, and for some time those that are `expected`.
    pub(super) fn follow(
        &mut self,
        mut backends: BTreeSet<IpAddr>,
        expected: impl IntoIterator<Item = IpAddr>,
    ) {
        backends.extend(self.expected.with(expected, Instant::now()));
        self.resolver.set_backends(backends);
    }

    pub(super) fn watch(&self) -> watch::Receiver<NextHops> {
        self.resolver.watch()
    }

    /// Waits for the next change of the next hops or of the interfaces' addresses.
    pub(super) async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        tokio::select! {
            changed = self.table.changed() => changed,
            changed = self.stations.changed() => changed,
        }
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
    fn log_changes(&mut self, table: &NextHops, reconciler: &Reconciler, node: &Node<'_>) {
        for (&backend, state) in table {
            let names = |mode| reconciler.backends_with(backend, mode);
            let (reason, names) = match state {
                // Not answered yet.
                NextHopState::Unresolved(UnresolvedReason::Resolving { .. }) => continue,
                NextHopState::Unresolved(reason) => {
                    (Some(reason.clone()), reconciler.backends_at(backend))
                }
                NextHopState::Resolved(route) => {
                    match node.obstacle(route, |mode| !names(mode).is_empty()) {
                        Some((reason, Some(mode))) => (Some(reason), names(mode)),
                        Some((reason, None)) => (Some(reason), reconciler.backends_at(backend)),
                        None => (None, Vec::new()),
                    }
                }
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
                    warn!(%backend, backends = names.join(", "), %reason, "no next hop: it gets no new flows if another backend can, and packets to it are dropped");
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
}

impl DataPath {
    /// Whether the program runs in native mode on some interface, or will.
    fn is_native(&self) -> bool {
        match self.dataplane.links() {
            Ok(links) if !links.is_empty() => links.iter().any(|link| !link.generic),
            _ => (self.installed.as_ref())
                .is_none_or(|config| config.node.xdp_mode != XdpMode::Generic),
        }
    }

    /// Warnings about backends of a configuration that can't be forwarded to.
    pub(super) fn route_warnings(&self, config: &Config) -> Vec<String> {
        let table = self.routes.table.borrow();
        let node = Node {
            is_native: self.is_native(),
            interfaces: &config.node.interfaces,
        };
        let mut warnings = Vec::new();
        for vip in &config.vips {
            for backend in &vip.backends {
                let route = table.get(&backend.address);
                let route = route.and_then(NextHopState::resolved);
                let obstacle = route.and_then(|it| node.obstacle(it, |mode| mode == vip.forward));
                if let Some((reason, _)) = obstacle {
                    let (backend, vip) = (&backend.name, &vip.name);
                    warnings.push(format!(
                        "no route to backend {backend} of VIP {vip}: {reason}"
                    ));
                }
            }
        }
        warnings
    }

    /// The routes as the maps hold them; interfaces get their index in the egress map. The program
    /// is or will be attached to `attached`.
    pub(super) fn routes_for(&mut self, table: &NextHops, attached: &[String]) -> Routes {
        let is_native = self.is_native();
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
            let Ok(ifindex) = resolved.egress(is_native) else {
                routes.insert(backend, None);
                continue;
            };
            let assigned = self
                .dataplane
                .egress
                .assign(ifindex, resolved.mtu, resolved.own_mac);
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
                replies_seen: resolved.obstacle_to_nat(attached).is_none(),
                source: resolved.source,
            };
            routes.insert(backend, Some(route));
        }
        routes
    }

    /// Writes the current routes to the maps.
    pub(super) fn update_routes(&mut self) {
        let table = self.routes.table.borrow_and_update().clone();
        let interfaces = (self.installed.as_ref())
            .map_or_else(Vec::new, |config| config.node.interfaces.clone());
        let routes = self.routes_for(&table, &interfaces);
        let set = self.reconciler.set_routes(&mut self.dataplane, routes);
        let stale = set
            .err()
            .map(|error| format!("{:#}", anyhow::Error::from(error)));
        self.routes.set_stale(stale);
        self.report_routes(&table);
        self.follow_stations();
    }

    /// Accepts frames for the current MAC addresses of the interfaces that the program is attached
    /// to.
    pub(super) fn follow_stations(&mut self) {
        let stations = self.routes.stations.borrow_and_update().clone();
        let attached = match self.dataplane.interfaces() {
            Ok(attached) if !stations.is_empty() => attached,
            // The kernel was not asked yet; attaching accepts the interface's own address.
            _ => return,
        };
        let attached: BTreeSet<u32> = attached
            .iter()
            .filter_map(|interface| nix::net::if_::if_nametoindex(&**interface).ok())
            .collect();
        let of_attached = stations
            .into_iter()
            .filter(|(ifindex, _)| attached.contains(ifindex))
            .collect();
        let error = self.dataplane.stations.set(&of_attached).err();
        let error = error.map(|error| error.to_string());
        if error != self.routes.without_station
            && let Some(error) = &error
        {
            error!(
                error,
                "can't accept frames for all MAC addresses of the interfaces"
            );
        }
        self.routes.without_station = error;
    }

    pub(super) fn report_routes(&mut self, table: &NextHops) {
        let node = Node {
            is_native: self.is_native(),
            interfaces: (self.installed.as_ref()).map_or(&[], |config| &config.node.interfaces),
        };
        self.routes.log_changes(table, &self.reconciler, &node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A change that is made while another one waits for its next hops must not end that.
    #[test]
    fn expected_backends_are_resolved_until_their_time_is_over() {
        let [one, two] = [1, 2].map(|last| IpAddr::from([10, 0, 0, last]));
        let (mut expected, start) = (Expected::default(), Instant::now());
        let mut with = |backends: &[IpAddr], after: Duration| -> Vec<IpAddr> {
            let backends = backends.iter().copied();
            expected.with(backends, start + after).collect()
        };
        assert_eq!(with(&[one], Duration::ZERO), [one]);
        assert_eq!(with(&[], FIRST_ROUTES), [one]);
        assert_eq!(with(&[two], EXPECTED / 2), [one, two]);
        assert_eq!(with(&[], EXPECTED), [two]);
        assert!(with(&[], 2 * EXPECTED).is_empty());
    }
}
