use std::net::Ipv4Addr;

use super::*;
use crate::{bgp::message::ReceivedUpdate, peer::Password};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

struct Trial {
    session: Session,
    start: Instant,
    now: Instant,
}

fn peer() -> Peer {
    let id = Ipv4Addr::new(10, 0, 0, 2);
    Peer::new("r1", Ipv4Addr::new(10, 0, 0, 1).into(), 65000, 65001, id)
}

fn open() -> Open {
    Open {
        asn: 65000,
        hold_time_s: 90,
        router_id: Ipv4Addr::new(10, 0, 0, 1),
        families: Some(Family::ALL.to_vec()),
        route_refresh: true,
        four_octet_as: true,
    }
}

impl Trial {
    fn new(peer: Peer) -> Self {
        let start = Instant::now();
        Self {
            session: Session::new(Arc::new(peer), 1, start),
            start,
            now: start,
        }
    }

    fn established() -> Self {
        let mut trial = Self::new(peer());
        trial.connect();
        trial.receive(Message::Open(open()));
        assert_eq!(trial.receive(Message::Keepalive), [Action::StartRoutes]);
        trial
    }

    fn handle(&mut self, event: Event) -> Vec<Action> {
        self.session.handle(event, self.now)
    }

    fn receive(&mut self, message: Message) -> Vec<Action> {
        self.handle(Event::Received(message))
    }

    /// Lets time pass to the next deadline.
    fn expire(&mut self) -> Vec<Action> {
        self.now = self.session.deadline().unwrap();
        self.handle(Event::Timer)
    }

    fn connect(&mut self) {
        assert_eq!(self.expire(), [Action::Connect]);
        let actions = self.handle(Event::Connected(LOCAL));
        assert!(matches!(actions[..], [Action::SendOpen(_)]), "{actions:?}");
    }

    /// Sends an OPEN and returns the code and subcode of the refusal, and its words.
    fn refusal(peer: Peer, open: Open) -> ((u8, u8), String) {
        let mut trial = Self::new(peer);
        trial.connect();
        let actions = trial.receive(Message::Open(open));
        let [Action::SendNotification(error), Action::Disconnect] = &actions[..] else {
            panic!("{actions:?}");
        };
        assert_eq!(trial.session.state(), State::Idle);
        let words = trial.session.last_error().unwrap().to_owned();
        ((error.code, error.subcode), words)
    }
}

fn notified(actions: &[Action]) -> Option<(u8, u8)> {
    actions.iter().find_map(|action| match action {
        Action::SendNotification(error) => Some((error.code, error.subcode)),
        _ => None,
    })
}

#[test]
fn goes_through_the_states() {
    let mut trial = Trial::new(peer());
    assert_eq!(trial.session.state(), State::Idle);
    assert_eq!(trial.expire(), [Action::Connect]);
    assert_eq!(trial.now, trial.start, "the first attempt is at once");
    assert_eq!(trial.session.state(), State::Connect);
    trial.handle(Event::Connected(LOCAL));
    assert_eq!(trial.session.state(), State::OpenSent);
    assert_eq!(
        trial.receive(Message::Open(open())),
        [Action::SendKeepalive]
    );
    assert_eq!(trial.session.state(), State::OpenConfirm);
    assert_eq!(
        trial.session.hold_time(),
        Some(Peer::HOLD_TIME),
        "the smaller one"
    );
    assert_eq!(trial.receive(Message::Keepalive), [Action::StartRoutes]);
    assert_eq!(trial.session.state(), State::Established);
    assert_eq!(trial.session.last_error(), None);
    let update = Message::Update(ReceivedUpdate::default());
    assert_eq!(trial.receive(update), []);
    let refresh = Message::RouteRefresh(Some(Family::V6));
    assert_eq!(trial.receive(refresh), [Action::RefreshRoutes(Family::V6)]);
}

#[test]
fn keepalives_are_sent_every_third_of_the_hold_time() {
    let mut trial = Trial::established();
    for _ in 0..100 {
        trial.receive(Message::Keepalive);
        let before = trial.now;
        let due = trial.session.deadline().unwrap();
        assert!(
            !trial
                .session
                .is_keepalive_due(due - Duration::from_millis(1))
        );
        assert!(trial.session.is_keepalive_due(due));
        assert_eq!(trial.expire(), [Action::SendKeepalive]);
        let interval = trial.now - before;
        assert!(interval <= Duration::from_secs(3) && interval >= Duration::from_millis(2249));
    }
}

#[test]
fn a_silent_peer_is_dead_after_the_hold_time() {
    let mut trial = Trial::established();
    let before = trial.now;
    let mut actions = Vec::new();
    while trial.session.state() == State::Established {
        actions = trial.expire();
    }
    assert_eq!(trial.now - before, Peer::HOLD_TIME);
    assert_eq!(notified(&actions), Some((4, 0)));
    assert_eq!(trial.session.flaps(), 1);
    let words = trial.session.last_error().unwrap();
    assert_eq!(
        words,
        "no message from the peer for 9s (hold timer expired)"
    );
}

#[test]
fn a_wrong_open_is_refused_in_words() {
    let (code, words) = Trial::refusal(
        peer(),
        Open {
            asn: 64999,
            ..open()
        },
    );
    assert_eq!(code, (2, 2));
    assert_eq!(words, "the peer's AS is 64999, configured is 65000");
    let same = Open {
        router_id: Ipv4Addr::new(10, 0, 0, 2),
        ..open()
    };
    assert_eq!(Trial::refusal(peer(), same).0, (2, 3));
    for hold_time_s in 0..3 {
        let (code, words) = Trial::refusal(
            peer(),
            Open {
                hold_time_s,
                ..open()
            },
        );
        assert_eq!(code, (2, 6), "{words}");
    }
    let old = Open {
        four_octet_as: false,
        ..open()
    };
    assert_eq!(Trial::refusal(peer(), old).0, (2, 7));
}

