//! Waits for a condition by polling, with a deadline.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::interrupt;

/// Polling interval. Short, because most things in the lab are ready within milliseconds.
const INTERVAL: Duration = Duration::from_millis(5);

/// Polls until `check` returns `Some`, and fails after `limit` with an error that contains `what`.
///
/// An error of `check` ends the polling: the condition can't be met any more. So does a signal:
/// [`interrupt::catch`].
pub fn poll<T>(
    what: &str,
    limit: Duration,
    mut check: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        interrupt::check()?;
        if let Some(value) = check()? {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("timed out after {limit:?}: {what}");
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Waits for this time. Fails at a signal.
pub fn pause(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    until("the pause is over", time * 2, || Ok(Instant::now() >= end))
}

/// Like [`poll`], for a condition.
pub fn until(what: &str, limit: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    poll(what, limit, || Ok(holds()?.then_some(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_condition_that_timed_out() {
        let error = until("pigs fly", Duration::from_millis(20), || Ok(false)).unwrap_err();
        assert!(error.to_string().contains("pigs fly"), "{error}");
    }

    #[test]
    fn stops_at_an_error() {
        let start = Instant::now();
        let outcome = until("never", Duration::from_secs(60), || bail!("it is dead"));
        assert_eq!(outcome.unwrap_err().to_string(), "it is dead");
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}
