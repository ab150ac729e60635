//! Each kind of probe: success and failure messages.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::{
    health,
    server::{Answer, closed_port, early, http, https, page, pong},
    target,
};
use crate::health::{
    Target,
    probe::{Failure, Fault, Passed, Probe, Shared},
};
use lb_model::config::{CaFile, HealthKind, HttpCheck, StatusSet};

async fn run(target: &Target) -> Result<(), String> {
    look(target).await.map(drop).map_err(|failure| failure.text)
}

async fn look(target: &Target) -> Result<Passed, Failure> {
    Probe::new(target, &Arc::default()).run().await
}

async fn try_kind(at: SocketAddr, kind: HealthKind) -> Result<(), String> {
    run(&target(at, health(kind))).await
}

/// The same with a short timeout, for servers that never reply.
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
async fn tcp_connects_or_names_the_server_that_refused() {
    let at = http(Answer::Nothing).await;
    assert_eq!(try_kind(at, HealthKind::Tcp).await, Ok(()));
    let at = closed_port().await;
    let failure = try_kind(at, HealthKind::Tcp).await;
    assert_eq!(failure, Err(format!("connection refused by {at}")));
    let mut bound = target(at, health(HealthKind::Tcp));
    bound.source = Some("192.0.2.77".parse().unwrap());
    let failure = look(&bound).await.unwrap_err();
    assert_eq!(failure.fault, Fault::Node);
    let advice = "check that the node still has the source address";
    assert!(failure.text.contains(advice), "{failure}");
}

#[tokio::test]
async fn http_checks_the_status() {
    for (status, ok) in [
        ("200 OK", true),
        ("302 Found", true),
        ("404 Not Found", false),
    ] {
        let at = http(page(status, "")).await;
        let failure = try_kind(at, HealthKind::Http(get("/"))).await;
        assert_eq!(failure.is_ok(), ok, "{status}: {failure:?}");
    }
    let at = http(page("503 Busy", "")).await;
    let failure = try_kind(at, HealthKind::Http(get("/"))).await;
    assert_eq!(
        failure,
        Err(format!("status 503 from {at}, expected 200–399"))
    );
    let only_503 = HttpCheck {
        expect_status: StatusSet::new(vec![503..=503]),
        ..get("/")
    };
    assert_eq!(try_kind(at, HealthKind::Http(only_503)).await, Ok(()));
}

#[tokio::test]
async fn http_searches_the_body() {
    let at = http(page("200 OK", "all is well here")).await;
    assert_eq!(try_kind(at, with_body("is well")).await, Ok(()));
    let failure = try_kind(at, with_body("is ill")).await;
    assert_eq!(
        failure,
        Err(format!(
            "the response from {at} does not contain \"is ill\""
        ))
    );
    // In chunks, with the text across two of them.
    let chunks =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nis w\r\n3\r\nell\r\n0\r\n\r\n";
    let at = http(Answer::Bytes(chunks.to_owned())).await;
    assert_eq!(try_kind(at, with_body("is well")).await, Ok(()));
    let long = http(page("200 OK", &"x".repeat(400_000))).await;
    let failure = try_kind(long, with_body("y")).await.unwrap_err();
    assert!(failure.contains("the first 256 KiB"), "{failure}");
    assert_eq!(try_kind(long, with_body("xxx")).await, Ok(()));
}

