//! Webhooks that answer, fail and hang.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, http::StatusCode};
use serde_json::Value;

use super::*;
use lb_model::config::Secret;

/// A webhook that records requests and responds as configured.
#[derive(Clone, Default)]
struct Hook {
    got: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
    /// Requests that it will refuse.
    refuses: Arc<Mutex<usize>>,
}

async fn receive(State(hook): State<Hook>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let mut refuses = lock(&hook.refuses);
    if *refuses > 0 {
        *refuses -= 1;
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    lock(&hook.got).push((headers, body));
    StatusCode::OK
}

impl Hook {
    async fn start(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(receive).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }

    fn documents(&self) -> Vec<Value> {
        let got = lock(&self.got);
        let parse = |(_, body): &(HeaderMap, Bytes)| serde_json::from_slice(body).unwrap();
        got.iter().map(parse).collect()
    }

    /// Waits until it got so many.
    async fn wait(&self, count: usize) -> Vec<Value> {
        until(|| self.documents().len() >= count).await;
        self.documents()
    }
}

/// Waits until something is so.
pub(super) async fn until(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "it never was so");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn to_hook(address: SocketAddr) -> config::Alerts {
    config::Alerts {
        webhook: vec![format!("http://{address}/hook?token=secret")],
        ..config::Alerts::default()
    }
}

#[tokio::test]
async fn a_webhook_gets_one_signed_document_per_change() {
    let hook = Hook::default();
    let mut config = to_hook(hook.start().await);
    config.webhook_secret = Some(Secret::new("0123456789abcdef"));
    let alerts = seasoned();
    alerts.configure(&config);
    during(&alerts, 0..5, &[down(&["a"])]);
    hook.wait(1).await;
    during(&alerts, 5..30, &[]);
    let documents = hook.wait(2).await;
    let brief = |d: &Value| {
        (
            d["status"].clone(),
            d["alert"]["id"].clone(),
            d["sequence"].clone(),
        )
    };
    assert_eq!(
        brief(&documents[0]),
        ("firing".into(), "backends:api".into(), 1.into())
    );
    assert_eq!(
        brief(&documents[1]),
        ("resolved".into(), "backends:api".into(), 2.into())
    );
    assert_eq!(documents[0]["alert"]["vip"], "api");
    assert_eq!(documents[0]["node"], "localhost");
    assert!(documents[1]["resolved_at"].is_string());
    let (headers, body) = lock(&hook.got)[0].clone();
    let timestamp = headers["x-evenkeel-timestamp"].to_str().unwrap();
    let expected = signature(b"0123456789abcdef", timestamp, &body);
    assert_eq!(
        headers["x-evenkeel-signature"],
        format!("sha256={expected}")
    );
    let counts = &alerts.receiver_counts()[0];
    assert_eq!((counts.sent, counts.failed, counts.superseded), (2, 0, 0));
    assert!(!counts.receiver.contains("secret"), "{}", counts.receiver);
}

#[test]
fn the_signature_is_an_hmac() {
    // openssl: printf '1700000000.{}' | openssl dgst -sha256 -hmac 0123456789abcdef
    let digits = "e4f8e2ecae2295b2ddb2f0b5584c8275e226c0ebe9b3b819e70156bb67122e3e";
    assert_eq!(signature(b"0123456789abcdef", "1700000000", b"{}"), digits);
}

#[tokio::test]
async fn a_webhook_that_fails_gets_the_newest_state_later() {
    let hook = Hook::default();
    *lock(&hook.refuses) = 3;
    let address = hook.start().await;
    let alerts = seasoned();
    alerts.configure(&to_hook(address));
    during(&alerts, 0..5, &[down(&["a"])]);
    until(|| *lock(&hook.refuses) < 3).await;
    // Escalates while the webhook is unreachable: the less severe state is never sent.
    let mut few = down(&["a", "b"]);
    few.severity = Severity::Critical;
    during(&alerts, 5..6, &[few]);
    let documents = hook.wait(1).await;
    assert_eq!(documents[0]["alert"]["severity"], "critical");
    until(|| alerts.receiver_counts()[0].superseded == 1).await;
    assert_eq!(alerts.receiver_counts()[0].failed, 3);
}

#[tokio::test]
async fn each_change_is_sent_once_across_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Alerts::open(folder.path(), "lb-1", Journal::in_memory());
    let hook = Hook::default();
    let config = to_hook(hook.start().await);
    let alerts = open();
    alerts.configure(&config);
    during(&alerts, 0..10, &[down(&["a"])]);
    hook.wait(1).await;
    // Confirmed, and that is on disk.
    let file = folder.path().join("alerts.json");
    until(|| std::fs::read_to_string(&file).is_ok_and(|text| text.contains("webhook:"))).await;
    // A second alert that the webhook does not take before the process dies.
    *lock(&hook.refuses) = usize::MAX;
    let skew = Condition::new("skew:api", "share_skew", Severity::Critical, "skew");
    during(&alerts, 10..12, &[down(&["a"]), skew.clone()]);
    until(|| std::fs::read_to_string(&file).is_ok_and(|text| text.contains("skew:api"))).await;
    // Killed: nothing is saved any more.
    lock(&alerts.shared.tasks).abort_all();
    drop(alerts);
    *lock(&hook.refuses) = 0;
    let alerts = open();
    alerts.configure(&config);
    let documents = hook.wait(2).await;
    assert_eq!(documents[1]["alert"]["id"], "skew:api");
    during(&alerts, 20..30, &[down(&["a"]), skew]);
    let again = Condition::new("other", "share_skew", Severity::Critical, "another");
    during(&alerts, 30..31, &[again]);
    let documents = hook.wait(3).await;
    assert_eq!(documents[2]["alert"]["id"], "other", "{documents:#?}");
}

