//! Waiting for something to become true: often looked at, never for ever.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Time between two looks. Short, because most things in the lab are ready within milliseconds.
const INTERVAL: Duration = Duration::from_millis(5);

/// Looks until `look` gives `Some`, and fails after `limit` with what was waited for.
///
/// An error of `look` ends the waiting: it means that it can't become true any more.
pub fn poll<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = look()? {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("waited {limit:?} in vain: {what}");
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Like [`poll`], for a condition.
pub fn until(what: &str, limit: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    poll(what, limit, || Ok(holds()?.then_some(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_was_waited_for() {
        let error = until("pigs fly", Duration::from_millis(20), || Ok(false)).unwrap_err();
        assert!(error.to_string().contains("pigs fly"), "{error}");
    }

    #[test]
    fn an_error_ends_the_waiting_at_once() {
        let start = Instant::now();
        let outcome = until("never", Duration::from_secs(60), || bail!("it is dead"));
        assert_eq!(outcome.unwrap_err().to_string(), "it is dead");
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}
