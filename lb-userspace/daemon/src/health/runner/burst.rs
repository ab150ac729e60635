//! Checks that follow a hint.

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::Instant;

use super::{
    super::{
        Target,
        judge::Rules,
        probe::{Failure, Passed, Probe},
    },
    Watcher,
};

/// The most checks that follow a hint.
const LONGEST: u32 = 10;

/// Hints that are followed in as many intervals.
pub(super) const BURSTS: usize = 5;

/// Why a check was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occasion {
    Schedule,
    Hint,
}

type Result = std::result::Result<Passed, Failure>;

impl Watcher {
    /// Whether a hint is followed now: hints must not multiply the load of a backend that is overloaded.
    pub(super) fn may_hurry(&self, rules: &Rules) -> bool {
        // Some may follow each other: a backend that comes or goes causes several.
        let oldest = self.hurried[self.hurried.len() - 1];
        oldest.is_none_or(|at| at.elapsed() >= rules.interval * BURSTS as u32)
    }

    /// Starts as many checks as a verdict needs, `fast_interval` apart: none waits for the answer to the one
    /// before, which may be a timeout. `begun`: the check that was running, with its start.
    pub(super) async fn run_burst(
        &mut self,
        target: &Target,
        rules: &Rules,
        probe: &Probe,
        begun: Option<(Instant, BoxFuture<'_, Result>)>,
    ) {
        self.hurried.rotate_right(1);
        self.hurried[0] = Some(Instant::now());
        let mut checks = FuturesUnordered::new();
        if let Some((start, check)) = begun {
            let check = check.map(move |result| (Occasion::Schedule, start, result));
            checks.push(check.boxed());
        }
        for number in 0..rules.rise.max(rules.fall).min(LONGEST) {
            let check = async move {
                tokio::time::sleep(rules.fast_interval * number).await;
                let start = Instant::now();
                (Occasion::Hint, start, probe.run().await)
            };
            checks.push(check.boxed());
        }
        while let Some((occasion, start, result)) = checks.next().await {
            let result = self.weigh(target, result);
            self.conclude(target, rules, start.elapsed(), result, occasion);
            if self.target.has_changed().unwrap_or(true) {
                return;
            }
        }
    }
}
