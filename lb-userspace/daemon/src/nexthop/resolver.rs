//! The resolver: a task that keeps the next hops of all backends up to date.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    io,
    net::IpAddr,
    time::Duration,
};

use futures_util::StreamExt as _;
use rtnetlink::{
    Handle, MulticastGroup, new_multicast_connection,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tracing::{debug, warn};

use super::{
    kernel::{self, Links, Neighbours},
    stacked,
    state::{Neighbour, NextHopState, NextHops, Route, Stations, UnresolvedReason, decide},
};

/// Debounce window: changes come in bursts.
const DEBOUNCE: Duration = Duration::from_millis(5);

/// Interval for marking neighbours as in use. A neighbour is reachable for 15 to 45 s without
/// confirmation.
const REFRESH: Duration = Duration::from_secs(15);

/// Retry interval for neighbours that do not answer.
const RETRY: Duration = Duration::from_secs(1);

const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
];

/// The resolver cannot be started.
#[derive(Debug, thiserror::Error)]
#[error("watch routes and neighbours by rtnetlink: {kernel}; CAP_NET_ADMIN is required")]
pub struct NextHopError {
    #[source]
    pub kernel: io::Error,
}

/// Keeps the next hops of a set of backends up to date until it is dropped.
#[derive(Debug)]
pub struct Resolver {
    backends: watch::Sender<BTreeSet<IpAddr>>,
    table: watch::Receiver<NextHops>,
    stations: watch::Receiver<Stations>,
    tasks: [JoinHandle<()>; 2],
}

impl Resolver {
    /// Starts in the network namespace of the calling thread. Must be called within a tokio runtime.
    pub fn start(backends: impl IntoIterator<Item = IpAddr>) -> Result<Self, NextHopError> {
        let (connection, handle, messages) =
            new_multicast_connection(&GROUPS).map_err(|kernel| NextHopError { kernel })?;
        let (backends, wanted) = watch::channel(backends.into_iter().collect());
        let (publish, table) = watch::channel(NextHops::new());
        let (publish_stations, stations) = watch::channel(Stations::new());
        let task = Task {
            handle,
            wanted,
            publish,
            publish_stations,
            links: Links::new(),
            routes: HashMap::new(),
            stale: Stale::All,
            refresh_at: Instant::now(),
            retry: false,
        };
        let messages = messages.map(|(message, _)| message);
        let tasks = [
            tokio::spawn(connection),
            tokio::spawn(task.run(messages.boxed())),
        ];
        Ok(Self {
            backends,
            table,
            stations,
            tasks,
        })
    }

    pub fn set_backends(&self, backends: impl IntoIterator<Item = IpAddr>) {
        self.backends.send_replace(backends.into_iter().collect());
    }

