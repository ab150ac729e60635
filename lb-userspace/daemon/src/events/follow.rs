//! Follows the journal without missing events.

use std::collections::VecDeque;

use tokio::sync::broadcast::{self, error::RecvError};

use super::{Event, Journal};

/// Past events fetched from the journal at a time.
const AT_ONCE: usize = 256;

/// Yields the events of a journal one by one.
#[derive(Debug)]
pub struct Follower {
    journal: Journal,
    news: broadcast::Receiver<Event>,
    /// The next past events.
    past: VecDeque<Event>,
    /// Whether the journal may have more past events.
    is_behind: bool,
    last_id: u64,
}

impl Follower {
    pub(super) fn new(journal: Journal, id: u64) -> Self {
        Self {
            news: journal.subscribe(),
            journal,
            past: VecDeque::new(),
            is_behind: true,
            last_id: id,
        }
    }

    /// Waits for the next event. None when the journal is closed.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.next_of_past() {
                return Some(event);
            }
            match self.news.recv().await {
                Ok(event) if event.id > self.last_id => {
                    self.last_id = event.id;
                    return Some(event);
                }
                Ok(_) => {}
                // Missed events are read from the journal.
                Err(RecvError::Lagged(_)) => self.is_behind = true,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    fn next_of_past(&mut self) -> Option<Event> {
        if self.past.is_empty() && self.is_behind {
            self.past = self.journal.since(self.last_id, AT_ONCE).into();
            self.is_behind = self.past.len() == AT_ONCE;
        }
        let event = self.past.pop_front()?;
        self.last_id = event.id;
        Some(event)
    }
}
