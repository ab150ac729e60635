//! Alerts: raised from conditions, delivered to receivers.
//!
//! ```text
//! NodeState ──observe──► conditions ──book──► alerts ──► log, journal, API, metrics
//! skew findings ────────────┘                   └──delivery──► Alertmanagers, webhooks
//! ```
//!
//! The engine passes all current conditions to [`Alerts::update`] once per second. The `book` decides
//! what becomes of them; it is saved after each change. Separate tasks send alerts to the receivers.

mod alert;
mod announce;
mod backends;
mod book;
mod bound;
mod condition;
mod delivery;
mod fleet;
mod observe;
mod sources;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub use alert::{Alert, Severity};
use book::{Book, Change};
pub use condition::{Condition, Patience};
use delivery::Receiver;
pub use delivery::{ReceiverCounts, Tested, signature};
use jiff::{SignedDuration, Timestamp};
pub use observe::{Limits, Observer, VipLimits};
use thiserror::Error;
use tokio::{sync::watch, task::JoinSet};
use tracing::{error, info, warn};

use crate::{
    clock, durable,
    events::{Entry as EventEntry, Journal},
};
use lb_model::config;

/// An alert could not be changed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum AlertsError {
    /// No alert with this id is firing.
    #[error("no alert `{0}` is firing; `evenkeel alerts` lists the firing ones")]
    NotFound(String),
    /// A silence of more than this many days would be forgotten.
    #[error("a silence can last {0} days at most")]
    TooLong(i64),
}

const LONGEST_SILENCE_DAYS: i64 = 30;

/// The number of firing alerts of a kind and severity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firing {
    pub kind: String,
    pub severity: Severity,
    pub count: usize,
}

/// The alerts. Clones share them.
#[derive(Clone, Debug)]
pub struct Alerts {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Name of the node in messages.
    host: String,
    path: Option<PathBuf>,
    journal: Journal,
    book: Mutex<Book>,
    receivers: Mutex<Vec<Arc<Receiver>>>,
    /// The settings that the receivers were made from.
    configured: Mutex<Option<config::Alerts>>,
    escalate_after: Mutex<Option<Duration>>,
    tasks: Mutex<JoinSet<()>>,
    /// Number of the last change of the book that must be saved and sent.
    changes: watch::Sender<u64>,
    /// Number of the last change that was saved: only saved changes are sent.
    saved: watch::Sender<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic leaves no change half-done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Alerts {
    /// Loads the alerts in `state_dir`. `host` is the node's name in messages.
    ///
    /// A file that can't be read is logged: conditions that persist raise their alerts again.
    #[must_use]
    pub fn open(state_dir: &Path, host: impl Into<String>, journal: Journal) -> Self {
        let path = state_dir.join("alerts.json");
        let mut book = match durable::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                warn!(file = %path.display(), %error, "can't read the alerts of the last process");
                Book::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Book::default(),
            Err(error) => {
                warn!(file = %path.display(), %error, "can't read the alerts of the last process");
                Book::default()
            }
        };
        book.rename_receivers(delivery::renamed);
        Self::with(book, Some(path), host.into(), journal)
    }

    /// Alerts without a file.
    #[must_use]
    pub fn in_memory() -> Self {
        let journal = Journal::in_memory();
        Self::with(Book::default(), None, "localhost".to_owned(), journal)
    }

