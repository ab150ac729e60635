//! The runner: tasks, changes and statuses.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, UdpSocket},
    sync::{mpsc::UnboundedReceiver, watch},
    time::{sleep, timeout},
};

use super::{
    health,
    server::{Answer, closed_port, http},
    target,
};
use crate::{
    health::{Health, HealthChange, HealthStatus, Target, probe::Shared},
    nexthop::{NextHopState, UnresolvedReason},
};
use lb_model::{MemberRef, config::HealthKind};

const LIMIT: Duration = Duration::from_secs(30);

fn tcp(at: SocketAddr) -> Target {
    target(at, health(HealthKind::Tcp))
}

async fn next(changes: &mut UnboundedReceiver<HealthChange>) -> HealthChange {
    timeout(LIMIT, changes.recv())
        .await
        .expect("a change")
        .unwrap()
}

fn status_of(health: &Health, backend: &str) -> Option<HealthStatus> {
    health.statuses().remove(&MemberRef::new("web", backend))
}

/// Waits until a condition holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(LIMIT, waiting).await.expect(what);
}

#[tokio::test]
async fn a_backend_is_down_until_its_checks_succeed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (mut health, mut changes) = Health::start(1, Shared::default());
    health.set_targets(vec![tcp(at)]);
    let status = status_of(&health, "web-1").unwrap();
    assert_eq!((status.healthy, status.last_ok), (false, None));
    let up = next(&mut changes).await;
    assert!(up.healthy, "{up:?}");
    assert_eq!(up.why, "2 consecutive checks succeeded");
    let status = status_of(&health, "web-1").unwrap();
    assert!(status.healthy && status.last_ok == Some(true), "{status:?}");
    assert_eq!((status.since, status.last_error), (up.at, None));
    drop(listener);
    let down = next(&mut changes).await;
    assert!(!down.healthy && !down.damped, "{down:?}");
    let why = format!("3 consecutive checks failed: connection refused by {at}");
    assert_eq!(down.why, why);
    let status = status_of(&health, "web-1").unwrap();
    assert!(!status.healthy && status.last_error.is_some(), "{status:?}");
    assert!(status_of(&health, "other").is_none());
}

#[tokio::test]
async fn a_backend_that_starts_as_up_stays_up() {
    let at = http(Answer::Nothing).await;
    let (mut health, mut changes) = Health::start(2, Shared::default());
    health.set_targets(vec![Target {
        initial: true,
        ..tcp(at)
    }]);
    assert!(status_of(&health, "web-1").unwrap().healthy);
    until("a check", || {
        status_of(&health, "web-1").unwrap().last_ok == Some(true)
    })
    .await;
    assert!(changes.try_recv().is_err(), "nothing changed");
}

#[tokio::test]
async fn targets_that_stay_keep_their_state() {
    let (alive, dead) = (http(Answer::Nothing).await, closed_port().await);
    let named = |name: &str, at| Target {
        backend: name.to_owned(),
        ..tcp(at)
    };
    let (mut health, mut changes) = Health::start(3, Shared::default());
    health.set_targets(vec![named("a", alive), named("b", dead)]);
    assert_eq!(next(&mut changes).await.backend, "a");
    // With new settings it is the same server and keeps its state.
    let mut slower = named("a", alive);
    let settings = std::sync::Arc::make_mut(&mut slower.health);
    settings.rise = 50;
    settings.interval *= 2;
    health.set_targets(vec![slower.clone(), named("c", dead)]);
    assert!(status_of(&health, "a").unwrap().healthy);
    assert!(status_of(&health, "b").is_none());
    let names: Vec<_> = health
        .statuses()
        .into_keys()
        .map(|member| member.backend)
        .collect();
    assert_eq!(names, ["a", "c"]);
    // Another server under the same name starts as down.
    slower.address = dead.ip();
    slower.port = dead.port();
    health.set_targets(vec![slower]);
    assert!(!status_of(&health, "a").unwrap().healthy);
    until("a check of the new one", || {
        status_of(&health, "a").unwrap().last_ok == Some(false)
    })
    .await;
    assert!(changes.try_recv().is_err(), "nothing else changed");
}

#[tokio::test]
async fn new_settings_apply_at_once() {
    let at = http(Answer::Nothing).await;
    let mut rare = tcp(at);
    std::sync::Arc::make_mut(&mut rare.health).interval = Duration::from_secs(3600);
    rare.initial = true;
    let (mut health, _changes) = Health::start(4, Shared::default());
    health.set_targets(vec![rare]);
    health.set_targets(vec![tcp(at)]);
    until("a check", || {
        status_of(&health, "web-1").unwrap().last_ok.is_some()
    })
    .await;
}

#[tokio::test]
async fn removed_targets_are_not_checked() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (mut health, _changes) = Health::start(5, Shared::default());
    health.set_targets(vec![tcp(at)]);
    timeout(LIMIT, listener.accept())
        .await
        .expect("a check")
        .unwrap();
    health.set_targets(Vec::new());
    assert!(health.statuses().is_empty());
    // Checks under way may still arrive.
    let quiet = Duration::from_millis(300);
    let mut late = 0;
    while timeout(quiet, listener.accept()).await.is_ok() {
        late += 1;
        assert!(late < 3, "checks go on");
    }
}

