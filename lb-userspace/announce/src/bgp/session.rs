//! State machine of a session (RFC 4271, section 8): events in, actions out. It has no access to sockets
//! or clocks.
//!
//! Differences from the RFC: we only connect and never listen, so there is no Active state and no
//! collision; routes of the peer are ignored; a hold time of 0 is rejected, because a dead peer would
//! never be noticed.
//!
//! BFD is used as BIRD and FRR do: BGP does not wait for BFD before its first Up, since the peer may
//! start BFD only with the session; the session ends when BFD goes from Up to Down. Afterwards the next
//! connection waits until BFD is Up again, but at most [`BFD_WAIT`]: the peer may have BFD disabled.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::{
    message::{Cease, Family, Message, NextHops, Notification, Open},
    status::{Families, FamilyState},
};
use crate::peer::Peer;

/// First interval between attempts to connect; doubled with each failure.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(30);
/// How long connecting may take: three SYNs (0, 1 and 3 s).
pub(crate) const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Hold time until the peer's OPEN has arrived. RFC 4271 suggests 4 minutes; routers answer in
/// milliseconds.
const OPEN_LIMIT: Duration = Duration::from_secs(15);
/// What to check if TCP connects and BGP does not: routers drop packets with a wrong TTL only then.
const HINT: &str =
    "check address and AS of this node there, and that both sides have the same TTL security";
/// How long connecting waits for BFD after BFD ended a session.
const BFD_WAIT: Duration = Duration::from_secs(5);

/// State of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Waits for the next attempt, or was stopped.
    Idle,
    /// Connecting by TCP.
    Connect,
    /// Connected, waits for the peer's OPEN.
    OpenSent,
    /// OPEN accepted, waits for the first KEEPALIVE.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The time of [`Session::deadline`] has come.
    Timer,
    /// TCP is connected, from this local address.
    Connected(IpAddr),
    /// TCP failed or was closed, with the reason.
    Disconnected(String),
    Received(Message),
    /// What was received is not a message; the reason as it must be sent.
    Malformed(Notification),
    /// Everything that was to be sent was written.
    Sent,
    /// BFD went from Up to Down, with the reason.
    BfdDown(String),
    BfdUp,
    /// Ends the session for good.
    Stop,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Connect,
    SendOpen(Open),
    SendKeepalive,
    SendNotification(Notification),
    /// Sends what is left and closes the connection.
    Disconnect,
    /// The session is established: all routes must be sent.
    StartRoutes,
    /// All routes of a family must be sent again.
    RefreshRoutes(Family),
}

/// A session with one peer, over all connections.
#[derive(Debug)]
pub(crate) struct Session {
    peer: Arc<Peer>,
    random: SmallRng,
    state: State,
    since: Instant,
    stopped: bool,
    /// Failures since the last established session.
    failures: u32,
    last_error: Option<String>,
    flaps: u64,
    /// When the next attempt begins (Idle) or this one fails (Connect).
    attempt: Option<Instant>,
    hold: Option<Instant>,
    keepalive: Option<Instant>,
    hold_time: Option<Duration>,
    next_hops: NextHops,
    families: Families,
}