#[tokio::test]
async fn http_sends_the_request_of_a_client() {
    let at = http(Answer::Request).await;
    let asks = |line: &str| with_body(line);
    for line in [
        "GET / HTTP/1.1\r\n",
        // The VIP's port, which is the default of HTTP, not the backend's.
        "host: 192.0.2.1\r\n",
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
async fn http_describes_an_invalid_response() {
    let kind = || HealthKind::Http(get("/"));
    let at = http(Answer::Nothing).await;
    let failure = try_briefly(at, kind()).await;
    assert_eq!(
        failure,
        Err(format!(
            "{at} accepted the request but did not reply within 50 ms"
        ))
    );
    let at = http(Answer::Bytes("SSH-2.0-x\r\n\r\n".to_owned())).await;
    let failure = try_kind(at, kind()).await.unwrap_err();
    assert!(
        failure.starts_with(&format!("no valid HTTP response from {at}: ")),
        "{failure}"
    );
    let at = http(Answer::Bytes(String::new())).await;
    let failure = try_kind(at, kind()).await.unwrap_err();
    assert!(
        failure.starts_with(&format!("no valid HTTP response from {at}: ")),
        "{failure}"
    );
}

/// Scripts under inetd answer like that.
#[tokio::test]
async fn http_reads_a_response_that_precedes_the_request() {
    for closes in [false, true] {
        let at = early("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell", closes).await;
        for _ in 0..100 {
            assert_eq!(try_kind(at, with_body("well")).await, Ok(()), "{closes}");
        }
    }
}

#[tokio::test]
async fn http_names_the_limit_of_headers() {
    let with = |headers: usize| {
        let lines: String = (0..headers).map(|n| format!("x-{n}: y\r\n")).collect();
        http(Answer::Bytes(format!(
            "HTTP/1.1 200 OK\r\n{lines}Content-Length: 0\r\n\r\n"
        )))
    };
    let kind = || HealthKind::Http(get("/"));
    assert_eq!(try_kind(with(900).await, kind()).await, Ok(()));
    let failure = try_kind(with(1100).await, kind()).await.unwrap_err();
    assert!(failure.contains("more than 1000 headers"), "{failure}");
}

#[tokio::test]
async fn causes_are_the_same_for_all_backends() {
    let mut causes = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let at = closed_port().await;
        for kind in [
            HealthKind::Tcp,
            udp(None, None),
            exec(&["sh", "-c", "echo no $EVENKEEL_ADDRESS >&2; exit 1"]),
        ] {
            let failure = look(&target(at, health(kind))).await.unwrap_err();
            let at = at.ip().to_string();
            assert!(
                failure.text.contains(&at) && !failure.cause.contains(&at),
                "{failure:?}"
            );
            causes.insert(failure.cause);
        }
    }
    assert_eq!(causes.len(), 3, "{causes:?}");
}

#[tokio::test]
async fn checks_wait_for_file_descriptors() {
    let at = http(Answer::Nothing).await;
    let shared = Arc::new(Shared {
        descriptors: tokio::sync::Semaphore::new(1),
        ..Shared::default()
    });
    let probe = Probe::new(&target(at, health(HealthKind::Tcp)), &shared);
    let held = shared.descriptors.acquire().await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(50), probe.run()).await;
    assert!(waiting.is_err());
    drop(held);
    assert_eq!(probe.run().await, Ok(Passed::Reply));
}

#[tokio::test]
async fn https_verifies_the_certificate() {
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
    let failure = try_kind(at, kind("api.example", true, Some(&pem))).await;
    assert_eq!(failure, Ok(()));
    assert_eq!(
        try_kind(at, kind("api.example:8443", true, Some(&pem))).await,
        Ok(())
    );
    let failure = try_kind(at, kind("www.example", true, Some(&pem)))
        .await
        .unwrap_err();
    assert!(
        failure.contains("TLS handshake with") && failure.contains("not valid for name"),
        "{failure}"
    );
    let (_, other) = https("api.example", Answer::Nothing).await;
    let failure = try_kind(at, kind("api.example", true, Some(&other)))
        .await
        .unwrap_err();
    assert!(failure.contains("TLS handshake with"), "{failure}");
    assert_eq!(try_kind(at, kind("www.example", false, None)).await, Ok(()));
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let failure = try_kind(at, kind("api.example", true, Some(broken)))
        .await
        .unwrap_err();
    assert!(
        failure.starts_with("cannot use the certificates in ca.pem"),
        "{failure}"
    );
    let plain = http(page("400 Bad Request", "")).await;
    let failure = try_briefly(plain, kind("api.example", true, Some(&pem)))
        .await
        .unwrap_err();
    assert!(failure.contains("TLS"), "{failure}");
}

