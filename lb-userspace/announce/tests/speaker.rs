//! The speaker against a peer in this process, over loopback: what is sent, and in which order.
#![expect(clippy::unwrap_used, reason = "tests panic: the backtrace says where")]

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use lb_announce::{
    Attributes, Families, Family, FamilyState, Peer, Routes, Speaker, State,
    bgp::message::{Message, Open, ReceivedUpdate, decode, keepalive},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

const LIMIT: Duration = Duration::from_secs(20);

/// The other side of a session.
struct Router {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Router {
    /// Accepts a connection and establishes a session.
    async fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
        let mut router = Self {
            stream,
            received: Vec::new(),
        };
        let open = Open {
            asn: 65000,
            hold_time_s: 90,
            router_id: Ipv4Addr::new(10, 0, 0, 1),
            families: Some(vec![Family::V4, Family::V6]),
            route_refresh: true,
            four_octet_as: true,
        };
        router.stream.write_all(&open.encode()).await.unwrap();
        router.stream.write_all(&keepalive()).await.unwrap();
        assert!(matches!(router.next().await, Some(Message::Open(_))));
        assert_eq!(router.next().await, Some(Message::Keepalive));
        router
    }

    /// Returns the next message, `None` at the end of the connection.
    async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some((message, length)) = decode(&self.received).unwrap() {
                self.received.drain(..length);
                return Some(message);
            }
            let mut bytes = [0; 4096];
            let count = timeout(LIMIT, self.stream.read(&mut bytes))
                .await
                .unwrap()
                .unwrap();
            if count == 0 {
                return None;
            }
            self.received.extend(&bytes[..count]);
        }
    }

    /// Returns announced and withdrawn prefixes of the next UPDATE that has any.
    async fn update(&mut self) -> (usize, usize) {
        loop {
            match self.next().await {
                Some(Message::Update(ReceivedUpdate {
                    announced: 0,
                    withdrawn: 0,
                    ..
                })) => {}
                Some(Message::Update(update)) => return (update.announced, update.withdrawn),
                Some(Message::Keepalive) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

impl Router {
    /// Returns code and subcode of the next NOTIFICATION; only End-of-RIB and KEEPALIVE may be before it.
    async fn notification(&mut self) -> (u8, u8) {
        loop {
            match self.next().await {
                Some(Message::Notification(error)) => return (error.code, error.subcode),
                Some(Message::Update(update)) => assert_eq!(update, ReceivedUpdate::default()),
                Some(Message::Keepalive) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

async fn listen() -> (TcpListener, Peer) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let id = Ipv4Addr::new(10, 0, 0, 2);
    let address = IpAddr::from(Ipv4Addr::LOCALHOST);
    let mut peer = Peer::new("router", address, 65000, 65001, id);
    peer.port = listener.local_addr().unwrap().port();
    (listener, peer)
}

fn routes(count: u32) -> Arc<Routes> {
    let addresses = (0..count).map(|it| IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + it)));
    Arc::new(addresses.map(|it| (it, Attributes::default())).collect())
}

async fn wait_for(
    speaker: &Speaker,
    what: &str,
    wanted: impl Fn(&lb_announce::PeerStatus) -> bool,
) {
    let mut changes = speaker.changed();
    let waiting = async {
        while !wanted(&speaker.status()[0]) {
            changes.changed().await.unwrap();
        }
    };
    let waited = timeout(LIMIT, waiting).await;
    assert!(waited.is_ok(), "{what}: {:?}", speaker.status());
}

#[tokio::test]
async fn an_orderly_end_withdraws_before_it_closes() {
    let (listener, peer) = listen().await;
    let speaker = Speaker::start(vec![peer]);
    speaker.announce(routes(3));
    let mut router = Router::accept(&listener).await;
    assert_eq!(router.update().await, (3, 0));
    wait_for(&speaker, "acknowledged", |it| {
        it.routes_sent == 3 && it.acknowledged
    })
    .await;
    let families = Families {
        v4: FamilyState::Active,
        v6: FamilyState::NoNextHop,
    };
    assert_eq!(speaker.status()[0].families, families);
    let stopping = tokio::spawn(speaker.withdraw_and_stop(LIMIT));
    assert_eq!(router.update().await, (0, 3));
    assert_eq!(router.notification().await, (6, 2));
    assert_eq!(router.next().await, None);
    drop(router);
    timeout(LIMIT, stopping).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_peer_that_does_not_read_gets_only_the_newest_decision() {
    let (listener, peer) = listen().await;
    let speaker = Speaker::start(vec![peer]);
    let mut router = Router::accept(&listener).await;
    wait_for(&speaker, "established", |it| it.state == State::Established).await;
    // More than the buffers of both sides take.
    let all = 400_000;
    speaker.announce(routes(all));
    wait_for(&speaker, "some are sent", |it| it.routes_sent > 0).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let sent = speaker.status()[0].routes_sent;
    assert!(sent < all as usize, "all routes fit into the buffers");
    // Nothing of what is not sent yet is sent any more, but for messages that are being written.
    speaker.announce(Arc::default());
    let (mut announced, mut withdrawn) = (0, 0);
    while announced == 0 || withdrawn < announced {
        let update = router.update().await;
        assert!(
            withdrawn == 0 || update.0 == 0,
            "an announcement after a withdrawal"
        );
        announced += update.0;
        withdrawn += update.1;
    }
    assert!(
        announced < sent + 5_000,
        "{announced} were announced, {sent} before"
    );
    wait_for(&speaker, "withdrawn", |it| {
        it.routes_sent == 0 && it.acknowledged
    })
    .await;
    assert_eq!(speaker.status()[0].flaps, 0);
}

#[tokio::test]
async fn unchanged_peers_keep_their_session() {
    let (listener, peer) = listen().await;
    let speaker = Speaker::start(vec![peer.clone()]);
    speaker.announce(routes(1));
    let mut router = Router::accept(&listener).await;
    assert_eq!(router.update().await, (1, 0));
    let mut invalid = peer.clone();
    invalid.name = "invalid".to_owned();
    invalid.hold_time = Duration::ZERO;
    speaker.set_peers(vec![peer.clone(), invalid]);
    speaker.announce(routes(3));
    assert_eq!(router.update().await, (2, 0));
    let status = speaker.status();
    assert_eq!((status[0].flaps, status[0].routes_sent), (0, 3));
    assert!(status[1].last_error.as_ref().unwrap().contains("hold time"));

    let mut changed = peer;
    changed.hold_time = Duration::from_secs(30);
    speaker.set_peers(vec![changed]);
    assert_eq!(router.notification().await, (6, 2));
    drop(router);
    let mut router = Router::accept(&listener).await;
    assert_eq!(router.update().await, (3, 0));
    speaker.set_peers(Vec::new());
    assert_eq!(router.notification().await, (6, 2));
    assert_eq!(speaker.status(), []);
}

/// A router rejects a second connection of a peer, whatever we call it.
#[tokio::test]
async fn a_renamed_peer_waits_for_the_end_of_its_session() {
    let (listener, mut peer) = listen().await;
    let speaker = Speaker::start(vec![peer.clone()]);
    let mut router = Router::accept(&listener).await;
    peer.name = "renamed".to_owned();
    speaker.set_peers(vec![peer]);
    assert_eq!(router.notification().await, (6, 2));
    let early = timeout(Duration::from_millis(500), listener.accept()).await;
    assert!(early.is_err(), "a second connection");
    drop(router);
    Router::accept(&listener).await;
}

#[tokio::test]
async fn a_garbled_message_is_answered_and_the_session_comes_back() {
    let (listener, peer) = listen().await;
    let speaker = Speaker::start(vec![peer]);
    speaker.announce(routes(2));
    let mut router = Router::accept(&listener).await;
    assert_eq!(router.update().await, (2, 0));
    router.stream.write_all(&[0; 19]).await.unwrap();
    assert_eq!(router.notification().await, (1, 1));
    drop(router);
    let mut router = Router::accept(&listener).await;
    assert_eq!(router.update().await, (2, 0));
    let error = speaker.status()[0].last_error.clone().unwrap();
    assert!(error.contains("Connection Not Synchronized"), "{error}");
    assert_eq!(speaker.status()[0].flaps, 1);
}