    fn with(book: Book, path: Option<PathBuf>, host: String, journal: Journal) -> Self {
        let shared = Shared {
            host,
            path,
            journal,
            book: Mutex::new(book),
            receivers: Mutex::default(),
            configured: Mutex::default(),
            escalate_after: Mutex::default(),
            tasks: Mutex::default(),
            changes: watch::Sender::new(0),
            saved: watch::Sender::new(0),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Starts or restarts saving and delivery. Does nothing if the settings are unchanged. Must be called
    /// within a tokio runtime.
    pub fn configure(&self, config: &config::Alerts) {
        let shared = &self.shared;
        let before = lock(&shared.configured).replace(config.clone());
        if before.as_ref() == Some(config) {
            return;
        }
        *lock(&shared.escalate_after) = config.escalate_after;
        let old = std::mem::take(&mut *lock(&shared.receivers));
        let receivers = delivery::receivers(config, &old);
        lock(&shared.receivers).clone_from(&receivers);
        let mut tasks = lock(&shared.tasks);
        tasks.abort_all();
        *tasks = JoinSet::new();
        tasks.spawn(save_changes(Arc::clone(shared)));
        for receiver in receivers {
            tasks.spawn(delivery::deliver(Arc::clone(shared), receiver));
        }
        drop(tasks);
        // Sends what the last process did not.
        shared.changed();
    }

    /// Takes all current conditions: raises, escalates and resolves alerts.
    pub fn update(&self, now: Timestamp, conditions: &[Condition]) {
        let escalate_after = *lock(&self.shared.escalate_after);
        let mut book = lock(&self.shared.book);
        let size = |book: &Book| (book.entries.len(), book.silences());
        let before = size(&book);
        let changes = book.update(now, conditions, escalate_after);
        let entries: Vec<_> = changes
            .iter()
            .filter_map(|change| self.shared.describe(&book, change))
            .collect();
        book.forget(now, &self.shared.receiver_ids());
        let is_changed = !changes.is_empty() || size(&book) != before;
        drop(book);
        for (severity, entry) in entries {
            self.shared.record(now, severity, entry);
        }
        if is_changed {
            self.shared.changed();
        }
    }

    /// Moves all times after the system clock was set: ages and silences keep their length.
    pub fn clock_was_set(&self, by: SignedDuration) {
        let mut book = lock(&self.shared.book);
        let is_empty = book.entries.is_empty() && book.silences() == 0;
        book.move_by(by);
        drop(book);
        if !is_empty {
            self.shared.changed();
        }
    }

    /// Firing alerts, the most severe first, then the oldest.
    #[must_use]
    pub fn list(&self) -> Vec<Alert> {
        lock(&self.shared.book).list()
    }

    /// Acknowledges an alert, which then no longer escalates.
    ///
    /// # Errors
    ///
    /// The alert is not firing.
    pub fn ack(&self, id: &str, who: &str) -> Result<Alert, AlertsError> {
        let mut book = lock(&self.shared.book);
        let not_found = || AlertsError::NotFound(id.to_owned());
        let entry = book.firing(id).ok_or_else(not_found)?;
        entry.acknowledged_by = Some(who.to_owned());
        let alert = book.alert(id).ok_or_else(not_found)?;
        drop(book);
        let message = format!("acknowledged by {who}: {}", alert.summary);
        self.shared.note(clock::now(), &alert, message);
        Ok(alert)
    }

    /// Sends nothing new about an alert until then; a time in the past ends the silence. Reminders to
    /// Alertmanager continue.
    ///
    /// # Errors
    ///
    /// The alert is not firing, or the silence is too long.
    pub fn silence(&self, id: &str, until: Timestamp, who: &str) -> Result<Alert, AlertsError> {
        let now = clock::now();
        let days = until.duration_since(now).as_hours() / 24;
        if days >= LONGEST_SILENCE_DAYS {
            return Err(AlertsError::TooLong(LONGEST_SILENCE_DAYS));
        }
        let mut book = lock(&self.shared.book);
        let not_found = || AlertsError::NotFound(id.to_owned());
        book.firing(id).ok_or_else(not_found)?;
        book.silence(now, id, until);
        let alert = book.alert(id).ok_or_else(not_found)?;
        drop(book);
        let message = match alert.silenced_until {
            Some(_) => {
                let until = until.round(jiff::Unit::Second).unwrap_or(until);
                format!("silenced by {who} until {until}: {}", alert.summary)
            }
            None => format!("silence ended by {who}: {}", alert.summary),
        };
        self.shared.note(now, &alert, message);
        Ok(alert)
    }

    /// Sends a test alert to all receivers.
    pub async fn test(&self) -> Vec<Tested> {
        let receivers = lock(&self.shared.receivers).clone();
        delivery::test(&self.shared.host, &receivers).await
    }

    /// The number of firing alerts, by kind and severity.
    #[must_use]
    pub fn firing(&self) -> Vec<Firing> {
        let mut counts: BTreeMap<(String, Severity), usize> = BTreeMap::new();
        for alert in self.list() {
            *counts.entry((alert.kind, alert.severity)).or_default() += 1;
        }
        let firing = |((kind, severity), count)| Firing {
            kind,
            severity,
            count,
        };
        counts.into_iter().map(firing).collect()
    }

    #[must_use]
    pub fn receiver_counts(&self) -> Vec<ReceiverCounts> {
        let receivers = lock(&self.shared.receivers);
        receivers.iter().map(|receiver| receiver.counts()).collect()
    }

    /// Alerts that were not raised because too many are firing.
    #[must_use]
    pub fn refused(&self) -> u64 {
        lock(&self.shared.book).refused
    }

    /// Stops the tasks and saves the alerts.
    ///
    /// # Errors
    ///
    /// They can't be saved.
    pub fn finish(&self) -> io::Result<()> {
        lock(&self.shared.tasks).abort_all();
        self.shared.save()
    }
}

impl Shared {
    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn receiver_ids(&self) -> Vec<String> {
        let receivers = lock(&self.receivers);
        receivers.iter().map(|receiver| receiver.id()).collect()
    }

    /// The log line and journal entry of a change.
    fn describe(&self, book: &Book, change: &Change) -> Option<(Severity, EventEntry)> {
        let (word, key) = match change {
            Change::Raised(key) => ("raised", key),
            Change::Escalated(key) => ("escalated", key),
            Change::Changed(key) => ("changed", key),
            Change::Resolved(key) => ("resolved", key),
        };
        let alert = book.alert(key)?;
        let severity = match change {
            Change::Resolved(_) => Severity::Info,
            _ => alert.severity,
        };
        let cause = alert.cause.as_ref().map(|cause| format!("; {cause}"));
        let message = format!("{word}: {}{}", alert.summary, cause.unwrap_or_default());
        Some((severity, event(&alert, message)))
    }

    fn record(&self, now: Timestamp, severity: Severity, entry: EventEntry) {
        let (vip, alert) = (entry.vip.as_deref().unwrap_or("-"), &entry.message);
        match severity {
            Severity::Info => info!(vip, alert, "alert"),
            Severity::Warning => warn!(vip, alert, "alert"),
            Severity::Critical => error!(vip, alert, "alert"),
        }
        self.journal.append(now, entry);
    }

    fn note(&self, now: Timestamp, alert: &Alert, message: String) {
        self.record(now, Severity::Info, event(alert, message));
        self.changed();
    }

    fn save(&self) -> io::Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let bytes = serde_json::to_vec(&*lock(&self.book))?;
        durable::replace(path, &bytes)
    }
}

fn event(alert: &Alert, message: String) -> EventEntry {
    let backend = match &alert.backends[..] {
        [one] => Some(one.clone()),
        _ => None,
    };
    EventEntry {
        kind: "alert",
        vip: alert.vip.clone(),
        backend,
        message,
    }
}

/// Saves the book after each change, then wakes the receivers.
async fn save_changes(shared: Arc<Shared>) {
    let mut changes = shared.changes.subscribe();
    let mut is_failing = false;
    loop {
        let change = *changes.borrow_and_update();
        let saver = Arc::clone(&shared);
        let saved = tokio::task::spawn_blocking(move || saver.save()).await;
        let result = saved.unwrap_or_else(|error| Err(io::Error::other(error)));
        if let (Err(error), false) = (&result, is_failing) {
            warn!(%error, "can't save the alerts; they are sent anyway");
        }
        is_failing = result.is_err();
        shared.saved.send_replace(change);
        if changes.changed().await.is_err() {
            return;
        }
    }
}
