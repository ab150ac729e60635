//! The task of a peer: runs the state machine with a socket, a clock and BFD.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    time::{sleep, sleep_until},
};
use tracing::{info, warn};

use super::{
    adj_out::AdjOut,
    connection::Connection,
    message::{PathContext, keepalive},
    session::{Action, Event, Session, State},
    status::PeerStatus,
};
use crate::{
    bfd::{Change, Handle},
    peer::Peer,
    routes::Routes,
};

/// How often acknowledgement is checked while something is unacknowledged; TCP has no event for it.
const ACKNOWLEDGE_INTERVAL: Duration = Duration::from_millis(20);

/// What the speaker shares with the task of a peer.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) routes: watch::Receiver<Arc<Routes>>,
    /// Set to true to end the session for good.
    pub(super) stop: watch::Receiver<bool>,
    pub(super) status: Arc<Mutex<PeerStatus>>,
    /// Counts changes of any peer's status.
    pub(super) changes: watch::Sender<u64>,
}

pub(super) struct Task {
    peer: Arc<Peer>,
    shared: Shared,
    session: Session,
    connection: Connection,
    /// Routes of the established session.
    adj_out: Option<AdjOut>,
    bfd: Option<Handle>,
    acknowledged: bool,
}

impl Task {
    pub(super) fn new(peer: Arc<Peer>, shared: Shared, bfd: Option<Handle>) -> Self {
        let seed = RandomState::new().hash_one(&peer.name);
        Self {
            session: Session::new(peer.clone(), seed, Instant::now()),
            peer,
            shared,
            connection: Connection::None,
            adj_out: None,
            bfd,
            acknowledged: false,
        }
    }

    /// Runs until stopped. The connection is closed when this returns.
    pub(super) async fn run(mut self) {
        loop {
            self.fill();
            self.report();
            if *self.shared.stop.borrow() {
                self.apply(Event::Stop);
                self.report();
                return std::mem::replace(&mut self.connection, Connection::None)
                    .close()
                    .await;
            }
            if let Some(event) = self.next().await {
                self.apply(event);
            }
        }
    }

    /// Waits for the next event. Changes of routes are applied here and give none.
    async fn next(&mut self) -> Option<Event> {
        // A peer that sends without a pause must not keep us from sending.
        if self.session.is_keepalive_due(Instant::now()) {
            return Some(Event::Timer);
        }
        let deadline = self.session.deadline();
        let timer = async {
            match deadline {
                Some(deadline) => sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        let unacknowledged = self.adj_out.is_some() && !self.acknowledged;
        // In this order: after a stall of this process, what the peer has sent counts before the hold timer.
        tokio::select! {
            biased;
            Ok(()) = self.shared.stop.changed() => None,
            event = bfd_event(self.bfd.as_mut()) => event,
            Ok(()) = self.shared.routes.changed() => {
                let routes = self.shared.routes.borrow_and_update().clone();
                if let Some(adj_out) = &mut self.adj_out {
                    adj_out.set(&routes);
                }
                None
            }
            event = self.connection.next() => Some(event),
            () = timer => Some(Event::Timer),
            () = sleep(ACKNOWLEDGE_INTERVAL), if unacknowledged => None,
        }
    }

    fn apply(&mut self, event: Event) {
        let before = self.session.state();
        for action in self.session.handle(event, Instant::now()) {
            match action {
                Action::Connect => self.connection = Connection::connect(self.peer.clone()),
                Action::SendOpen(open) => self.connection.send(&open.encode()),
                Action::SendKeepalive => self.connection.send(&keepalive()),
                Action::SendNotification(error) => self.connection.send(&error.encode()),
                Action::Disconnect => self.disconnect(),
                Action::StartRoutes => self.start_routes(),
                Action::RefreshRoutes(family) => {
                    if let Some(adj_out) = &mut self.adj_out {
                        adj_out.refresh(family, &self.shared.routes.borrow());
                    }
                }
            }
        }
        self.log(before);
    }

    fn start_routes(&mut self) {
        let path = PathContext {
            local_as: self.peer.local_as,
            internal: self.peer.is_internal(),
            next_hops: self.session.next_hops(),
        };
        let families = self.session.families().active().collect();
        let routes = self.shared.routes.borrow_and_update().clone();
        self.adj_out = Some(AdjOut::new(path, families, &routes));
    }

    fn disconnect(&mut self) {
        self.adj_out = None;
        // When the task ends, it closes the connection itself and waits for that.
        if !*self.shared.stop.borrow() {
            let connection = std::mem::replace(&mut self.connection, Connection::None);
            tokio::spawn(connection.close());
        }
    }

    /// Gives the connection what it can take now.
    fn fill(&mut self) {
        let Some(adj_out) = &mut self.adj_out else {
            return;
        };
        while self.connection.wants_more()
            && let Some(message) = adj_out.next()
        {
            self.connection.send(&message);
        }
    }

    fn report(&mut self) {
        let all_sent = self.adj_out.as_ref().is_some_and(AdjOut::is_empty);
        self.acknowledged = all_sent && self.connection.is_acknowledged();
        let new = PeerStatus {
            name: self.peer.name.clone(),
            address: self.peer.address,
            state: self.session.state(),
            since: self.session.since(),
            last_error: self.session.last_error().map(str::to_owned),
            flaps: self.session.flaps(),
            routes_sent: self.adj_out.as_ref().map_or(0, AdjOut::sent),
            acknowledged: self.acknowledged,
            families: self.session.families(),
            bfd: self.bfd.as_ref().map(Handle::state),
            bfd_error: self.bfd.as_ref().and_then(Handle::error),
            hold_time: self.session.hold_time(),
        };
        let mut status = self
            .shared
            .status
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *status != new {
            *status = new;
            drop(status);
            self.shared.changes.send_modify(|count| *count += 1);
        }
    }

    fn log(&self, before: State) {
        let now = self.session.state();
        let peer = &self.peer.name;
        let reason = self.session.last_error().unwrap_or("stopped");
        match (before, now) {
            (State::Established, State::Idle) => warn!(peer, reason, "BGP session ended"),
            (State::OpenConfirm, State::Established) => info!(peer, "BGP session established"),
            (State::Connect | State::OpenSent | State::OpenConfirm, State::Idle) => {
                info!(peer, reason, "BGP session not established");
            }
            _ => {}
        }
    }
}

/// Waits for a change of BFD's state; only up and down are events of the session.
async fn bfd_event(bfd: Option<&mut Handle>) -> Option<Event> {
    let Some(bfd) = bfd else {
        return std::future::pending().await;
    };
    match bfd.changed().await {
        Change::Up => Some(Event::BfdUp),
        Change::Down(reason) => Some(Event::BfdDown(reason)),
        Change::Other => None,
    }
}
