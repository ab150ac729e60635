//! The resolver: a task that keeps the ways to all backends up to date.

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
    state::{Neighbour, Reason, Route, State, Table, decide},
};

/// Changes come in bursts: this long is waited for the rest of one.
const DEBOUNCE: Duration = Duration::from_millis(5);

/// The kernel believes a neighbour for 15 to 45 s without hearing of it.
const REFRESH: Duration = Duration::from_secs(15);

/// A neighbour that does not answer is asked for again this often.
const RETRY: Duration = Duration::from_secs(1);

const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
];

/// The resolver could not be started.
#[derive(Debug, thiserror::Error)]
#[error("watch routes and neighbours by rtnetlink: {kernel}; CAP_NET_ADMIN is needed")]
pub struct NextHopError {
    /// What the kernel said.
    #[source]
    pub kernel: io::Error,
}

/// Keeps the ways to a set of backends up to date, until it is dropped.
#[derive(Debug)]
pub struct Resolver {
    backends: watch::Sender<BTreeSet<IpAddr>>,
    table: watch::Receiver<Table>,
    tasks: [JoinHandle<()>; 2],
}

impl Resolver {
    /// Starts to resolve, in the network namespace of the calling thread. Must be called within a
    /// tokio runtime.
    pub fn start(backends: impl IntoIterator<Item = IpAddr>) -> Result<Self, NextHopError> {
        let (connection, handle, messages) =
            new_multicast_connection(&GROUPS).map_err(|kernel| NextHopError { kernel })?;
        let (backends, wanted) = watch::channel(backends.into_iter().collect());
        let (publish, table) = watch::channel(Table::new());
        let task = Task {
            handle,
            wanted,
            publish,
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
            tasks,
        })
    }

    /// Changes the set of backends.
    pub fn set_backends(&self, backends: impl IntoIterator<Item = IpAddr>) {
        self.backends.send_replace(backends.into_iter().collect());
    }

    /// What is known about each backend, now and whenever it changes. A backend is in the table
    /// once the kernel was asked about it.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Table> {
        self.table.clone()
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What has to be asked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stale {
    Nothing,
    Neighbours,
    All,
}

impl Stale {
    /// What a message of the kernel makes stale.
    fn by(message: &NetlinkMessage<RouteNetlinkMessage>) -> Self {
        use RouteNetlinkMessage as Message;
        match &message.payload {
            NetlinkPayload::InnerMessage(Message::NewNeighbour(_) | Message::DelNeighbour(_)) => {
                Self::Neighbours
            }
            // Anything else, among it that messages were lost.
            _ => Self::All,
        }
    }
}

type Messages = futures_util::stream::BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>;

struct Task {
    handle: Handle,
    wanted: watch::Receiver<BTreeSet<IpAddr>>,
    publish: watch::Sender<Table>,
    links: Links,
    routes: HashMap<IpAddr, Route>,
    stale: Stale,
    /// When all neighbours are used next.
    refresh_at: Instant,
    /// Whether those that did not answer are to be asked again.
    retry: bool,
}

impl Task {
    async fn run(mut self, mut messages: Messages) {
        loop {
            let mut again = false;
            if let Err(error) = self.resolve().await {
                warn!(%error, "asking the kernel for routes and neighbours failed; trying again");
                self.stale = Stale::All;
                again = true;
            }
            self.retry = false;
            again |= self.waiting();
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
                    self.gather(&mut messages).await;
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

    /// Whether some neighbour has yet to answer.
    fn waiting(&self) -> bool {
        self.publish.borrow().values().any(|state| {
            matches!(
                state,
                State::Unresolved(Reason::Asking { .. } | Reason::NoAnswer { .. })
            )
        })
    }

    /// Takes in the rest of a burst of messages.
    async fn gather(&mut self, messages: &mut Messages) {
        let until = Instant::now() + DEBOUNCE;
        while let Ok(Some(message)) = tokio::time::timeout_at(until, messages.next()).await {
            self.stale = self.stale.max(Stale::by(&message));
        }
    }

    /// Asks the kernel for what is stale, publishes what changed, and tells the kernel which
    /// neighbours are in use.
    async fn resolve(&mut self) -> Result<(), rtnetlink::Error> {
        let wanted = self.wanted.borrow_and_update().clone();
        if self.stale == Stale::All {
            self.links = kernel::links(&self.handle).await?;
            self.routes.clear();
        }
        // The set may have changed just when something else woke us.
        self.routes.retain(|backend, _| wanted.contains(backend));
        for &backend in &wanted {
            if let Entry::Vacant(unknown) = self.routes.entry(backend) {
                unknown.insert(kernel::route(&self.handle, backend).await?);
            }
        }
        let neighbours = kernel::neighbours(&self.handle).await?;
        self.stale = Stale::Nothing;
        let table = self.table(&wanted, &neighbours);
        self.publish.send_if_modified(|published| {
            let changed = *published != table;
            *published = table;
            changed
        });
        self.keep_alive(&neighbours).await;
        Ok(())
    }

    fn table(&self, wanted: &BTreeSet<IpAddr>, neighbours: &Neighbours) -> Table {
        let before = self.publish.borrow();
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
            Some((
                *backend,
                decide(*backend, route, link, neighbour, before.get(backend)),
            ))
        };
        wanted.iter().filter_map(state).collect()
    }

    /// Tells the kernel which neighbours are in use: all when it is time for that, those that did
    /// not answer when they are to be asked again, those that it does not know at once.
    async fn keep_alive(&mut self, neighbours: &Neighbours) {
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
                Some(Neighbour::Fixed(_)) => false,
                Some(Neighbour::Failed) => all || self.retry,
                Some(Neighbour::Known(_) | Neighbour::Asking) => all,
            };
            if due && let Err(error) = kernel::use_neighbour(&self.handle, ifindex, address).await {
                debug!(%address, ifindex, %error, "asking for the neighbour failed");
            }
        }
    }
}
