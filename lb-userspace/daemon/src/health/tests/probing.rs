//! Each kind of probe: what it takes for success, and what it says otherwise.

use std::{net::SocketAddr, time::Duration};

use super::{
    health,
    server::{Answer, http, https, nobody, page, pong},
    target,
};
use crate::health::{
    Target,
    probe::{Probe, TlsConfigs},
};
use lb_model::config::{CaFile, HealthKind, HttpCheck, StatusSet};

async fn run(target: &Target) -> Result<(), String> {
    let probe = Probe::new(target, &TlsConfigs::default());
    probe.run().await.map_err(|failure| failure.to_string())
}

async fn try_kind(at: SocketAddr, kind: HealthKind) -> Result<(), String> {
    run(&target(at, health(kind))).await
}

/// The same with little patience, for what never answers.
async fn try_briefly(at: SocketAddr, kind: HealthKind) -> Result<(), String> {
    let mut health = health(kind);
    health.timeout = Duration::from_millis(50);
    run(&target(at, health)).await
}

fn get(path: &str) -> HttpCheck {
    HttpCheck {
        path: path.to_owned(),
        host: None,
        expect_status: StatusSet::default(),
        expect_body: None,
    }
}

fn with_body(text: &str) -> HealthKind {
    HealthKind::Http(HttpCheck {
        expect_body: Some(text.to_owned()),
        ..get("/")
    })
}

fn udp(send: Option<&str>, expect: Option<&str>) -> HealthKind {
    let bytes = |text: &str| text.as_bytes().to_vec();
    HealthKind::Udp {
        send: send.map(bytes),
        expect: expect.map(bytes),
    }
}

#[tokio::test]
async fn tcp_connects_or_says_who_refused() {
    let at = http(Answer::Nothing).await;
    assert_eq!(try_kind(at, HealthKind::Tcp).await, Ok(()));
    let at = nobody().await;
    let met = try_kind(at, HealthKind::Tcp).await;
    assert_eq!(met, Err(format!("connection refused by {at}")));
    let mut bound = target(at, health(HealthKind::Tcp));
    bound.source = Some("192.0.2.77".parse().unwrap());
    let met = run(&bound).await.unwrap_err();
    assert!(
        met.contains("does the node still have its source address?"),
        "{met}"
    );
}

#[tokio::test]
async fn http_looks_at_the_status() {
    for (status, ok) in [
        ("200 OK", true),
        ("302 Found", true),
        ("404 Not Found", false),
    ] {
        let at = http(page(status, "")).await;
        let met = try_kind(at, HealthKind::Http(get("/"))).await;
        assert_eq!(met.is_ok(), ok, "{status}: {met:?}");
    }
    let at = http(page("503 Busy", "")).await;
    let met = try_kind(at, HealthKind::Http(get("/"))).await;
    assert_eq!(met, Err(format!("status 503 from {at}, expected 200–399")));
    let only_503 = HttpCheck {
        expect_status: StatusSet::new(vec![503..=503]),
        ..get("/")
    };
    assert_eq!(try_kind(at, HealthKind::Http(only_503)).await, Ok(()));
}

#[tokio::test]
async fn http_looks_into_the_body() {
    let at = http(page("200 OK", "all is well here")).await;
    assert_eq!(try_kind(at, with_body("is well")).await, Ok(()));
    let met = try_kind(at, with_body("is ill")).await;
    assert_eq!(
        met,
        Err(format!("the answer of {at} does not have \"is ill\""))
    );
    // In pieces, with the text across two of them.
    let pieces =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nis w\r\n3\r\nell\r\n0\r\n\r\n";
    let at = http(Answer::Bytes(pieces.to_owned())).await;
    assert_eq!(try_kind(at, with_body("is well")).await, Ok(()));
    let long = http(page("200 OK", &"x".repeat(400_000))).await;
    let met = try_kind(long, with_body("y")).await.unwrap_err();
    assert!(met.contains("the first 256 KiB"), "{met}");
    assert_eq!(try_kind(long, with_body("xxx")).await, Ok(()));
}

#[tokio::test]
async fn http_asks_as_a_client_would() {
    let at = http(Answer::Request).await;
    let asks = |line: &str| with_body(line);
    let default = format!("host: 192.0.2.1:{}\r\n", at.port());
    for line in [
        "GET / HTTP/1.1\r\n",
        &default,
        "connection: close\r\n",
        "user-agent: evenkeel",
    ] {
        assert_eq!(try_kind(at, asks(line)).await, Ok(()), "{line}");
    }
    let named = HttpCheck {
        host: Some("api.example".to_owned()),
        expect_body: Some("host: api.example\r\n".to_owned()),
        ..get("/healthz?full=1")
    };
    assert_eq!(try_kind(at, HealthKind::Http(named.clone())).await, Ok(()));
    let path = HttpCheck {
        expect_body: Some("GET /healthz?full=1 HTTP/1.1".to_owned()),
        ..named
    };
    assert_eq!(try_kind(at, HealthKind::Http(path)).await, Ok(()));
}

#[tokio::test]
async fn http_says_what_is_wrong_with_the_answer() {
    let kind = || HealthKind::Http(get("/"));
    let at = http(Answer::Nothing).await;
    let met = try_briefly(at, kind()).await;
    assert_eq!(
        met,
        Err(format!("{at} took the request, no answer in 50 ms"))
    );
    let at = http(Answer::Bytes("SSH-2.0-x\r\n\r\n".to_owned())).await;
    let met = try_kind(at, kind()).await.unwrap_err();
    assert!(
        met.starts_with(&format!("no HTTP answer from {at}: ")),
        "{met}"
    );
    let at = http(Answer::Bytes(String::new())).await;
    let met = try_kind(at, kind()).await.unwrap_err();
    assert!(
        met.starts_with(&format!("no HTTP answer from {at}: ")),
        "{met}"
    );
}

