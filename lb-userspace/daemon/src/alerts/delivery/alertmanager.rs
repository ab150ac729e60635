//! Posts alerts to Alertmanager (API version 2).
//!
//! Alertmanager identifies an alert by its labels and resolves it unless it is sent again: all firing
//! alerts are resent regularly, with an end a few intervals ahead. An alert with another severity or
//! kind is a different alert there; the old one is resolved at the same time.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{Receiver, Shared};
use crate::alerts::{
    Severity,
    book::{Book, Entry, REPEAT_RESOLVED},
    lock,
};

/// Resend intervals after which Alertmanager resolves an alert, as with Prometheus.
const RESENDS: u32 = 4;

/// The body of `POST /api/v2/alerts`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Post {
    starts_at: Timestamp,
    ends_at: Timestamp,
    labels: BTreeMap<&'static str, String>,
    annotations: BTreeMap<&'static str, String>,
}

/// `backend_down` → `EvenkeelBackendDown`.
fn alert_name(kind: &str) -> String {
    let words = kind.split(['_', '-', ' ']).map(|word| {
        let mut letters = word.chars();
        let first = letters.next().map(|letter| letter.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    });
    format!("Evenkeel{}", words.collect::<String>())
}

/// Returns the identity of an alert: nothing that changes while it is the same alert.
fn labels(
    host: &str,
    entry: &Entry,
    kind: &str,
    severity: Severity,
) -> BTreeMap<&'static str, String> {
    let mut labels = BTreeMap::from([
        ("alertname", alert_name(kind)),
        ("alert_id", entry.told.key.clone()),
        ("severity", severity.as_str().to_owned()),
        ("node", host.to_owned()),
    ]);
    if let Some(vip) = &entry.told.vip {
        labels.insert("vip", vip.clone());
    }
    labels
}

fn annotations(entry: &Entry) -> BTreeMap<&'static str, String> {
    let told = &entry.told;
    let mut annotations = BTreeMap::from([("summary", told.summary.clone())]);
    if let Some(cause) = &told.cause {
        annotations.insert("cause", cause.clone());
    }
    if let Some(revision) = told.revision {
        annotations.insert("revision", revision.to_string());
    }
    if !told.backends.is_empty() {
        annotations.insert("backends", told.backends.join(", "));
    }
    if !told.vips.is_empty() {
        annotations.insert("vips", told.vips.join(", "));
    }
    if let Some(who) = &entry.acknowledged_by {
        annotations.insert("acknowledged_by", who.clone());
    }
    annotations
}

/// Returns the posts of an entry: its current state, and recent severities and kinds to resolve.
fn posts(host: &str, entry: &Entry, now: Timestamp, end: Timestamp) -> Vec<Post> {
    let post = |kind: &str, severity, ends_at| Post {
        starts_at: entry.since,
        ends_at,
        labels: labels(host, entry, kind, severity),
        annotations: annotations(entry),
    };
    let current = (entry.told.kind.as_str(), entry.severity);
    let mut posts = vec![post(current.0, current.1, entry.over.unwrap_or(end))];
    for (kind, severity, until) in &entry.former {
        let is_recent = now.duration_since(*until) < REPEAT_RESOLVED;
        if is_recent && (kind.as_str(), *severity) != current {
            posts.push(post(kind, *severity, *until));
        }
    }
    posts
}

/// Returns what to post, and the versions that this confirms.
fn collect(
    host: &str,
    book: &Book,
    receiver: &str,
    now: Timestamp,
    resend: Duration,
) -> (Vec<Post>, Vec<(String, u64)>) {
    let lasts = SignedDuration::try_from(resend * RESENDS).unwrap_or(REPEAT_RESOLVED);
    let end = now.checked_add(lasts).unwrap_or(now);
    let due = book.due(receiver);
    let mut all = Vec::new();
    for (key, entry) in &book.entries {
        let is_due = due.iter().any(|(name, _)| name == key);
        // Silenced alerts that Alertmanager knows are resent unchanged.
        let is_known = book.confirmed(receiver, key) > 0;
        let is_fresh = entry
            .over
            .is_none_or(|over| now.duration_since(over) < REPEAT_RESOLVED);
        if !entry.muted && (is_due || (is_known && is_fresh)) {
            all.extend(posts(host, entry, now, end));
        }
    }
    (all, due)
}

/// Sends all alerts that are firing or were resolved recently.
pub(super) async fn send_all(shared: &Shared, receiver: &Receiver) -> Result<(), String> {
    let now = crate::clock::now();
    let (posts, due) = collect(
        &shared.host,
        &lock(&shared.book),
        &receiver.id(),
        now,
        receiver.resend,
    );
    if posts.is_empty() {
        return Ok(());
    }
    post(receiver, &posts).await?;
    for (key, version) in &due {
        shared.confirm(receiver, key, *version);
    }
    if !due.is_empty() {
        shared.changed();
    }
    Ok(())
}

async fn post(receiver: &Receiver, posts: &[Post]) -> Result<(), String> {
    let url = format!("{}/api/v2/alerts", receiver.url.trim_end_matches('/'));
    receiver.send(receiver.client.post(url).json(posts)).await
}

/// Sends a test alert that resolves by itself.
pub(super) async fn send_test(
    host: &str,
    receiver: &Receiver,
    now: Timestamp,
) -> Result<(), String> {
    let test = Post {
        starts_at: now,
        ends_at: now.checked_add(SignedDuration::from_mins(1)).unwrap_or(now),
        labels: BTreeMap::from([
            ("alertname", alert_name("test")),
            ("alert_id", "test".to_owned()),
            ("severity", "info".to_owned()),
            ("node", host.to_owned()),
        ]),
        annotations: BTreeMap::from([("summary", TEST_SUMMARY.to_owned())]),
    };
    post(receiver, &[test]).await
}

pub(super) const TEST_SUMMARY: &str = "test alert from `evenkeel alerts test`; nothing is wrong";
