//! Runs the same work on many jobs on all CPUs.

use std::{
    num::NonZero,
    sync::{LazyLock, Mutex, PoisonError},
    thread,
};

/// Maximum number of threads; more would hardly be faster.
const MAX_THREADS: usize = 16;

static THREADS: LazyLock<usize> = LazyLock::new(|| {
    thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(MAX_THREADS)
});

/// Runs `work` on each job. Results are in no particular order.
pub(super) fn in_parallel<T: Send, R: Send>(jobs: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let threads = jobs.len().min(*THREADS);
    let jobs = Mutex::new(jobs.into_iter());
    let results = Mutex::new(Vec::new());
    // A statement of its own: the lock must not be held during the work.
    let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
    let drain = || {
        while let Some(job) = next() {
            let result = work(job);
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            results.push(result);
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            // If a thread can't be spawned, the others do its part.
            let _ = thread::Builder::new().spawn_scoped(scope, drain);
        }
        drain();
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_each_job_once() {
        for number in [0, 1, 2, 100] {
            let mut done = in_parallel((0..number).collect(), |job: u32| job * 2);
            done.sort_unstable();
            assert!(done.into_iter().eq((0..number).map(|job| job * 2)));
        }
    }
}
