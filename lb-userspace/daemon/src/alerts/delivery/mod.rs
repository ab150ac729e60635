//! Delivers alerts to receivers.
//!
//! A task per receiver sends what the receiver has not confirmed, and retries with growing pauses. There
//! is no queue of messages, only the state of the book: at most one message per alert, always the
//! newest.

mod alertmanager;
mod webhook;

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, warn};
pub use webhook::signature;

use super::{Shared, lock};
use lb_model::{config, error::chain, text::excerpt};

/// Bytes of an error response that are read.
const BODY_LIMIT: usize = 1024;
/// Timeout of a request.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after the first failure; it doubles with each failure.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Counters of a receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiverCounts {
    /// `alertmanager` or `webhook`.
    pub kind: &'static str,
    /// Scheme, host and port of the URL; its path may be secret.
    pub receiver: String,
    /// Confirmed requests.
    pub sent: u64,
    /// Failed requests.
    pub failed: u64,
    /// States of alerts that were never sent because a newer one came first.
    pub superseded: u64,
}

/// The result of a test alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Tested {
    /// `alertmanager` or `webhook`.
    pub kind: &'static str,
    /// Scheme, host and port of the URL.
    pub receiver: String,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// A destination of alerts.
#[derive(Debug)]
pub(super) struct Receiver {
    target: Target,
    url: String,
    client: reqwest::Client,
    resend: Duration,
    sent: AtomicU64,
    failed: AtomicU64,
    superseded: AtomicU64,
}

#[derive(Debug)]
enum Target {
    Alertmanager,
    Webhook(Option<config::Secret>),
}

/// Returns the receivers of a configuration. Those that existed before keep their counters.
pub(super) fn receivers(config: &config::Alerts, old: &[Arc<Receiver>]) -> Vec<Arc<Receiver>> {
    if config.alertmanager.is_empty() && config.webhook.is_empty() {
        return Vec::new();
    }
    let Some(client) = client() else {
        return Vec::new();
    };
    let make = |target, url: &str| {
        let mut receiver = Receiver {
            target,
            url: url.to_owned(),
            client: client.clone(),
            resend: config.resend,
            sent: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            superseded: AtomicU64::new(0),
        };
        if let Some(old) = old.iter().find(|old| old.id() == receiver.id()) {
            receiver.sent = AtomicU64::new(old.sent.load(Ordering::Relaxed));
            receiver.failed = AtomicU64::new(old.failed.load(Ordering::Relaxed));
            receiver.superseded = AtomicU64::new(old.superseded.load(Ordering::Relaxed));
        }
        Arc::new(receiver)
    };
    let alertmanagers = config.alertmanager.iter();
    let webhooks = config.webhook.iter();
    alertmanagers
        .map(|url| make(Target::Alertmanager, url))
        .chain(webhooks.map(|url| make(Target::Webhook(config.webhook_secret.clone()), url)))
        .collect()
}

/// Returns the key of a receiver in the book.
fn key_of(kind: &str, url: &str) -> String {
    let digest = Sha256::digest(url.as_bytes());
    let digits: String = digest.iter().take(16).map(|b| format!("{b:02x}")).collect();
    format!("{kind}:{digits}")
}

/// Returns the key that replaces one with a URL, as written by versions before 0.2.
pub(super) fn renamed(key: &str) -> Option<String> {
    let (kind, url) = key.split_once(' ')?;
    Some(key_of(kind, url))
}

/// Returns an HTTP client; logs why if there is none.
fn client() -> Option<reqwest::Client> {
    // Fails if the process has chosen a provider already, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = || {
        reqwest::Client::builder()
            .timeout(TIMEOUT)
            .connect_timeout(Duration::from_secs(2))
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("evenkeel/", env!("CARGO_PKG_VERSION")))
    };
    let without_https = |error: reqwest::Error| {
        let error = chain(&error);
        warn!(error, "no CA certificates: cannot deliver alerts by https");
        builder().tls_certs_only([]).build()
    };
    match builder().build().or_else(without_https) {
        Ok(client) => Some(client),
        Err(error) => {
            let error = chain(&error);
            warn!(error, "cannot deliver alerts: no HTTP client");
            None
        }
    }
}

impl Receiver {
    /// Returns its key in the book, which does not have the URL: that may have a token.
    pub(super) fn id(&self) -> String {
        key_of(self.kind(), &self.url)
    }