impl Session {
    /// Starts in Idle and connects at once. `seed` determines the jitter.
    pub(crate) fn new(peer: Arc<Peer>, seed: u64, now: Instant) -> Self {
        Self {
            random: SmallRng::seed_from_u64(seed),
            state: State::Idle,
            since: now,
            stopped: false,
            failures: 0,
            last_error: None,
            flaps: 0,
            attempt: Some(now),
            hold: None,
            keepalive: None,
            hold_time: None,
            next_hops: NextHops {
                v4: peer.next_hop_v4,
                v6: peer.next_hop_v6,
            },
            families: Families::default(),
            peer,
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    pub(crate) fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    pub(crate) fn flaps(&self) -> u64 {
        self.flaps
    }

    pub(crate) fn families(&self) -> Families {
        self.families
    }

    pub(crate) fn next_hops(&self) -> NextHops {
        self.next_hops
    }

    /// Returns the negotiated hold time.
    pub(crate) fn hold_time(&self) -> Option<Duration> {
        self.hold_time
    }

    /// Returns when [`Event::Timer`] is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        [self.attempt, self.hold, self.keepalive]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether a KEEPALIVE is due, and the peer is not silent.
    pub(crate) fn is_keepalive_due(&self, now: Instant) -> bool {
        let due = |time: Option<Instant>| time.is_some_and(|time| time <= now);
        due(self.keepalive) && !due(self.hold)
    }

    /// Handles an event; the actions must be done in their order.
    pub(crate) fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        match event {
            _ if self.stopped => Vec::new(),
            Event::Timer => self.expired(now),
            Event::Connected(local) => self.connected(local, now),
            Event::Disconnected(reason) if self.is_opening() => {
                let reason = format!("{reason} before the session was established: {HINT}");
                self.fail(reason, None, now)
            }
            Event::Disconnected(reason) if self.state != State::Idle => {
                self.fail(reason, None, now)
            }
            Event::Received(message) if self.state >= State::OpenSent => {
                self.received(message, now)
            }
            Event::Malformed(error) if self.state >= State::OpenSent => {
                let reason = format!("invalid message from the peer: {error}");
                self.fail(reason, Some(error), now)
            }
            Event::Sent => self.restart_keepalive(now),
            Event::BfdDown(reason) => self.bfd_down(&reason, now),
            Event::BfdUp => self.bfd_up(now),
            Event::Stop => self.stop(now),
            // Left over from a connection that has ended.
            Event::Disconnected(_) | Event::Received(_) | Event::Malformed(_) => Vec::new(),
        }
    }

    fn expired(&mut self, now: Instant) -> Vec<Action> {
        let due = |time: Option<Instant>| time.is_some_and(|time| time <= now);
        if due(self.attempt) && self.state == State::Idle {
            self.enter(State::Connect, now);
            self.attempt = Some(now + CONNECT_LIMIT);
            return vec![Action::Connect];
        }
        if due(self.attempt) {
            return self.fail(self.no_reply(), None, now);
        }
        if due(self.hold) {
            let error = Notification::HOLD_TIMER_EXPIRED;
            let limit = self.hold_time.unwrap_or(OPEN_LIMIT);
            let mut reason = format!("no message from the peer for {limit:?} (hold timer expired)");
            if self.is_opening() {
                reason = format!("{reason} before the session was established: {HINT}");
            }
            return self.fail(reason, Some(error), now);
        }
        if due(self.keepalive) {
            self.restart_keepalive(now);
            return vec![Action::SendKeepalive];
        }
        Vec::new()
    }

    /// Whether TCP is connected, and the session is not established.
    fn is_opening(&self) -> bool {
        matches!(self.state, State::OpenSent | State::OpenConfirm)
    }

    fn no_reply(&self) -> String {
        // The kernel drops segments without the right MD5 signature, so a wrong password looks like this.
        let hint = match self.peer.password {
            Some(_) => "that both sides have the same password",
            None => "that the peer requires no password",
        };
        format!(
            "no reply from {} port {} within {CONNECT_LIMIT:?}: check that BGP is enabled there and {hint}",
            self.peer.address, self.peer.port
        )
    }

    fn connected(&mut self, local: IpAddr, now: Instant) -> Vec<Action> {
        if self.state != State::Connect {
            return vec![Action::Disconnect];
        }
        self.attempt = None;
        self.hold = Some(now + OPEN_LIMIT);
        match local {
            IpAddr::V4(v4) => self.next_hops.v4 = self.peer.next_hop_v4.or(Some(v4)),
            IpAddr::V6(v6) => self.next_hops.v6 = self.peer.next_hop_v6.or(Some(v6)),
        }
        self.enter(State::OpenSent, now);
        vec![Action::SendOpen(Open {
            asn: self.peer.local_as,
            hold_time_s: self.peer.hold_time.as_secs() as u16,
            router_id: self.peer.router_id,
            families: Some(Family::ALL.to_vec()),
            route_refresh: true,
            four_octet_as: true,
        })]
    }

    fn received(&mut self, message: Message, now: Instant) -> Vec<Action> {
        if let Some(hold_time) = self.hold_time {
            self.hold = Some(now + hold_time);
        }
        match (self.state, message) {
            (_, Message::Notification(error)) => {
                self.fail(format!("the peer closed the session: {error}"), None, now)
            }
            (State::OpenSent, Message::Open(open)) => match self.accept(&open) {
                Ok(()) => self.confirm(&open, now),
                Err((reason, error)) => self.fail(reason, Some(error), now),
            },
            (State::OpenConfirm, Message::Keepalive) => {
                self.failures = 0;
                self.enter(State::Established, now);
                vec![Action::StartRoutes]
            }
            (State::Established, Message::RouteRefresh(Some(family))) => {
                vec![Action::RefreshRoutes(family)]
            }
            (
                State::Established,
                Message::Keepalive | Message::Update(_) | Message::RouteRefresh(None),
            ) => Vec::new(),
            (state, _) => {
                let error = Notification::unexpected(match state {
                    State::OpenSent => 1,
                    State::OpenConfirm => 2,
                    _ => 3,
                });
                self.fail(
                    format!("protocol error of the peer: {error}"),
                    Some(error),
                    now,
                )
            }
        }
    }

    /// Checks an OPEN (RFC 4271, 6.2); the error has our words and those for the peer.
    fn accept(&self, open: &Open) -> Result<(), (String, Notification)> {
        let Peer {
            remote_as,
            router_id,
            ..
        } = *self.peer;
        if !open.four_octet_as {
            let capability = [[65, 4].as_slice(), &self.peer.local_as.to_be_bytes()].concat();
            let reason = "the peer does not support four-octet AS numbers (RFC 6793)".to_owned();
            return Err((reason, Notification::unsupported_capability(&capability)));
        }
        if open.asn != remote_as {
            let reason = format!("the peer's AS is {}, configured is {remote_as}", open.asn);
            return Err((reason, Notification::BAD_PEER_AS));
        }
        if open.router_id == router_id || open.router_id.is_unspecified() {
            let reason = format!(
                "the peer's router ID is {}; must be neither 0.0.0.0 nor the own one",
                open.router_id
            );
            return Err((reason, Notification::BAD_IDENTIFIER));
        }
        if open.hold_time_s < 3 {
            let reason = format!(
                "the peer's hold time is {} s; must be 3 s or more",
                open.hold_time_s
            );
            return Err((reason, Notification::UNACCEPTABLE_HOLD_TIME));
        }
        Ok(())
    }

    fn confirm(&mut self, open: &Open, now: Instant) -> Vec<Action> {
        let hold_time = Duration::from_secs(open.hold_time_s.into()).min(self.peer.hold_time);
        self.hold_time = Some(hold_time);
        self.hold = Some(now + hold_time);
        let family = |family| match (open.supports(family), self.next_hops.has(family)) {
            (false, _) => FamilyState::NotSupportedByPeer,
            (true, false) => FamilyState::NoNextHop,
            (true, true) => FamilyState::Active,
        };
        self.families = Families {
            v4: family(Family::V4),
            v6: family(Family::V6),
        };
        self.enter(State::OpenConfirm, now);
        self.restart_keepalive(now);
        vec![Action::SendKeepalive]
    }

    /// A third of the hold time, with the jitter of RFC 4271, section 10.
    fn restart_keepalive(&mut self, now: Instant) -> Vec<Action> {
        let jitter = self.random.random_range(0.75..=1.0);
        let interval = self.hold_time.map(|hold| (hold / 3).mul_f64(jitter));
        self.keepalive = interval.map(|interval| now + interval);
        Vec::new()
    }

    fn bfd_down(&mut self, reason: &str, now: Instant) -> Vec<Action> {
        let actions = match self.state {
            State::Idle => Vec::new(),
            _ => {
                let error = Notification::cease(Cease::BfdDown, "");
                let error = (self.state >= State::OpenSent).then_some(error);
                self.fail(format!("BFD session went down: {reason}"), error, now)
            }
        };
        self.attempt = Some(now + BFD_WAIT);
        actions
    }

    fn bfd_up(&mut self, now: Instant) -> Vec<Action> {
        if self.state == State::Idle && self.attempt.is_some() {
            // The peer is reachable again: there is no reason to wait out the backoff.
            self.attempt = Some(now);
        }
        Vec::new()
    }

    fn stop(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.state >= State::OpenSent {
            let error = Notification::cease(Cease::AdministrativeShutdown, "announcer stopped");
            actions.push(Action::SendNotification(error));
        }
        if self.state != State::Idle {
            actions.push(Action::Disconnect);
        }
        self.reset(now);
        self.stopped = true;
        actions
    }

    /// Ends the connection and schedules the next attempt.
    fn fail(&mut self, reason: String, error: Option<Notification>, now: Instant) -> Vec<Action> {
        if self.state == State::Established {
            self.flaps += 1;
        }
        self.last_error = Some(reason);
        self.reset(now);
        let retry = RETRY_FIRST
            .saturating_mul(1 << self.failures.min(5))
            .min(RETRY_LONGEST);
        self.failures += 1;
        // Nodes that lost the same router at the same time do not all return at the same time.
        self.attempt = Some(now + retry.mul_f64(self.random.random_range(0.75..=1.0)));
        let notification = error.map(Action::SendNotification);
        notification
            .into_iter()
            .chain([Action::Disconnect])
            .collect()
    }

    fn reset(&mut self, now: Instant) {
        self.enter(State::Idle, now);
        (self.attempt, self.hold, self.keepalive) = (None, None, None);
        self.hold_time = None;
        self.families = Families::default();
        self.next_hops = NextHops {
            v4: self.peer.next_hop_v4,
            v6: self.peer.next_hop_v6,
        };
    }

    fn enter(&mut self, state: State, now: Instant) {
        if self.state != state {
            self.state = state;
            self.since = now;
        }
    }
}

#[cfg(test)]
mod tests;
