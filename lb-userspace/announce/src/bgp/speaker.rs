//! All peers.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{timeout, timeout_at},
};
use tracing::warn;

use super::{
    session::State,
    status::{Families, PeerStatus},
    task::{Shared, Task},
};
use crate::{bfd::Monitor, peer::Peer, routes::Routes};

/// A BGP speaker that announces routes to its peers.
///
/// Its tasks run in the tokio runtime it was started in, and its sockets are in the network namespace of
/// that runtime's threads. Dropping it closes all connections without a NOTIFICATION; routers then
/// remove the routes at once, as after a crash. [`Speaker::withdraw_and_stop`] is the orderly end.
#[derive(Debug)]
pub struct Speaker {
    routes: watch::Sender<Arc<Routes>>,
    changes: watch::Sender<u64>,
    peers: Mutex<Peers>,
}

#[derive(Debug, Default)]
struct Peers {
    running: Vec<Running>,
    /// Started with the first peer that has BFD.
    bfd: Option<Monitor>,
}

/// A peer and its task. Dropping it ends the task at once.
#[derive(Debug)]
struct Running {
    peer: Arc<Peer>,
    stop: watch::Sender<bool>,
    status: Arc<Mutex<PeerStatus>>,
    /// `None` if the peer's configuration is not possible.
    task: Option<JoinHandle<()>>,
}

impl Speaker {
    /// Connects to the peers and announces nothing yet.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(peers: Vec<Peer>) -> Self {
        let speaker = Self {
            routes: watch::Sender::default(),
            changes: watch::Sender::default(),
            peers: Mutex::default(),
        };
        speaker.set_peers(peers);
        speaker
    }

    /// Replaces the routes. Each peer gets the difference to what it was sent, withdrawals first. Returns
    /// at once.
    pub fn announce(&self, routes: Arc<Routes>) {
        self.routes.send_replace(routes);
    }

    /// Replaces the peers. Those whose configuration is the same keep their session; removed and changed
    /// ones get a Cease, and changed ones a new session afterwards.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn set_peers(&self, wanted: Vec<Peer>) {
        let mut peers = self.lock();
        let mut old = std::mem::take(&mut peers.running);
        for peer in wanted {
            let renamed =
                |it: &Running| (it.peer.address, it.peer.port) == (peer.address, peer.port);
            let known = old.iter().position(|it| it.peer.name == peer.name);
            let known = known.or_else(|| old.iter().position(renamed));
            let known = known.map(|at| old.swap_remove(at));
            let running = match known {
                Some(same) if *same.peer == peer => same,
                // The new session waits, because a router may reject a second connection of a peer.
                Some(changed) => self.run(&mut peers, peer, changed.stop()),
                None => self.run(&mut peers, peer, None),
            };
            peers.running.push(running);
        }
        for removed in old {
            removed.stop();
        }
        drop(peers);
        self.changes.send_modify(|count| *count += 1);
    }

    /// Returns the state of all peers, in the order in which they were given.
    pub fn status(&self) -> Vec<PeerStatus> {
        let peers = self.lock();
        peers.running.iter().map(Running::status).collect()
    }

    /// Returns a counter that grows whenever the status of a peer has changed.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Withdraws all routes, waits until the peers have acknowledged that, and closes the sessions
    /// with a Cease. After `limit`, whatever is left is closed at once.
    pub async fn withdraw_and_stop(self, limit: Duration) {
        let end = tokio::time::Instant::now() + limit;
        self.announce(Arc::default());
        let mut changes = self.changed();
        let withdrawn = async {
            while !self.status().iter().all(is_withdrawn) {
                // The sender is alive as long as `self`.
                let _ = changes.changed().await;
            }
        };
        // Some time is kept for the Cease, which makes routers withdraw the routes as well.
        if timeout(limit.mul_f64(0.75), withdrawn).await.is_err() {
            warn!("not all BGP peers acknowledged the withdrawal of all routes");
        }
        let running = std::mem::take(&mut self.lock().running);
        let tasks: Vec<_> = running.into_iter().filter_map(Running::stop).collect();
        for mut task in tasks {
            if timeout_at(end, &mut task).await.is_err() {
                task.abort();
            }
        }
    }

    fn run(&self, peers: &mut Peers, peer: Peer, predecessor: Option<JoinHandle<()>>) -> Running {
        let peer = Arc::new(peer);
        let error = peer.check().err().map(|error| error.to_string());
        let status = Arc::new(Mutex::new(initial_status(&peer, error.clone())));
        let stop = watch::Sender::default();
        let shared = Shared {
            routes: self.routes.subscribe(),
            stop: stop.subscribe(),
            status: status.clone(),
            changes: self.changes.clone(),
        };
        let task = error.is_none().then(|| {
            let bfd = peer.bfd.map(|bfd| {
                let monitor = peers.bfd.get_or_insert_with(Monitor::start);
                (monitor.clone(), bfd)
            });
            let peer = peer.clone();
            tokio::spawn(async move {
                if let Some(predecessor) = predecessor {
                    // It ends by itself within seconds, however it ends.
                    let _ = predecessor.await;
                }
                // Not before: a router has one BFD session with this node.
                let bfd = bfd.map(|(monitor, bfd)| monitor.add(peer.address, peer.source, bfd));
                Task::new(peer, shared, bfd).run().await;
            })
        });
        Running {
            peer,
            stop,
            status,
            task,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn status(&self) -> PeerStatus {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.clone()
    }

    /// Makes the task send a Cease and end.
    fn stop(mut self) -> Option<JoinHandle<()>> {
        self.stop.send_replace(true);
        self.task.take()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

fn is_withdrawn(status: &PeerStatus) -> bool {
    status.state != State::Established || (status.routes_sent == 0 && status.acknowledged)
}

fn initial_status(peer: &Peer, error: Option<String>) -> PeerStatus {
    PeerStatus {
        name: peer.name.clone(),
        address: peer.address,
        state: State::Idle,
        since: Instant::now(),
        last_error: error,
        flaps: 0,
        routes_sent: 0,
        acknowledged: false,
        families: Families::default(),
        bfd: None,
        bfd_error: None,
        hold_time: None,
    }
}
