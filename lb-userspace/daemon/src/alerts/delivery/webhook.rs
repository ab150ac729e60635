//! Posts a JSON document to webhooks for each change of an alert.

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use serde::Serialize;
use sha2::Sha256;

use super::{Receiver, Shared, alertmanager::TEST_SUMMARY};
use crate::alerts::{Alert, Severity, lock};
use lb_model::config::Secret;

/// The body of a request.
#[derive(Debug, Serialize)]
struct Message<'a> {
    /// Version of the format.
    version: u32,
    /// `firing`, `resolved` or `test`.
    status: &'static str,
    node: &'a str,
    /// Increases with each message about an alert, so that receivers can detect duplicates.
    sequence: u64,
    sent_at: Timestamp,
    resolved_at: Option<Timestamp>,
    alert: Alert,
}

/// Returns the signature of a body: HMAC-SHA-256 in hex, keyed by the secret, of the header
/// `X-Evenkeel-Timestamp`, a full stop and the body.
#[must_use]
pub fn signature(secret: &[u8], timestamp: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body);
    let digits = mac.finalize().into_bytes();
    digits.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sends the unconfirmed alerts, oldest first, until one fails.
pub(super) async fn send_due(
    shared: &Shared,
    receiver: &Receiver,
    secret: Option<&Secret>,
) -> Result<(), String> {
    let mut due = lock(&shared.book).due(&receiver.id());
    due.sort_by_key(|(key, _)| lock(&shared.book).entries.get(key).map(|entry| entry.since));
    for (key, _) in due {
        // Read now: it may have changed while others were sent.
        let found = {
            let book = lock(&shared.book);
            let entry = book.entries.get(&key);
            entry.map(|entry| (entry.version, entry.over, entry.as_alert(None, None)))
        };
        let Some((sequence, resolved_at, alert)) = found else {
            continue;
        };
        let message = Message {
            version: 1,
            status: if resolved_at.is_some() {
                "resolved"
            } else {
                "firing"
            },
            node: &shared.host,
            sequence,
            sent_at: crate::clock::now(),
            resolved_at,
            alert,
        };
        post(receiver, secret, &message).await?;
        shared.confirm(receiver, &key, sequence);
        shared.changed();
    }
    Ok(())
}

async fn post(
    receiver: &Receiver,
    secret: Option<&Secret>,
    message: &Message<'_>,
) -> Result<(), String> {
    let body = serde_json::to_vec(message).map_err(|error| error.to_string())?;
    let mut request = receiver
        .client
        .post(&receiver.url)
        .header("Content-Type", "application/json");
    if let Some(secret) = secret {
        let timestamp = message.sent_at.as_second().to_string();
        let signature = signature(secret.bytes(), &timestamp, &body);
        request = request
            .header("X-Evenkeel-Timestamp", timestamp)
            .header("X-Evenkeel-Signature", format!("sha256={signature}"));
    }
    receiver.send(request.body(body)).await
}

/// Sends a test alert.
pub(super) async fn send_test(
    host: &str,
    receiver: &Receiver,
    secret: Option<&Secret>,
    now: Timestamp,
) -> Result<(), String> {
    let message = Message {
        version: 1,
        status: "test",
        node: host,
        sequence: 1,
        sent_at: now,
        resolved_at: None,
        alert: Alert {
            id: "test".to_owned(),
            kind: "test".to_owned(),
            severity: Severity::Info,
            vip: None,
            vips: Vec::new(),
            backends: Vec::new(),
            summary: TEST_SUMMARY.to_owned(),
            cause: None,
            revision: None,
            since: now,
            acknowledged_by: None,
            silenced_until: None,
            resolves_at: None,
        },
    };
    post(receiver, secret, &message).await
}