    const fn kind(&self) -> &'static str {
        match self.target {
            Target::Alertmanager => "alertmanager",
            Target::Webhook(_) => "webhook",
        }
    }

    /// Returns scheme, host and port of the URL; the path may be secret.
    fn label(&self) -> String {
        let Ok(url) = reqwest::Url::parse(&self.url) else {
            return "unknown".to_owned();
        };
        let port = url.port_or_known_default().unwrap_or_default();
        format!(
            "{}://{}:{port}",
            url.scheme(),
            url.host_str().unwrap_or("-")
        )
    }

    pub(super) fn counts(&self) -> ReceiverCounts {
        ReceiverCounts {
            kind: self.kind(),
            receiver: self.label(),
            sent: self.sent.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            superseded: self.superseded.load(Ordering::Relaxed),
        }
    }

    /// Sends what the receiver has not confirmed.
    async fn send_due(&self, shared: &Shared) -> Result<(), String> {
        match &self.target {
            Target::Alertmanager => alertmanager::send_all(shared, self).await,
            Target::Webhook(secret) => webhook::send_due(shared, self, secret.as_ref()).await,
        }
    }

    /// Sends and counts one request.
    async fn send(&self, request: reqwest::RequestBuilder) -> Result<(), String> {
        let result = match request.send().await {
            Ok(response) if response.status().is_success() => Ok(()),
            Ok(response) => {
                let status = response.status();
                let body = beginning(response).await;
                Err(format!("response {status} {}", excerpt(body.trim(), 200)))
            }
            Err(error) => Err(chain(&error.without_url())),
        };
        let count = if result.is_ok() {
            &self.sent
        } else {
            &self.failed
        };
        count.fetch_add(1, Ordering::Relaxed);
        result
    }
}

/// Reads the beginning of a body. Dropping the response closes the connection, so an endless body costs
/// no more.
async fn beginning(mut response: reqwest::Response) -> String {
    let mut body = Vec::new();
    while body.len() < BODY_LIMIT
        && let Ok(Some(chunk)) = response.chunk().await
    {
        let room = BODY_LIMIT - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
    String::from_utf8_lossy(&body).into_owned()
}

/// Delivers alerts to a receiver until the book is dropped.
pub(super) async fn deliver(shared: Arc<Shared>, receiver: Arc<Receiver>) {
    let mut saved = shared.saved.subscribe();
    // Alertmanager resolves alerts that are not sent again.
    let mut reminder = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        saved.borrow_and_update();
        let is_due = !lock(&shared.book).due(&receiver.id()).is_empty();
        if is_due || Instant::now() >= reminder {
            if let Err(error) = receiver.send_due(&shared).await {
                if pause == FIRST_PAUSE {
                    let receiver = receiver.label();
                    warn!(receiver, error, "cannot deliver alerts; retrying");
                }
                sleep(jittered(pause)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
            if pause > FIRST_PAUSE {
                info!(receiver = receiver.label(), "delivering alerts again");
            }
            pause = FIRST_PAUSE;
            reminder = Instant::now() + receiver.resend;
        }
        if let Ok(Err(_)) = timeout_at(reminder, saved.changed()).await {
            return;
        }
    }
}

/// Returns a random part of a pause, at least half, so that nodes do not retry at the same moment.
fn jittered(pause: Duration) -> Duration {
    let mut random = SmallRng::seed_from_u64(RandomState::new().hash_one(0_u8));
    pause.mul_f64(random.random_range(0.5..1.0))
}

impl Shared {
    /// Records that a receiver confirmed a version; counts the versions that it missed.
    fn confirm(&self, receiver: &Receiver, key: &str, version: u64) {
        let id = receiver.id();
        let mut book = lock(&self.book);
        let base = book.entries.get(key).map_or(0, |entry| entry.base);
        let missed = version.saturating_sub(book.confirmed(&id, key).max(base) + 1);
        receiver.superseded.fetch_add(missed, Ordering::Relaxed);
        book.confirm(&id, key, version);
    }
}

/// Sends a test alert to each receiver.
pub(super) async fn test(host: &str, receivers: &[Arc<Receiver>]) -> Vec<Tested> {
    let now = crate::clock::now();
    let tests = receivers.iter().map(|receiver| async move {
        let result = match &receiver.target {
            Target::Alertmanager => alertmanager::send_test(host, receiver, now).await,
            Target::Webhook(secret) => {
                webhook::send_test(host, receiver, secret.as_ref(), now).await
            }
        };
        Tested {
            kind: receiver.kind(),
            receiver: receiver.label(),
            error: result.err(),
        }
    });
    futures_util::future::join_all(tests).await
}