    /// Returns the next hops, now and whenever they change. A backend is in the table once the kernel
    /// has been asked about it.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<NextHops> {
        self.table.clone()
    }

    /// Returns the MAC addresses of the interfaces, now and whenever they change; empty until the
    /// kernel has been asked.
    #[must_use]
    pub fn watch_stations(&self) -> watch::Receiver<Stations> {
        self.stations.clone()
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What has to be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stale {
    Nothing,
    Neighbours,
    All,
}

impl Stale {
    /// What a message makes stale.
    fn by(message: &NetlinkMessage<RouteNetlinkMessage>) -> Self {
        use RouteNetlinkMessage as Message;
        match &message.payload {
            NetlinkPayload::InnerMessage(Message::NewNeighbour(_) | Message::DelNeighbour(_)) => {
                Self::Neighbours
            }
            // Everything else, including lost messages.
            _ => Self::All,
        }
    }
}

type Messages = futures_util::stream::BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>;

struct Task {
    handle: Handle,
    wanted: watch::Receiver<BTreeSet<IpAddr>>,
    publish: watch::Sender<NextHops>,
    publish_stations: watch::Sender<Stations>,
    links: Links,
    routes: HashMap<IpAddr, Route>,
    stale: Stale,
    /// When all neighbours are marked as in use next.
    refresh_at: Instant,
    /// Whether to resolve neighbours again that did not answer.
    retry: bool,
}

impl Task {
    async fn run(mut self, mut messages: Messages) {
        loop {
            let mut again = false;
            if let Err(error) = self.resolve().await {
                warn!(%error, "cannot read routes and neighbours; retrying");
                self.stale = Stale::All;
                again = true;
            }
            self.retry = false;
            again |= self.has_unresolved_neighbours();
            let retry_at = Instant::now() + RETRY;
            let wake_at = if again {
                retry_at.min(self.refresh_at)
            } else {
                self.refresh_at
            };
            tokio::select! {
                message = messages.next() => {
                    let Some(message) = message else { return };
                    self.stale = self.stale.max(Stale::by(&message));
                    self.drain_burst(&mut messages).await;
                }
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.stale = Stale::All;
                    self.refresh_at = Instant::now();
                }
                () = sleep_until(wake_at) => {
                    let refresh = Instant::now() >= self.refresh_at;
                    let due = if refresh { Stale::All } else { Stale::Neighbours };
                    self.stale = self.stale.max(due);
                    self.retry = true;
                }
            }
        }
    }

    /// Whether some neighbour has not answered yet.
    fn has_unresolved_neighbours(&self) -> bool {
        self.publish.borrow().values().any(|state| {
            matches!(
                state,
                NextHopState::Unresolved(
                    UnresolvedReason::Resolving { .. } | UnresolvedReason::NoAnswer { .. }
                )
            )
        })
    }

    /// Reads the rest of a burst of messages.
    async fn drain_burst(&mut self, messages: &mut Messages) {
        let until = Instant::now() + DEBOUNCE;
        while let Ok(Some(message)) = tokio::time::timeout_at(until, messages.next()).await {
            self.stale = self.stale.max(Stale::by(&message));
        }
    }

    /// Reads what is stale, publishes changes, and marks neighbours as in use.
    async fn resolve(&mut self) -> Result<(), rtnetlink::Error> {
        let wanted = self.wanted.borrow_and_update().clone();
        if self.stale == Stale::All {
            self.links = kernel::links(&self.handle).await?;
            let stations = kernel::stations(&self.handle, &self.links).await?;
            publish_if_changed(&self.publish_stations, stations);
            self.routes.clear();
        }
        // The set may have changed while another event woke the task.
        self.routes.retain(|backend, _| wanted.contains(backend));
        for &backend in &wanted {
            if let Entry::Vacant(unknown) = self.routes.entry(backend) {
                unknown.insert(kernel::route(&self.handle, backend).await?);
            }
        }
        let neighbours = kernel::neighbours(&self.handle).await?;
        self.stale = Stale::Nothing;
        let table = self.table(&wanted, &neighbours);
        publish_if_changed(&self.publish, table);
        self.mark_in_use(&neighbours).await;
        Ok(())
    }

    fn table(&self, wanted: &BTreeSet<IpAddr>, neighbours: &Neighbours) -> NextHops {
        let before = self.publish.borrow();
        let stations = self.publish_stations.borrow();
        let state = |backend: &IpAddr| {
            let route = self.routes.get(backend)?;
            let (link, neighbour) = match route {
                Route::Via {
                    ifindex, neighbour, ..
                } => (
                    self.links.get(ifindex),
                    neighbours.get(&(*ifindex, *neighbour)).copied(),
                ),
                Route::Local | Route::None { .. } => (None, None),
            };
            let mut state = decide(*backend, route, link, neighbour, before.get(backend));
            if let NextHopState::Resolved(hop) = &mut state {
                hop.native = stacked::native_egress(&self.links, &stations, hop);
                hop.receivers = stacked::receivers(&self.links, hop.ifindex);
            }
            Some((*backend, state))
        };
        wanted.iter().filter_map(state).collect()
    }

    /// Marks neighbours as in use: unknown ones at once, failed ones at a retry, all others at a
    /// refresh.
    async fn mark_in_use(&mut self, neighbours: &Neighbours) {
        let all = Instant::now() >= self.refresh_at;
        if all {
            self.refresh_at = Instant::now() + REFRESH;
        }
        let in_use: BTreeSet<(u32, IpAddr)> = self
            .routes
            .values()
            .filter_map(|route| match route {
                Route::Via {
                    ifindex, neighbour, ..
                } => Some((*ifindex, *neighbour)),
                Route::Local | Route::None { .. } => None,
            })
            .filter(|(ifindex, _)| {
                self.links
                    .get(ifindex)
                    .is_some_and(|link| link.usable && link.mac.is_some())
            })
            .collect();
        for (ifindex, address) in in_use {
            let due = match neighbours.get(&(ifindex, address)) {
                None => true,
                Some(Neighbour::Permanent(_)) => false,
                Some(Neighbour::Failed) => all || self.retry,
                Some(Neighbour::Known(_) | Neighbour::Incomplete) => all,
            };
            if due && let Err(error) = kernel::use_neighbour(&self.handle, ifindex, address).await {
                debug!(%address, ifindex, %error, "cannot mark the neighbour as in use");
            }
        }
    }
}

fn publish_if_changed<T: PartialEq>(publish: &watch::Sender<T>, new: T) {
    publish.send_if_modified(|published| {
        let changed = *published != new;
        *published = new;
        changed
    });
}
