//! Alerts: conditions in, messages out.
//!
//! ```text
//! Status ──observe──► conditions ──book──► alerts ──► log, journal, API, metrics
//! skew findings ─────────┘                   └──delivery──► Alertmanagers, webhooks
//! ```
//!
//! The engine gives [`Alerts::update`] everything that is wrong, once a second; it never waits for a disk
//! or a socket. What becomes of it is decided by the `book` alone, a value that is saved after
//! each change. Tasks of their own bring it to the receivers.

mod alert;
mod book;
mod condition;
mod delivery;
mod observe;

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

/// Why something can't be done with an alert.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum AlertsError {
    /// No alert of that id is on.
    #[error("no alert `{0}` is on; `evenkeel alerts` lists those that are")]
    NotFound(String),
    /// A silence without end would be forgotten.
    #[error("a silence can last {0} days at most")]
    TooLong(i64),
}

/// The longest silence.
const LONGEST_SILENCE_DAYS: i64 = 30;

/// How many alerts there are of a kind and severity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firing {
    /// The kind.
    pub kind: String,
    /// The severity.
    pub severity: Severity,
    /// How many are on.
    pub count: usize,
}

/// The alerts. Clones are the same alerts.
#[derive(Clone, Debug)]
pub struct Alerts {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Name of the node, for messages.
    host: String,
    path: Option<PathBuf>,
    journal: Journal,
    book: Mutex<Book>,
    receivers: Mutex<Vec<Arc<Receiver>>>,
    /// What the receivers were made of.
    configured: Mutex<Option<config::Alerts>>,
    escalate_after: Mutex<Option<Duration>>,
    tasks: Mutex<JoinSet<()>>,
    /// Counts changes of the book that are to be saved and told.
    changes: watch::Sender<u64>,
    /// The last of them that was saved: only what is saved is told.
    saved: watch::Sender<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change of the book is whole when something panics: nothing is half-done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Alerts {
    /// Goes on with the alerts in `state_dir`, or with none. `host` is the node's name in messages.
    ///
    /// A file that can't be used is said in the log: conditions that are still there become alerts
    /// again.
    #[must_use]
    pub fn open(state_dir: &Path, host: impl Into<String>, journal: Journal) -> Self {
        let path = state_dir.join("alerts.json");
        let book = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                warn!(file = %path.display(), %error, "the alerts of the last process can't be read");
                Book::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Book::default(),
            Err(error) => {
                warn!(file = %path.display(), %error, "the alerts of the last process can't be read");
                Book::default()
            }
        };
        Self::with(book, Some(path), host.into(), journal)
    }

    /// Alerts that are forgotten when the process ends.
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

