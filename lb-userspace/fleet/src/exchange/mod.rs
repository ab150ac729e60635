//! The exchange of what nodes know of flows that the ring alone does not answer: exceptions of the tracking
//! table, and the memory of slots. A node that takes over flows of another, or has rebooted, chooses alike.
//!
//! Each node asks each other: it connects with mutual TLS, is told everything, and then what changes. Only a
//! node that proves its name by its certificate is believed. Nothing waits for the exchange but the
//! announcement of a node with new tables, and that not for long.

mod ask;
mod message;
mod serve;
mod tls;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustls::ServerConfig;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::{handle::Tls, node::Facts};
use message::Hello;
pub use message::{
    Ballot, Member, Past, Report, Ring, Roster, Service, Spiller, ToldCell, ToldFlow, ToldTraffic,
    ToldVote, Update, address_bytes,
};

/// A node that tells nothing new says so this often.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// A node that is silent for this long is asked again.
const SILENCE: Duration = Duration::from_secs(4);

/// Time to connect, with the TLS handshake and the first frame.
const HANDSHAKE: Duration = Duration::from_secs(2);

/// Updates that a slow node may be behind before it is told everything again: of cells, up to 25 MB.
const BACKLOG: usize = 32;

/// A node that can't be asked for this long is not waited for.
const GIVEN_UP: Duration = Duration::from_secs(3);

/// The other nodes of the fleet, by name, with the addresses of their exchanges.
pub type Peers = BTreeMap<String, String>;

/// Settings of the exchange.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the fleet.
    pub fleet: String,
    /// Name of this node.
    pub node: String,
    /// Address that it listens at.
    pub listen: SocketAddr,
    /// Files for TLS.
    pub tls: Tls,
    /// What nodes must have in common.
    pub facts: Facts,
}

impl Settings {
    fn hello(&self, buckets: u32) -> Hello {
        Hello {
            version: message::VERSION,
            fleet: self.fleet.clone(),
            node: self.node.clone(),
            abi: self.facts.abi,
            seed_fingerprint: self.facts.seed_fingerprint.clone(),
            buckets,
        }
    }
}

/// What the exchange asks of its node, or tells it.
#[derive(Debug)]
pub enum Event {
    /// Another node asks for everything, and for what changes from then on.
    Asked(oneshot::Sender<(Vec<Update>, broadcast::Receiver<Arc<Update>>)>),
    /// Another node has told something.
    Told {
        /// Its name.
        from: String,
        /// What it told.
        update: Box<Update>,
    },
}

/// How it stands with another node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerState {
    /// Address of its exchange.
    pub address: String,
    /// Whether everything it knew was told, and the connection stands.
    pub connected: bool,
    /// Whether it was told everything once, or can't be asked for some seconds.
    pub was_asked: bool,
    /// Why it can't be asked; none if it can.
    pub error: Option<String>,
}

/// States of the other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerStates {
    /// Whether it is known which nodes there are.
    pub are_known: bool,
    /// Their states, by name.
    pub nodes: BTreeMap<String, PeerState>,
}

impl PeerStates {
    /// Whether all nodes have been asked, and those that answer have told everything.
    #[must_use]
    pub fn were_asked(&self) -> bool {
        self.are_known && self.nodes.values().all(|state| state.was_asked)
    }
}

/// The tables' side of the exchange.
#[derive(Clone, Debug)]
pub struct Tables {
    /// Buckets of the tracking table.
    pub buckets: u32,
    /// To the task that knows the tables.
    pub events: mpsc::Sender<Event>,
    /// What the task has counted.
    pub counters: Arc<Counters>,
    /// Changed by the task if it wants to be told everything again.
    pub again: watch::Sender<()>,
}

/// Flows that were exchanged; the numbers only grow.
#[derive(Debug, Default)]
pub struct Counters {
    told: AtomicU64,
    written: AtomicU64,
    no_room: AtomicU64,
}

impl Counters {
    /// Adds flows that were told to other nodes.
    pub fn add_told(&self, flows: usize) {
        self.told.fetch_add(flows as u64, Ordering::Relaxed);
    }

    /// Adds flows of other nodes that got a cell, and that found no room.
    pub fn add_taken(&self, written: u64, no_room: u64) {
        self.written.fetch_add(written, Ordering::Relaxed);
        self.no_room.fetch_add(no_room, Ordering::Relaxed);
    }

    /// Flows told, written and without room.
    #[must_use]
    pub fn get(&self) -> [u64; 3] {
        [&self.told, &self.written, &self.no_room].map(|count| count.load(Ordering::Relaxed))
    }
}

/// What the tasks share.
#[derive(Debug)]
struct Shared {
    settings: Settings,
    tables: Tables,
    states: watch::Sender<PeerStates>,
    /// Why this node can't be asked.
    listen_error: Mutex<Option<String>>,
    /// The settings of TLS, and when they were read.
    server: Mutex<Option<(Instant, Arc<ServerConfig>)>>,
}

impl Shared {
    fn hello(&self) -> Hello {
        self.settings.hello(self.tables.buckets)
    }

    fn set(&self, node: &str, change: impl FnOnce(&mut PeerState)) {
        self.states.send_modify(|states| {
            if let Some(state) = states.nodes.get_mut(node) {
                change(state);
            }
        });
    }
}

/// A running exchange. Stops when dropped.
#[derive(Debug)]
pub struct Exchange {
    shared: Arc<Shared>,
    tasks: Vec<tokio::task::AbortHandle>,
}

impl Exchange {
    /// Starts it on the current tokio runtime. `peers`: the other nodes, once they are known.
    #[must_use]
    pub fn start(
        settings: Settings,
        peers: watch::Receiver<Option<Peers>>,
        tables: Tables,
    ) -> Self {
        let shared = Arc::new(Shared {
            settings,
            tables,
            states: watch::Sender::default(),
            listen_error: Mutex::default(),
            server: Mutex::default(),
        });
        let serve = tokio::spawn(serve::run(Arc::clone(&shared)));
        let ask = tokio::spawn(ask::run(Arc::clone(&shared), peers));
        Self {
            shared,
            tasks: vec![serve.abort_handle(), ask.abort_handle()],
        }
    }

    /// The states of the other nodes.
    #[must_use]
    pub fn states(&self) -> watch::Receiver<PeerStates> {
        self.shared.states.subscribe()
    }

    /// Why other nodes can't ask this one; none if they can.
    ///
    /// # Panics
    /// Never: nobody panics with the lock.
    #[must_use]
    pub fn listen_error(&self) -> Option<String> {
        let error = self.shared.listen_error.lock();
        error.expect("nobody panics with the lock").clone()
    }

    /// What the task that knows the tables has counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.shared.tables.counters
    }

    /// A channel for what changes; each node that asks gets a receiver.
    #[must_use]
    pub fn changes() -> broadcast::Sender<Arc<Update>> {
        broadcast::Sender::new(BACKLOG)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests;