#[tokio::test]
async fn udp_waits_for_the_reply() {
    let at = pong().await;
    assert_eq!(try_kind(at, udp(Some("ping"), None)).await, Ok(()));
    assert_eq!(
        try_kind(at, udp(Some("ping"), Some("ong pi"))).await,
        Ok(())
    );
    let failure = try_kind(at, udp(Some("ping"), Some("pang")))
        .await
        .unwrap_err();
    assert!(
        failure.contains("(9 bytes) does not contain the expected bytes"),
        "{failure}"
    );
    // The server neither replies to an empty packet nor refuses it.
    let mut silent = health(udp(None, None));
    silent.timeout = Duration::from_millis(50);
    assert_eq!(look(&target(at, silent)).await, Ok(Passed::Silence));
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = silent.local_addr().unwrap();
    let failure = try_briefly(at, udp(Some("ping"), None)).await;
    assert_eq!(failure, Err(format!("no reply from {at} within 50 ms")));
    drop(silent);
    for send in [None, Some("ping")] {
        let failure = try_kind(at, udp(send, None)).await.unwrap_err();
        assert!(failure.contains("port unreachable"), "{failure}");
    }
}

fn exec(words: &[&str]) -> HealthKind {
    HealthKind::Exec {
        command: words.iter().map(|&word| word.to_owned()).collect(),
    }
}

#[tokio::test]
async fn exec_decides_by_the_exit_code() {
    let at = "10.0.0.9:8443".parse().unwrap();
    assert_eq!(try_kind(at, exec(&["true"])).await, Ok(()));
    let script = "echo one >&2; echo two words >&2; exit 7";
    let failure = try_kind(at, exec(&["sh", "-c", script])).await;
    assert_eq!(failure, Err("sh: exit status: 7: two words".to_owned()));
    let failure = try_kind(at, exec(&["/nonexistent/check"]))
        .await
        .unwrap_err();
    assert!(
        failure.starts_with("cannot start /nonexistent/check: "),
        "{failure}"
    );
    // No shell interprets the arguments.
    assert_eq!(
        try_kind(at, exec(&["test", "a b;$HOME", "=", "a b;$HOME"])).await,
        Ok(())
    );
    let script = "test \"$EVENKEEL_VIP $EVENKEEL_BACKEND $EVENKEEL_ADDRESS $EVENKEEL_PORT\" = \
                  'web web-1 10.0.0.9 8443'";
    assert_eq!(try_kind(at, exec(&["sh", "-c", script])).await, Ok(()));
    // A full pipe does not block the command.
    let script = "head -c 300000 /dev/zero >&2";
    assert_eq!(try_kind(at, exec(&["sh", "-c", script])).await, Ok(()));
}

#[tokio::test]
async fn exec_is_killed_with_its_children() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pids");
    let script = "sleep 1000 & echo $! $$ > \"$1\"; wait";
    let mut health = health(exec(&["sh", "-c", script, "sh", file.to_str().unwrap()]));
    health.timeout = Duration::from_millis(300);
    let failure = run(&target("10.0.0.9:1".parse().unwrap(), health)).await;
    assert_eq!(
        failure,
        Err("sh did not exit within 300 ms and was killed".to_owned())
    );
    let pids = std::fs::read_to_string(file).unwrap();
    for pid in pids.split_whitespace() {
        assert_ends(pid).await;
    }
}

#[tokio::test]
async fn exec_leaves_no_process_of_its_group() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let script = "sleep 1000 & echo $! > \"$1\"";
    let words = ["sh", "-c", script, "sh", file.to_str().unwrap()];
    let at = "10.0.0.9:1".parse().unwrap();
    assert_eq!(try_kind(at, exec(&words)).await, Ok(()));
    assert_ends(std::fs::read_to_string(file).unwrap().trim()).await;
}

#[tokio::test]
async fn exec_needs_its_user() {
    let target = target("10.0.0.9:1".parse().unwrap(), health(exec(&["true"])));
    let shared = Shared {
        exec_user: Some("no-such-user".to_owned()),
        ..Shared::default()
    };
    let failure = Probe::new(&target, &Arc::new(shared)).run().await;
    let failure = failure.unwrap_err();
    assert_eq!(failure.fault, Fault::Node);
    assert!(failure.to_string().contains("no-such-user"), "{failure}");
}

async fn assert_ends(pid: &str) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while is_running(pid) {
        assert!(tokio::time::Instant::now() < deadline, "{pid} still runs");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether a process exists and is not a zombie.
fn is_running(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z"))
}