#[test]
fn a_family_that_cannot_be_sent_is_named() {
    let families = |open: Open| {
        let mut trial = Trial::new(peer());
        trial.connect();
        trial.receive(Message::Open(open));
        trial.session.families()
    };
    let both = families(open());
    assert_eq!(both.v4, FamilyState::Active);
    assert_eq!(both.v6, FamilyState::NoNextHop, "the session is over IPv4");
    let v4_only = Open {
        families: None,
        ..open()
    };
    assert_eq!(families(v4_only).v6, FamilyState::NotSupportedByPeer);
}

#[test]
fn attempts_become_rare_and_quick_again() {
    let mut trial = Trial::new(peer());
    let mut waits = Vec::new();
    for _ in 0..8 {
        assert_eq!(trial.expire(), [Action::Connect]);
        trial.handle(Event::Disconnected("connect: refused".to_owned()));
        waits.push(trial.session.deadline().unwrap() - trial.now);
    }
    let least = [750, 1500, 3000, 6000, 12_000, 22_500, 22_500, 22_500];
    for (wait, least) in waits.iter().zip(least) {
        let least = Duration::from_millis(least) - Duration::from_millis(1);
        assert!(*wait >= least && *wait <= RETRY_LONGEST, "{waits:?}");
    }
    let mut trial = Trial::established();
    trial.handle(Event::Disconnected("closed".to_owned()));
    assert!(trial.session.deadline().unwrap() - trial.now <= RETRY_FIRST);
}

#[test]
fn no_reply_hints_at_the_password() {
    let mut trial = Trial::new(Peer {
        password: Some(Password::new("x").unwrap()),
        ..peer()
    });
    trial.expire();
    assert_eq!(trial.expire(), [Action::Disconnect]);
    assert_eq!(trial.now - trial.start, CONNECT_LIMIT);
    let words = trial.session.last_error().unwrap();
    assert!(
        words.contains("both sides have the same password"),
        "{words}"
    );
}

#[test]
fn no_open_hints_at_ttl_security() {
    let mut trial = Trial::new(peer());
    trial.connect();
    assert_eq!(notified(&trial.expire()), Some((4, 0)));
    assert_eq!(trial.now - trial.start, OPEN_LIMIT);
    assert!(trial.session.last_error().unwrap().contains("TTL security"));
    trial.connect();
    trial.handle(Event::Disconnected("connection lost".to_owned()));
    let words = trial.session.last_error().unwrap();
    assert!(
        words.contains("lost before the session was established: check"),
        "{words}"
    );
}

#[test]
fn a_notification_ends_the_session_without_a_reply() {
    let mut trial = Trial::established();
    let error = Notification::cease(Cease::AdministrativeShutdown, "upgrade");
    let actions = trial.receive(Message::Notification(error));
    assert_eq!(actions, [Action::Disconnect]);
    let words = trial.session.last_error().unwrap();
    assert!(
        words.contains("Administrative Shutdown (6/2) \"upgrade\""),
        "{words}"
    );
}

#[test]
fn messages_in_the_wrong_state_end_the_session() {
    let mut trial = Trial::new(peer());
    trial.connect();
    assert_eq!(notified(&trial.receive(Message::Keepalive)), Some((5, 1)));
    let mut trial = Trial::new(peer());
    trial.connect();
    trial.receive(Message::Open(open()));
    assert_eq!(
        notified(&trial.receive(Message::Open(open()))),
        Some((5, 2))
    );
    let mut trial = Trial::established();
    assert_eq!(
        notified(&trial.receive(Message::Open(open()))),
        Some((5, 3))
    );
}

#[test]
fn bfd_down_ends_the_session_until_bfd_is_up() {
    let mut trial = Trial::established();
    let actions = trial.handle(Event::BfdDown("no packet for 300ms".to_owned()));
    assert_eq!(notified(&actions), Some((6, 10)));
    assert_eq!(trial.session.flaps(), 1);
    assert!(
        trial
            .session
            .last_error()
            .unwrap()
            .contains("no packet for 300ms")
    );
    assert_eq!(trial.session.deadline(), Some(trial.now + BFD_WAIT));
    trial.now += Duration::from_millis(500);
    trial.handle(Event::BfdUp);
    assert_eq!(trial.session.deadline(), Some(trial.now));
    trial.connect();
}

#[test]
fn a_stopped_session_stays_stopped() {
    let mut trial = Trial::established();
    let actions = trial.handle(Event::Stop);
    assert_eq!(notified(&actions), Some((6, 2)));
    assert_eq!(actions.last(), Some(&Action::Disconnect));
    assert_eq!(trial.session.deadline(), None);
    assert_eq!(trial.handle(Event::Timer), []);
    assert_eq!(trial.handle(Event::BfdUp), []);
    assert_eq!(trial.session.flaps(), 0);
}

#[test]
fn leftovers_of_an_old_connection_are_ignored() {
    let mut trial = Trial::new(peer());
    assert_eq!(trial.receive(Message::Keepalive), []);
    assert_eq!(trial.handle(Event::Disconnected("old".to_owned())), []);
    assert_eq!(trial.handle(Event::Connected(LOCAL)), [Action::Disconnect]);
}