#[tokio::test]
async fn a_flapping_backend_is_held_down_and_reported_as_damped() {
    let at = closed_port().await;
    let mut settings = health(HealthKind::Tcp);
    (settings.rise, settings.fall) = (1, 1);
    let (mut checks, mut changes) = Health::start(6, Shared::default());
    checks.set_targets(vec![target(at, settings)]);
    for flap in 1..=4 {
        let listener = TcpListener::bind(at).await.unwrap();
        let up = next(&mut changes).await;
        assert!(up.healthy, "{flap}: {up:?}");
        drop(listener);
        let down = next(&mut changes).await;
        assert_eq!((down.healthy, down.damped), (false, flap == 4), "{down:?}");
        assert_eq!(down.why.contains("held down"), flap == 4, "{}", down.why);
    }
    let _listener = TcpListener::bind(at).await.unwrap();
    until("a check that succeeds", || {
        status_of(&checks, "web-1").unwrap().last_ok == Some(true)
    })
    .await;
    let status = status_of(&checks, "web-1").unwrap();
    assert!(status.damped && !status.healthy, "{status:?}");
}

fn silent_udp(at: SocketAddr) -> Target {
    let mut settings = health(HealthKind::Udp {
        send: None,
        expect: None,
    });
    settings.timeout = Duration::from_millis(20);
    Target {
        initial: true,
        ..target(at, settings)
    }
}

#[tokio::test]
async fn silence_is_no_proof_of_health() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    let (mut health, mut changes) = Health::start(7, Shared::default());
    health.set_targets(vec![silent_udp(at)]);
    until("a check that says that it can't tell", || {
        let status = status_of(&health, "web-1").unwrap();
        status
            .inconclusive
            .is_some_and(|why| why.contains("set `send`"))
    })
    .await;
    assert!(status_of(&health, "web-1").unwrap().healthy);
    // One "port unreachable" is enough: a host sends few.
    drop(socket);
    until("a refusal", || {
        status_of(&health, "web-1").unwrap().last_ok == Some(false)
    })
    .await;
    let _socket = UdpSocket::bind(at).await.unwrap();
    let down = next(&mut changes).await;
    assert!(!down.healthy, "{down:?}");
    until("silence after it", || {
        let error = status_of(&health, "web-1").unwrap().last_error;
        error.is_some_and(|error| error.contains("and no reply since"))
    })
    .await;
}

fn next_hops(
    at: SocketAddr,
    reason: UnresolvedReason,
) -> (watch::Sender<crate::nexthop::NextHops>, Shared) {
    let table = [(at.ip(), NextHopState::Unresolved(reason))].into();
    let (sender, receiver) = watch::channel(table);
    let shared = Shared {
        next_hops: Some(receiver),
        ..Shared::default()
    };
    (sender, shared)
}

#[tokio::test]
async fn a_neighbour_that_does_not_answer_outweighs_silence() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    let reason = UnresolvedReason::NoAnswer {
        ifname: "eth0".to_owned(),
        neighbour: at.ip(),
    };
    let (_sender, shared) = next_hops(at, reason);
    let (mut health, mut changes) = Health::start(8, shared);
    health.set_targets(vec![silent_udp(at)]);
    let down = next(&mut changes).await;
    assert!(
        !down.healthy && down.why.contains("does not answer on eth0"),
        "{down:?}"
    );
}

/// Neither an interface that is down nor a source address that is gone is a fault of the backend.
#[tokio::test]
async fn faults_of_this_node_say_nothing_about_a_backend() {
    let at = closed_port().await;
    let reason = UnresolvedReason::InterfaceDown {
        ifname: "eth0".to_owned(),
    };
    let (sender, shared) = next_hops(at, reason);
    let (mut health, mut changes) = Health::start(9, shared);
    let mut up = tcp(at);
    up.initial = true;
    let mut without_source = up.clone();
    without_source.backend = "web-2".to_owned();
    without_source.address = "127.0.0.2".parse().unwrap();
    without_source.source = Some("192.0.2.77".parse().unwrap());
    health.set_targets(vec![up, without_source]);
    for (backend, why) in [("web-1", "eth0 is down"), ("web-2", "source address")] {
        until(why, || {
            let status = status_of(&health, backend).unwrap();
            status.inconclusive.is_some_and(|text| text.contains(why))
        })
        .await;
    }
    // Far more checks than `fall`.
    sleep(Duration::from_millis(500)).await;
    for backend in ["web-1", "web-2"] {
        let status = status_of(&health, backend).unwrap();
        assert!(status.healthy && status.last_ok.is_none(), "{status:?}");
    }
    assert!(changes.try_recv().is_err());
    // The interface is up again: the refusal counts.
    sender.send_replace(Default::default());
    let down = next(&mut changes).await;
    assert_eq!((&*down.backend, down.healthy), ("web-1", false));
    assert!(status_of(&health, "web-1").unwrap().inconclusive.is_none());
}

/// Another node says that the backend is down: this one looks, long before its next check is due.
#[tokio::test]
async fn a_hint_is_checked_at_once_and_not_believed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let mut rare = health(HealthKind::Tcp);
    rare.interval = Duration::from_secs(3600);
    let target = Target {
        initial: true,
        ..target(at, rare)
    };
    let (mut health, mut changes) = Health::start(1, Shared::default());
    health.set_targets(vec![target]);
    let name = MemberRef::new("web", "web-1");
    let news = health.news();
    health.hurry(&name);
    until("it was checked", || {
        status_of(&health, "web-1").is_some_and(|it| it.last_ok == Some(true))
    })
    .await;
    assert!(news.has_changed().unwrap());
    assert!(changes.try_recv().is_err(), "it serves");
    drop(listener);
    health.hurry(&name);
    let down = next(&mut changes).await;
    assert!(!down.healthy, "{down:?}");
    // A member that is not checked.
    health.hurry(&MemberRef::new("web", "web-2"));
}
