//! Runs a task for each target, which probes at intervals and reports changes.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
    time::Instant,
};

use super::{
    HealthChange, HealthStatus, Target,
    judge::{Judge, Rules, Verdict, first_delay},
    probe::{Failure, Probe, TlsConfigs},
};
use lb_model::MemberRef;

/// Checks start at multiples of this, so that checks due at about the same time share a wake-up. Far
/// below every interval.
const TICK: Duration = Duration::from_millis(10);

type Shared = Arc<Mutex<HealthStatus>>;

/// The running checks. They end when this is dropped.
#[derive(Debug)]
pub struct Health {
    changes: mpsc::UnboundedSender<HealthChange>,
    seed: u64,
    tls: Arc<TlsConfigs>,
    /// The first tick.
    began: Instant,
    watched: BTreeMap<MemberRef, Watched>,
}

/// A target and the task that checks it.
#[derive(Debug)]
struct Watched {
    target: watch::Sender<Arc<Target>>,
    status: Shared,
    task: AbortHandle,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Health {
    /// Starts without targets. The receiver gets every change at once and in order, even of a target
    /// that has been removed since.
    ///
    /// Checks are tasks of the runtime that calls [`Health::set_targets`], in the network namespace of
    /// its threads. `seed` determines the jitter.
    #[must_use]
    pub fn start(seed: u64) -> (Self, mpsc::UnboundedReceiver<HealthChange>) {
        let (changes, receiver) = mpsc::unbounded_channel();
        let health = Self {
            changes,
            seed,
            tls: Arc::default(),
            began: Instant::now(),
            watched: BTreeMap::new(),
        };
        (health, receiver)
    }

    /// Sets the targets. Those with the same names, addresses and ports as before keep their state, even
    /// if their settings change; removed ones are forgotten.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn set_targets(&mut self, targets: Vec<Target>) {
        let mut before = mem::take(&mut self.watched);
        for target in targets {
            let name = MemberRef::new(&target.vip, &target.backend);
            let kept = before.remove(&name).filter(|watched| {
                let now = watched.target.borrow();
                now.is_same_server(&target)
            });
            let watched = match kept {
                Some(watched) => {
                    if **watched.target.borrow() != target {
                        watched.target.send_replace(Arc::new(target));
                    }
                    watched
                }
                None => self.watch(target),
            };
            self.watched.insert(name, watched);
        }
    }

    fn watch(&self, target: Target) -> Watched {
        let started = Instant::now();
        let status = Arc::new(Mutex::new(HealthStatus {
            healthy: target.initial,
            since: started.into_std(),
            last_ok: None,
            last_error: None,
            latency: None,
            damped: false,
        }));
        let mut hasher = DefaultHasher::new();
        (self.seed, &target.vip, &target.backend).hash(&mut hasher);
        let judge = Judge::new(target.initial);
        let (sender, receiver) = watch::channel(Arc::new(target));
        let watcher = Watcher {
            target: receiver,
            judge,
            random: SmallRng::seed_from_u64(hasher.finish()),
            status: Arc::clone(&status),
            changes: self.changes.clone(),
            tls: Arc::clone(&self.tls),
            began: self.began,
            started,
        };
        Watched {
            target: sender,
            status,
            task: tokio::spawn(watcher.run()).abort_handle(),
        }
    }

    /// Returns how long a member has been up or down; `None` if it is not checked.
    #[must_use]
    pub fn known_for(&self, member: &MemberRef) -> Option<Duration> {
        let watched = self.watched.get(member)?;
        Some(lock(&watched.status).since.elapsed())
    }

    #[must_use]
    pub fn statuses(&self) -> BTreeMap<MemberRef, HealthStatus> {
        let each = self.watched.iter();
        each.map(|(name, watched)| (name.clone(), lock(&watched.status).clone()))
            .collect()
    }
}

fn lock(status: &Shared) -> MutexGuard<'_, HealthStatus> {
    // A panic while the lock was held left valid values.
    status.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The task of one target.
struct Watcher {
    target: watch::Receiver<Arc<Target>>,
    judge: Judge,
    random: SmallRng,
    status: Shared,
    changes: mpsc::UnboundedSender<HealthChange>,
    tls: Arc<TlsConfigs>,
    began: Instant,
    started: Instant,
}

impl Watcher {
    async fn run(mut self) {
        let mut target = Arc::clone(&self.target.borrow_and_update());
        loop {
            let rules = Rules::from(&*target.health);
            let probe = Probe::new(&target, &self.tls);
            let delay = first_delay(&rules, self.judge.is_healthy(), self.random.random());
            let mut next = Instant::now() + delay;
            // Repeats this probe until the settings of the target change.
            loop {
                tokio::select! {
                    () = tokio::time::sleep_until(tick(self.began, next)) => {}
                    changed = self.target.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                }
                let start = Instant::now();
                let result = probe.run().await;
                self.conclude(&target, &rules, start.elapsed(), result.err());
                next = start + self.judge.interval(&rules, self.random.random());
            }
            target = Arc::clone(&self.target.borrow_and_update());
        }
    }

    fn conclude(
        &mut self,
        target: &Target,
        rules: &Rules,
        took: Duration,
        failure: Option<Failure>,
    ) {
        let ok = failure.is_none();
        let now = Instant::now();
        let verdict = self.judge.observe(rules, now - self.started, ok);
        let error = failure.map(|failure| failure.to_string());
        // The status first: a receiver of the change must find it there.
        let mut status = lock(&self.status);
        status.last_ok = Some(ok);
        status.latency = Some(took);
        status.damped = self.judge.is_damped();
        let why = why(rules, verdict, self.judge.is_damped(), error.as_deref());
        if error.is_some() {
            status.last_error = error;
        }
        if verdict != Verdict::Same {
            status.healthy = self.judge.is_healthy();
            status.since = now.into_std();
        }
        drop(status);
        let Some(why) = why else {
            return;
        };
        let change = HealthChange {
            vip: target.vip.clone(),
            backend: target.backend.clone(),
            healthy: self.judge.is_healthy(),
            damped: self.judge.is_damped(),
            why,
            at: now.into_std(),
        };
        // Fails only when the controller is shutting down.
        let _ = self.changes.send(change);
    }
}

/// Returns the first tick that is not before `time`.
fn tick(began: Instant, time: Instant) -> Instant {
    let ticks = (time - began).as_nanos().div_ceil(TICK.as_nanos());
    began + Duration::from_nanos((ticks * TICK.as_nanos()) as u64)
}

/// Returns why the state changed, if it did.
fn why(rules: &Rules, verdict: Verdict, damped: bool, error: Option<&str>) -> Option<String> {
    let checks = |number: u32| match number {
        1 => "1 check".to_owned(),
        more => format!("{more} consecutive checks"),
    };
    let text = match verdict {
        Verdict::Same => return None,
        Verdict::Up => format!("{} succeeded", checks(rules.rise)),
        Verdict::Down => {
            let error = error.unwrap_or("no reason given");
            format!("{} failed: {error}", checks(rules.fall))
        }
    };
    Some(if damped {
        format!("{text}; held down because it is flapping")
    } else {
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_start_at_ticks() {
        let began = Instant::now();
        let after = |nanoseconds| tick(began, began + Duration::from_nanos(nanoseconds)) - began;
        assert_eq!(after(0), Duration::ZERO);
        assert_eq!(after(1), TICK);
        assert_eq!(after(10_000_000), TICK);
        assert_eq!(after(10_000_001), TICK * 2);
        assert_eq!(tick(began + TICK, began), began + TICK);
    }
}
