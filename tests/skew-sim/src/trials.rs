//! Runs trials on all processors, and quantiles of their results.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// Calls `run` for every item, with its index. Results are in the order of the items.
///
/// # Panics
///
/// If `run` panics.
pub(super) fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    run: impl Fn(usize, &T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    let workers = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(number) else { break };
                    let result = run(number, item);
                    let mut results = results.lock().expect("no thread panicked");
                    results.push((number, result));
                }
            });
        }
    });
    let mut results = results.into_inner().expect("no thread panicked");
    results.sort_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Sorts detection times, seconds; missed faults (none) are last.
pub(super) fn sort(times_s: &mut [Option<f64>]) {
    let value = |time_s: &Option<f64>| time_s.unwrap_or(f64::INFINITY);
    times_s.sort_by(|a, b| value(a).total_cmp(&value(b)));
}

/// The smallest of the sorted times that a part of the trials does not exceed.
pub(super) fn quantile(times_s: &[Option<f64>], part: f64) -> Option<f64> {
    let place = (part * times_s.len() as f64).ceil() as usize;
    times_s[place.clamp(1, times_s.len()) - 1]
}
