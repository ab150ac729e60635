//! The agent: tasks that connect the state machines with etcd and the node.
//!
//! | task | does |
//! | --- | --- |
//! | [`link::watch`] | lists the keys and watches them |
//! | [`link::pulse`] | keeps the lease alive, and asks etcd whether it is still the one that was listed |
//! | [`work::run`] | decides and acts: the only one that changes the node |
//!
//! Commands run in the tasks of their callers.

mod link;
mod peers;
mod publish;
mod texts;
mod work;

use std::{
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicI64, Ordering},
    },
    time::Instant,
};

use lb_api::{ExplainRequest, Explanation, FleetState, Guard, Plan};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::{
    exchange::{self, Exchange, Tables},
    handle::Settings,
    memory::Memory,
    node::{Facts, Node, NodeError},
    snapshot::{Decoded, Keys},
    store::{Client, Committed, Txn},
};
use peers::KnownPeers;
pub(crate) use texts::{fetch, parts};

/// Time to live of the lease of a node in seconds.
pub(crate) const LEASE_S: i64 = 10;

/// What the tasks and the commands share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) facts: Facts,
    pub(crate) client: Client,
    keys: Mutex<Keys>,
    /// Why the keys were not read at the last try.
    error: Mutex<Option<String>>,
    /// Why the last write failed.
    write_error: Mutex<Option<String>>,
    lease: AtomicI64,
    /// Something changed: the worker looks again.
    pub(crate) changed: Notify,
    /// The keys are to be listed again.
    relist: Notify,
    started: Instant,
    peers: KnownPeers,
    /// None: other nodes are not asked, and can't ask.
    exchange: Option<Exchange>,
}

impl Shared {
    pub(crate) fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().expect("nobody panics with the lock")
    }

    fn error(&self) -> MutexGuard<'_, Option<String>> {
        self.error.lock().expect("nobody panics with the lock")
    }

    fn write_error(&self) -> MutexGuard<'_, Option<String>> {
        let error = self.write_error.lock();
        error.expect("nobody panics with the lock")
    }

    /// The exchange, if there is one.
    pub(crate) fn exchange(&self) -> Option<&Exchange> {
        self.exchange.as_ref()
    }

    pub(crate) fn lease(&self) -> i64 {
        self.lease.load(Ordering::Relaxed)
    }

    fn ms(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.started);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// What is known of etcd, without asking it; none before it was read.
    pub(crate) fn snapshot(&self) -> Option<Arc<Decoded>> {
        self.keys().decode()
    }

    /// Lists the keys, and returns the revision of etcd.
    pub(crate) async fn list(&self) -> Result<i64, String> {
        loop {
            let newest = self.keys().newest();
            let listing = self.client.list().await?;
            let revision = listing.revision;
            if self.keys().list(listing, newest) {
                self.changed.notify_one();
                return Ok(revision);
            }
        }
    }

    /// Carries a transaction out, and takes it over into the known keys.
    pub(crate) async fn commit(&self, txn: &Txn) -> Result<Committed, String> {
        let lease = self.lease();
        let committed = self.client.commit(txn, lease).await;
        *self.write_error() = committed.as_ref().err().cloned();
        let committed = committed?;
        match committed {
            Committed::At(revision) => {
                self.keys().wrote(txn, revision, lease);
                self.changed.notify_one();
            }
            Committed::Conflict => self.relist.notify_one(),
        }
        Ok(committed)
    }
}

/// What a command asks the worker.
pub(crate) enum Request {
    /// The text that the node runs, and its digest.
    Text(oneshot::Sender<Result<(String, String), NodeError>>),
    /// Plans a text.
    Plan(String, Vec<Guard>, oneshot::Sender<Result<Plan, NodeError>>),
    /// Explains a packet.
    Explain(
        ExplainRequest,
        oneshot::Sender<Result<Explanation, NodeError>>,
    ),
    /// What the node remembers.
    Memory(oneshot::Sender<Memory>),
    /// Replaces what the node remembers, durably.
    Remember(Box<Memory>, oneshot::Sender<Result<(), String>>),
}

/// The running agent, as its handles see it.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) shared: Arc<Shared>,
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) state: watch::Receiver<FleetState>,
    pub(crate) stop: watch::Sender<bool>,
}

/// Starts the tasks.
pub(crate) fn start<N: Node>(settings: Settings, node: N, tables: Option<Tables>) -> Running {
    let client = Client::new(&settings.fleet, &settings.endpoints, settings.tls.clone());
    let initial = FleetState {
        fleet: settings.fleet.clone(),
        node: settings.node.clone(),
        ..FleetState::default()
    };
    let peers = KnownPeers::read(&settings.state_file);
    let facts = node.facts();
    let exchange = tables.and_then(|tables| {
        let settings = exchange::Settings {
            fleet: settings.fleet.clone(),
            node: settings.node.clone(),
            listen: settings.exchange?,
            tls: settings.tls.clone()?,
            facts: facts.clone(),
        };
        Some(Exchange::start(settings, peers.watch(), tables))
    });
    let shared = Arc::new(Shared {
        facts,
        peers,
        exchange,
        settings,
        client,
        keys: Mutex::default(),
        error: Mutex::default(),
        write_error: Mutex::default(),
        lease: AtomicI64::new(0),
        changed: Notify::new(),
        relist: Notify::new(),
        started: Instant::now(),
    });
    let (stop, stopped) = watch::channel(false);
    let (publisher, state) = watch::channel(initial);
    let (requests, receiver) = mpsc::channel(16);
    tokio::spawn(until(stopped.clone(), link::watch(Arc::clone(&shared))));
    tokio::spawn(until(stopped.clone(), link::pulse(Arc::clone(&shared))));
    let work = work::run(Arc::clone(&shared), node, receiver, publisher, stopped);
    tokio::spawn(work);
    Running {
        shared,
        requests,
        state,
        stop,
    }
}

/// Runs a task until the agent stops.
async fn until(mut stopped: watch::Receiver<bool>, task: impl Future<Output = ()>) {
    tokio::select! {
        () = task => {}
        () = ended(&mut stopped) => {}
    }
}

/// Returns when the agent is to stop: it was told so, or the last handle is gone.
async fn ended(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
