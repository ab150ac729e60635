//! The journal of events.
//!
//! One JSON object per line, appended to a file in `state_dir/events/`. A full file is rotated and the
//! oldest one removed, so the journal never needs more than a few megabytes. A line that a crash cut
//! off is skipped and its number is not used again: numbers only grow, and a reader that has seen event `n`
//! asks for those after `n`.

mod follow;
mod storage;

#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub use follow::Follower;
use jiff::Timestamp;
use lb_model::text::printable;
use serde::{Deserialize, Serialize};
use storage::Storage;
use tokio::sync::broadcast;
use tracing::warn;

/// Events that are kept in memory for readers.
const REMEMBERED: usize = 10_000;

/// Events that a subscriber can lag behind.
const BEHIND: usize = 1024;

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Grows with every event.
    pub id: u64,
    pub at: Timestamp,
    pub kind: String,
    pub vip: Option<String>,
    pub backend: Option<String>,
    pub message: String,
}

/// An event before it has a number and a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `revision`, `health`, `alert`, `rollback`, `source`, `start`, `upgrade`; or a finding of the share monitor
    /// that needs no alert: `spike`, `overload` during a transition, `table_skew` by rounding.
    pub kind: &'static str,
    pub vip: Option<String>,
    pub backend: Option<String>,
    pub message: String,
}

impl Entry {
    /// An event that concerns no VIP.
    #[must_use]
    pub fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            vip: None,
            backend: None,
            message: message.into(),
        }
    }

    #[must_use]
    pub fn vip(mut self, vip: impl Into<String>) -> Self {
        self.vip = Some(vip.into());
        self
    }

    #[must_use]
    pub fn backend(mut self, backend: impl Into<String>) -> Self {
        self.backend = Some(backend.into());
        self
    }
}

/// The journal. Clones share it.
///
/// Appending waits for the disk, reading does not.
#[derive(Clone, Debug)]
pub struct Journal {
    /// Held while an event is appended, so that lines are in the order of their numbers.
    file: Arc<Mutex<JournalFile>>,
    recent: Arc<Mutex<VecDeque<Event>>>,
    subscribers: broadcast::Sender<Event>,
}

#[derive(Debug)]
struct JournalFile {
    storage: Option<Storage>,
    next_id: u64,
    /// Whether the last write failed: repeated failures are logged once.
    is_failing: bool,
}

impl Journal {
    /// Opens the journal in `state_dir`, or creates one.
    ///
    /// # Errors
    ///
    /// Its folder or files can't be created, read or written. Invalid lines are no error: they are
    /// skipped, and their number is logged.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let (storage, past) = Storage::open(&state_dir.join("events"), REMEMBERED)?;
        if past.skipped > 0 {
            warn!(lines = past.skipped, "skipped invalid lines in the journal");
        }
        Ok(Self::with(Some(storage), past.events, past.next_id))
    }

    /// A journal without files.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::with(None, VecDeque::new(), 1)
    }

    fn with(storage: Option<Storage>, recent: VecDeque<Event>, next_id: u64) -> Self {
        let file = JournalFile {
            storage,
            next_id,
            is_failing: false,
        };
        Self {
            file: Arc::new(Mutex::new(file)),
            recent: Arc::new(Mutex::new(recent)),
            subscribers: broadcast::Sender::new(BEHIND),
        }
    }

    /// Appends an event and sends it to the subscribers. If the disk fails, that is logged, and the
    /// event is kept in memory only.
    pub fn append(&self, at: Timestamp, entry: Entry) -> Event {
        let mut file = lock(&self.file);
        let event = Event {
            id: file.next_id,
            at,
            kind: entry.kind.to_owned(),
            vip: entry.vip,
            backend: entry.backend,
            message: printable(&entry.message).into_owned(),
        };
        file.next_id += 1;
        let written = match &mut file.storage {
            Some(storage) => storage.append(&event),
            None => Ok(()),
        };
        if let (Err(error), false) = (&written, file.is_failing) {
            warn!(%error, "can't write an event to the journal");
        }
        file.is_failing = written.is_err();
        // After the write, so that no reader knows a number that a crash could take back.
        let mut recent = lock(&self.recent);
        if recent.len() == REMEMBERED {
            recent.pop_front();
        }
        recent.push_back(event.clone());
        drop(recent);
        // Without subscribers this fails, which is fine.
        let _ = self.subscribers.send(event.clone());
        event
    }

    /// Events with numbers above `id`, the oldest first; `limit` at most.
    #[must_use]
    pub fn since(&self, id: u64, limit: usize) -> Vec<Event> {
        let recent = lock(&self.recent);
        let first = recent.partition_point(|event| event.id <= id);
        recent.range(first..).take(limit).cloned().collect()
    }

    /// The newest events, the oldest of them first.
    #[must_use]
    pub fn newest(&self, limit: usize) -> Vec<Event> {
        let recent = lock(&self.recent);
        let first = recent.len().saturating_sub(limit);
        recent.range(first..).cloned().collect()
    }

    /// New events. A subscriber that lags learns how many it missed; [`Self::follow`] misses none.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.subscribers.subscribe()
    }

    /// Events with numbers above `id`: past ones, then each new one, none twice.
    #[must_use]
    pub fn follow(&self, id: u64) -> Follower {
        Follower::new(self.clone(), id)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic leaves whole events behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
