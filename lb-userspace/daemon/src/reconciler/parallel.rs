//! The same work on many things, by all processors.

use std::{
    num::NonZero,
    sync::{LazyLock, Mutex, PoisonError},
    thread,
};

/// Threads that work at most; more would hardly be faster, and others are there too.
const MOST: usize = 16;

static THREADS: LazyLock<usize> = LazyLock::new(|| {
    thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(MOST)
});

/// Does `work` on each job. The results come in any order.
pub(super) fn in_parallel<T: Send, R: Send>(jobs: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let threads = jobs.len().min(*THREADS);
    let jobs = Mutex::new(jobs.into_iter());
    let results = Mutex::new(Vec::new());
    // Of two statements, so that the lock is not held while one works.
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
            // One that can't be had leaves more to the others.
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
    fn each_job_is_done_once() {
        for number in [0, 1, 2, 100] {
            let mut done = in_parallel((0..number).collect(), |job: u32| job * 2);
            done.sort_unstable();
            assert!(done.into_iter().eq((0..number).map(|job| job * 2)));
        }
    }
}
