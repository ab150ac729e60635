//! The journal: what happened, for people who ask later.
//!
//! One JSON object a line, at the end of a file in `state_dir/events/`. When the file is full it is put aside
//! and a new one begun; the oldest is removed, so that the journal never needs more than a few megabytes. A
//! line that a crash cut off is skipped, and its number not given again: numbers grow for ever, and
//! whoever has seen the event `n` asks for those after `n`.

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
use storage::Storage;
use tokio::sync::broadcast;
use tracing::warn;

use lb_api::Event;

/// Events that are kept in memory, and can be asked for.
const REMEMBERED: usize = 10_000;

/// Events that a subscriber may be behind.
const BEHIND: usize = 1024;

/// What happened, before it has a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What kind: `revision`, `health`, `alert`, `rollback`, `start`, `upgrade`; or what the watch over shares found and nobody
    /// need be woken for: `spike`, `overload` in a transition, `table_skew` by rounding.
    pub kind: &'static str,
    /// The VIP it is about, if it is about one.
    pub vip: Option<String>,
    /// The backend it is about, if it is about one.
    pub backend: Option<String>,
    /// What happened, in words.
    pub message: String,
}

impl Entry {
    /// Something that is about no VIP.
    #[must_use]
    pub fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            vip: None,
            backend: None,
            message: message.into(),
        }
    }

    /// About this VIP.
    #[must_use]
    pub fn vip(mut self, vip: impl Into<String>) -> Self {
        self.vip = Some(vip.into());
        self
    }

    /// About this backend.
    #[must_use]
    pub fn backend(mut self, backend: impl Into<String>) -> Self {
        self.backend = Some(backend.into());
        self
    }
}

/// The journal. Clones are the same journal.
#[derive(Clone, Debug)]
pub struct Journal {
    inner: Arc<Mutex<Inner>>,
    news: broadcast::Sender<Event>,
}

#[derive(Debug)]
struct Inner {
    storage: Option<Storage>,
    newest: VecDeque<Event>,
    next_id: u64,
    /// Whether the last write failed, so that it is said once.
    is_failing: bool,
}

impl Journal {
    /// Goes on with the journal in `state_dir`, or begins one.
    ///
    /// # Errors
    ///
    /// Why its folder or files can't be made, read or written. Lines that make no sense are no error: they are
    /// skipped and counted in the log.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let (storage, past) = Storage::open(&state_dir.join("events"), REMEMBERED)?;
        if past.skipped > 0 {
            warn!(
                lines = past.skipped,
                "the journal has lines that make no sense"
            );
        }
        Ok(Self::with(Some(storage), past.events, past.next_id))
    }

    /// A journal that is forgotten when the process ends.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::with(None, VecDeque::new(), 1)
    }

    fn with(storage: Option<Storage>, newest: VecDeque<Event>, next_id: u64) -> Self {
        let inner = Inner {
            storage,
            newest,
            next_id,
            is_failing: false,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            news: broadcast::Sender::new(BEHIND),
        }
    }

    /// Writes an event down and tells the subscribers. A disk that refuses is said in the log: the event is still
    /// told and remembered as long as the process lives.
    pub fn append(&self, at: Timestamp, entry: Entry) -> Event {
        let mut inner = self.lock();
        let event = Event {
            id: inner.next_id,
            at,
            kind: entry.kind.to_owned(),
            vip: entry.vip,
            backend: entry.backend,
            message: entry.message,
        };
        inner.next_id += 1;
        let written = match &mut inner.storage {
            Some(storage) => storage.append(&event),
            None => Ok(()),
        };
        if let (Err(error), false) = (&written, inner.is_failing) {
            warn!(%error, "an event could not be written to the journal");
        }
        inner.is_failing = written.is_err();
        if inner.newest.len() == REMEMBERED {
            inner.newest.pop_front();
        }
        inner.newest.push_back(event.clone());
        // In the lock, so that subscribers see numbers grow. Nobody listening is no error.
        let _ = self.news.send(event.clone());
        event
    }

    /// Events with numbers above `id`, the oldest first; `limit` at most.
    #[must_use]
    pub fn since(&self, id: u64, limit: usize) -> Vec<Event> {
        let inner = self.lock();
        let first = inner.newest.partition_point(|event| event.id <= id);
        inner.newest.range(first..).take(limit).cloned().collect()
    }

    /// Events at or after a time, the oldest first; `limit` at most.
    #[must_use]
    pub fn since_time(&self, time: Timestamp, limit: usize) -> Vec<Event> {
        let inner = self.lock();
        // The clock may have been set back: not sorted.
        let later = inner.newest.iter().filter(|event| event.at >= time);
        later.take(limit).cloned().collect()
    }

    /// The newest events, the oldest of them first.
    #[must_use]
    pub fn newest(&self, limit: usize) -> Vec<Event> {
        let inner = self.lock();
        let first = inner.newest.len().saturating_sub(limit);
        inner.newest.range(first..).cloned().collect()
    }

    /// Events as they happen. Who is too slow is told how many were missed; [`Self::follow`] does not miss
    /// any.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.news.subscribe()
    }

    /// Events with numbers above `id`: those of the past, then each as it happens, none twice.
    #[must_use]
    pub fn follow(&self, id: u64) -> Follower {
        Follower::new(self.clone(), id)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Whoever panicked with the lock left a list of events behind, nothing worse.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