#[tokio::test]
async fn https_looks_at_the_certificate() {
    let (at, pem) = https("api.example", page("200 OK", "well")).await;
    let kind = |host: &str, verify, pem: Option<&str>| HealthKind::Https {
        request: HttpCheck {
            host: Some(host.to_owned()),
            expect_body: Some("well".to_owned()),
            ..get("/")
        },
        verify,
        ca: pem.map(|pem| CaFile {
            path: "ca.pem".into(),
            pem: pem.to_owned(),
        }),
    };
    let met = try_kind(at, kind("api.example", true, Some(&pem))).await;
    assert_eq!(met, Ok(()));
    assert_eq!(
        try_kind(at, kind("api.example:8443", true, Some(&pem))).await,
        Ok(())
    );
    let met = try_kind(at, kind("www.example", true, Some(&pem)))
        .await
        .unwrap_err();
    assert!(
        met.contains("no TLS with") && met.contains("not valid for name"),
        "{met}"
    );
    let (_, other) = https("api.example", Answer::Nothing).await;
    let met = try_kind(at, kind("api.example", true, Some(&other)))
        .await
        .unwrap_err();
    assert!(met.contains("no TLS with"), "{met}");
    assert_eq!(try_kind(at, kind("www.example", false, None)).await, Ok(()));
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let met = try_kind(at, kind("api.example", true, Some(broken)))
        .await
        .unwrap_err();
    assert!(
        met.starts_with("the certificates of ca.pem can't be used"),
        "{met}"
    );
    let plain = http(page("400 Bad Request", "")).await;
    let met = try_briefly(plain, kind("api.example", true, Some(&pem)))
        .await
        .unwrap_err();
    assert!(met.contains("TLS"), "{met}");
}

#[tokio::test]
async fn udp_waits_for_its_answer() {
    let at = pong().await;
    assert_eq!(try_kind(at, udp(Some("ping"), None)).await, Ok(()));
    assert_eq!(
        try_kind(at, udp(Some("ping"), Some("ong pi"))).await,
        Ok(())
    );
    let met = try_kind(at, udp(Some("ping"), Some("pang")))
        .await
        .unwrap_err();
    assert!(
        met.contains("(9 bytes) does not have what is expected"),
        "{met}"
    );
    // It does not answer an empty packet, and does not refuse it.
    assert_eq!(try_briefly(at, udp(None, None)).await, Ok(()));
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = silent.local_addr().unwrap();
    let met = try_briefly(at, udp(Some("ping"), None)).await;
    assert_eq!(met, Err(format!("no answer from {at} in 50 ms")));
    drop(silent);
    for send in [None, Some("ping")] {
        let met = try_kind(at, udp(send, None)).await.unwrap_err();
        assert!(met.contains("port unreachable"), "{met}");
    }
}

fn exec(words: &[&str]) -> HealthKind {
    HealthKind::Exec {
        command: words.iter().map(|&word| word.to_owned()).collect(),
    }
}

#[tokio::test]
async fn exec_goes_by_the_exit_code() {
    let at = "10.0.0.9:8443".parse().unwrap();
    assert_eq!(try_kind(at, exec(&["true"])).await, Ok(()));
    let script = "echo one >&2; echo two words >&2; exit 7";
    let met = try_kind(at, exec(&["sh", "-c", script])).await;
    assert_eq!(met, Err("sh: exit status: 7: two words".to_owned()));
    let met = try_kind(at, exec(&["/nonexistent/check"]))
        .await
        .unwrap_err();
    assert!(
        met.starts_with("/nonexistent/check can't be started: "),
        "{met}"
    );
    // Words are words, whatever is in them.
    assert_eq!(
        try_kind(at, exec(&["test", "a b;$HOME", "=", "a b;$HOME"])).await,
        Ok(())
    );
    let script = "test \"$EVENKEEL_VIP $EVENKEEL_BACKEND $EVENKEEL_ADDRESS $EVENKEEL_PORT\" = \
                  'web web-1 10.0.0.9 8443'";
    assert_eq!(try_kind(at, exec(&["sh", "-c", script])).await, Ok(()));
    // A full pipe stops nobody.
    let script = "head -c 300000 /dev/zero >&2";
    assert_eq!(try_kind(at, exec(&["sh", "-c", script])).await, Ok(()));
}

#[tokio::test]
async fn exec_is_killed_with_all_that_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pids");
    let script = "sleep 1000 & echo $! $$ > \"$1\"; wait";
    let mut health = health(exec(&["sh", "-c", script, "sh", file.to_str().unwrap()]));
    health.timeout = Duration::from_millis(300);
    let met = run(&target("10.0.0.9:1".parse().unwrap(), health)).await;
    assert_eq!(
        met,
        Err("sh did not end in 300 ms, and was killed".to_owned())
    );
    let pids = std::fs::read_to_string(file).unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    for pid in pids.split_whitespace() {
        while is_running(pid) {
            assert!(tokio::time::Instant::now() < deadline, "{pid} still runs");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Whether a process is there and not just waiting to be noticed as ended.
fn is_running(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z"))
}