    /// Starts to save and to deliver as the configuration says; called again after each change of
    /// it, which disturbs nobody if it is the same. Must be called in a tokio runtime.
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
        // What the last process did not get rid of.
        shared.changed();
    }

    /// Takes in everything that is wrong at this moment; what is not there any more is over soon.
    /// Never waits.
    pub fn update(&self, now: Timestamp, conditions: &[Condition]) {
        let escalate_after = *lock(&self.shared.escalate_after);
        let mut book = lock(&self.shared.book);
        let size = |book: &Book| (book.entries.len(), book.silences());
        let before = size(&book);
        let changes = book.update(now, conditions, escalate_after);
        let told: Vec<_> = changes
            .iter()
            .filter_map(|change| self.shared.describe(&book, change))
            .collect();
        book.forget(now, &self.shared.receiver_ids());
        let is_changed = !changes.is_empty() || size(&book) != before;
        drop(book);
        for (severity, entry) in told {
            self.shared.tell(now, severity, entry);
        }
        if is_changed {
            self.shared.changed();
        }
    }

    /// The system's clock was set: alerts are as old as they were, and silences last as long.
    pub fn clock_was_set(&self, by: SignedDuration) {
        let mut book = lock(&self.shared.book);
        let is_empty = book.entries.is_empty() && book.silences() == 0;
        book.move_by(by);
        drop(book);
        if !is_empty {
            self.shared.changed();
        }
    }

    /// Alerts that are on, the gravest first, then the oldest.
    #[must_use]
    pub fn list(&self) -> Vec<Alert> {
        lock(&self.shared.book).list()
    }

    /// Notes who has seen an alert: it does not get graver any more.
    ///
    /// # Errors
    ///
    /// No such alert is on.
    pub fn ack(&self, id: &str, who: &str) -> Result<Alert, AlertsError> {
        let mut book = lock(&self.shared.book);
        let not_found = || AlertsError::NotFound(id.to_owned());
        let entry = book.on(id).ok_or_else(not_found)?;
        entry.acknowledged_by = Some(who.to_owned());
        let alert = book.alert(id).ok_or_else(not_found)?;
        drop(book);
        let message = format!("acknowledged by {who}: {}", alert.summary);
        self.shared.note(clock::now(), &alert, message);
        Ok(alert)
    }

    /// Tells nobody anything new about an alert until then; a time that is past ends the silence.
    /// Alertmanager goes on hearing of what it was told before.
    ///
    /// # Errors
    ///
    /// No such alert is on, or the silence would be too long.
    pub fn silence(&self, id: &str, until: Timestamp, who: &str) -> Result<Alert, AlertsError> {
        let now = clock::now();
        let days = until.duration_since(now).as_hours() / 24;
        if days >= LONGEST_SILENCE_DAYS {
            return Err(AlertsError::TooLong(LONGEST_SILENCE_DAYS));
        }
        let mut book = lock(&self.shared.book);
        let not_found = || AlertsError::NotFound(id.to_owned());
        book.on(id).ok_or_else(not_found)?;
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

    /// Sends a test to all receivers, and says how each answered.
    pub async fn test(&self) -> Vec<Tested> {
        let receivers = lock(&self.shared.receivers).clone();
        delivery::test(&self.shared.host, &receivers).await
    }

    /// How many alerts are on, by kind and severity.
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

    /// What each receiver got.
    #[must_use]
    pub fn receiver_counts(&self) -> Vec<ReceiverCounts> {
        let receivers = lock(&self.shared.receivers);
        receivers.iter().map(|receiver| receiver.counts()).collect()
    }

    /// Alerts that were not raised because there were too many.
    #[must_use]
    pub fn refused(&self) -> u64 {
        lock(&self.shared.book).refused
    }

    /// Ends the tasks and saves for the last time.
    ///
    /// # Errors
    ///
    /// Why it can't be saved.
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

    /// What the log and the journal say of a change.
    fn describe(&self, book: &Book, change: &Change) -> Option<(Severity, EventEntry)> {
        let (word, key) = match change {
            Change::Raised(key) => ("raised", key),
            Change::Graver(key) => ("graver", key),
            Change::Changed(key) => ("changed", key),
            Change::Over(key) => ("over", key),
        };
        let alert = book.alert(key)?;
        let severity = match change {
            Change::Over(_) => Severity::Info,
            _ => alert.severity,
        };
        let cause = alert.cause.as_ref().map(|cause| format!("; {cause}"));
        let message = format!("{word}: {}{}", alert.summary, cause.unwrap_or_default());
        Some((severity, event(&alert, message)))
    }

    fn tell(&self, now: Timestamp, severity: Severity, entry: EventEntry) {
        let (vip, alert) = (entry.vip.as_deref().unwrap_or("-"), &entry.message);
        match severity {
            Severity::Info => info!(vip, alert, "alert"),
            Severity::Warning => warn!(vip, alert, "alert"),
            Severity::Critical => error!(vip, alert, "alert"),
        }
        self.journal.append(now, entry);
    }

    fn note(&self, now: Timestamp, alert: &Alert, message: String) {
        self.tell(now, Severity::Info, event(alert, message));
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

/// Saves the book after each change, then lets the receivers know.
async fn save_changes(shared: Arc<Shared>) {
    let mut changes = shared.changes.subscribe();
    let mut is_failing = false;
    loop {
        let change = *changes.borrow_and_update();
        let saver = Arc::clone(&shared);
        let saved = tokio::task::spawn_blocking(move || saver.save()).await;
        let result = saved.unwrap_or_else(|error| Err(io::Error::other(error)));
        if let (Err(error), false) = (&result, is_failing) {
            warn!(%error, "the alerts could not be saved; they are sent all the same");
        }
        is_failing = result.is_err();
        shared.saved.send_replace(change);
        if changes.changed().await.is_err() {
            return;
        }
    }
}