/// Accepts connections, and answers each request with an error whose body never ends. Returns the
/// number of bytes sent.
async fn endless(answer: &'static [u8]) -> (SocketAddr, Arc<AtomicU64>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 65536]).await;
            let mut next = b"HTTP/1.1 500 x\r\n\r\n".as_slice();
            while stream.write_all(next).await.is_ok() {
                count.fetch_add(next.len() as u64, Ordering::Relaxed);
                next = answer;
            }
        }
    });
    (address, sent)
}

#[tokio::test]
async fn an_endless_error_response_is_cut_off_and_made_printable() {
    static ANSWER: [u8; 1 << 16] = {
        let mut answer = [b'A'; 1 << 16];
        (answer[0], answer[1], answer[2]) = (0x1b, b'[', 0x07);
        answer
    };
    let (address, sent) = endless(&ANSWER).await;
    let alerts = seasoned();
    alerts.configure(&to_hook(address));
    let tested = alerts.test().await;
    let error = tested[0].error.as_ref().unwrap();
    assert!(
        error.starts_with("response 500 Internal Server Error \\u001b[\\u0007AAA"),
        "{error}"
    );
    assert!(error.len() < 300, "{error}");
    // Far more than the socket's buffers hold would have been read.
    let bytes = sent.load(Ordering::Relaxed);
    assert!(bytes < 64 << 20, "{bytes} bytes");
}

#[tokio::test]
async fn the_file_has_no_token_and_only_root_reads_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("alerts.json");
    let hook = Hook::default();
    let config = to_hook(hook.start().await);
    let open = || Alerts::open(folder.path(), "lb-1", Journal::open(folder.path()).unwrap());
    let alerts = open();
    alerts.configure(&config);
    during(&alerts, 0..10, &[down(&["a"])]);
    hook.wait(1).await;
    until(|| std::fs::read_to_string(&file).is_ok_and(|text| text.contains("webhook:"))).await;
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains("token=secret"), "{text}");
    for file in [&file, &folder.path().join("events/events.jsonl")] {
        let mode = std::fs::metadata(file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
    // A file of an older version: the URL is replaced, and nothing is sent again.
    drop(alerts);
    let key = delivery::renamed(&format!("webhook {}", config.webhook[0])).unwrap();
    let old = text.replace(&key, &format!("webhook {}", config.webhook[0]));
    assert!(old.contains("token=secret"), "{old}");
    std::fs::write(&file, old).unwrap();
    let alerts = open();
    alerts.configure(&config);
    until(|| {
        !std::fs::read_to_string(&file)
            .unwrap()
            .contains("token=secret")
    })
    .await;
    let other = Condition::new("other", "share_skew", Severity::Critical, "another");
    during(&alerts, 20..22, &[down(&["a"]), other]);
    assert_eq!(hook.wait(2).await[1]["alert"]["id"], "other");
}

#[tokio::test]
async fn a_silenced_alert_is_not_sent_until_the_silence_ends() {
    let hook = Hook::default();
    let alerts = seasoned();
    alerts.configure(&to_hook(hook.start().await));
    during(&alerts, 0..10, &[down(&["a"])]);
    hook.wait(1).await;
    let now = Timestamp::now();
    let until_later = now.checked_add(SignedDuration::from_hours(24)).unwrap();
    alerts.silence("backends:api", until_later, "eve").unwrap();
    // Escalates, but is silenced.
    let mut few = down(&["a", "b"]);
    few.severity = Severity::Critical;
    alerts.update(at(10), &[few.clone()]);
    let other = Condition::new("other", "share_skew", Severity::Critical, "another");
    alerts.update(at(11), &[few.clone(), other.clone()]);
    let documents = hook.wait(2).await;
    assert_eq!(documents[1]["alert"]["id"], "other");
    alerts.silence("backends:api", now, "eve").unwrap();
    let documents = hook.wait(3).await;
    assert_eq!(documents[2]["alert"]["severity"], "critical");
}

#[tokio::test]
async fn a_hanging_receiver_does_not_delay_others() {
    // It accepts, by its backlog, and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hook = Hook::default();
    let mut config = to_hook(hook.start().await);
    config
        .webhook
        .push(format!("http://{}/", silent.local_addr().unwrap()));
    let alerts = seasoned();
    alerts.configure(&config);
    let begun = Instant::now();
    during(&alerts, 0..100, &[down(&["a"])]);
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "an update does not wait"
    );
    hook.wait(1).await;
    assert_eq!(alerts.receiver_counts()[1].sent, 0);
}

#[tokio::test]
async fn a_test_reports_the_response_of_each_receiver() {
    let hook = Hook::default();
    let mut config = to_hook(hook.start().await);
    config.alertmanager = vec!["http://127.0.0.1:1".to_owned()];
    let alerts = seasoned();
    alerts.configure(&config);
    let tested = alerts.test().await;
    assert_eq!(tested.len(), 2);
    assert!(
        tested[0].error.as_ref().unwrap().contains("refused"),
        "{tested:?}"
    );
    assert_eq!(tested[1].error, None);
    assert_eq!(hook.documents()[0]["status"], "test");
}
