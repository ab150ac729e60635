//! The runner: a task for every target, which probes, asks its judge, tells, and sleeps.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
    time::Instant,
};

use super::{
    HealthChange, HealthStatus, Target,
    judge::{Judge, Rules, Verdict, first_delay},
    probe::{Failure, Probe, TlsConfigs},
    random::Random,
};
use crate::clock;
use lb_model::MemberRef;

/// Checks begin at multiples of this, so that those which are due at about the same time share what it costs to
/// wake up. Far below every interval.
const BEAT: Duration = Duration::from_millis(10);

type Shared = Arc<Mutex<Known>>;

/// What is known about a target.
#[derive(Debug)]
struct Known {
    /// As of now, but for the time.
    status: HealthStatus,
    /// Since when it is up or down. Clocks may be set: this one may not.
    since: Instant,
}

impl Known {
    fn status(&self) -> HealthStatus {
        HealthStatus {
            since: clock::at(self.since.into_std()),
            ..self.status.clone()
        }
    }
}

/// The checks that run. They end when it is dropped.
#[derive(Debug)]
pub struct Health {
    changes: mpsc::UnboundedSender<HealthChange>,
    seed: u64,
    tls: Arc<TlsConfigs>,
    /// When the first beat was.
    began: Instant,
    watched: BTreeMap<MemberRef, Watched>,
}

/// A target, and the task that checks it.
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
    /// Begins, with nothing to check yet. The receiver gets every change at once, in order; a change of a
    /// target that has been taken away since may still be among them.
    ///
    /// Checks run as tasks of the runtime that is current when [`Health::set_targets`] is called, in the
    /// network namespace of its threads. `seed` decides the jitter.
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

    /// Sets what is checked. Targets that stay (the same names, addresses and ports) keep their state,
    /// also when the way they are checked changes; those that are gone are forgotten.
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
        let status = HealthStatus {
            healthy: target.initial,
            since: clock::at(started.into_std()),
            last_ok: None,
            last_error: None,
            latency_ms: None,
            damped: false,
        };
        let status = Arc::new(Mutex::new(Known {
            status,
            since: started,
        }));
        let mut hasher = DefaultHasher::new();
        (self.seed, &target.vip, &target.backend).hash(&mut hasher);
        let judge = Judge::new(target.initial);
        let (sender, receiver) = watch::channel(Arc::new(target));
        let watcher = Watcher {
            target: receiver,
            judge,
            random: Random::new(hasher.finish()),
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

    /// What is known about a backend of a VIP; `None` when it is not checked.
    #[must_use]
    pub fn status(&self, vip: &str, backend: &str) -> Option<HealthStatus> {
        let watched = self.watched.get(&MemberRef::new(vip, backend))?;
        Some(lock(&watched.status).status())
    }

    /// How long a backend of a VIP has been up or down; `None` when it is not checked.
    #[must_use]
    pub fn known_for(&self, member: &MemberRef) -> Option<Duration> {
        let watched = self.watched.get(member)?;
        Some(lock(&watched.status).since.elapsed())
    }

    /// What is known about all, by VIP and backend.
    #[must_use]
    pub fn statuses(&self) -> BTreeMap<MemberRef, HealthStatus> {
        let each = self.watched.iter();
        each.map(|(name, watched)| (name.clone(), lock(&watched.status).status()))
            .collect()
    }
}

fn lock(status: &Shared) -> MutexGuard<'_, Known> {
    // Whoever panicked while it held the lock left whole values.
    status.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The task of one target.
struct Watcher {
    target: watch::Receiver<Arc<Target>>,
    judge: Judge,
    random: Random,
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
            let delay = first_delay(&rules, self.judge.is_healthy(), &mut self.random);
            let mut next = Instant::now() + delay;
            // With this probe, until the way that the target is checked changes.
            loop {
                tokio::select! {
                    () = tokio::time::sleep_until(beat(self.began, next)) => {}
                    changed = self.target.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                }
                let begun = Instant::now();
                let result = probe.run().await;
                self.conclude(&target, &rules, begun.elapsed(), result.err());
                next = begun + self.judge.interval(&rules, self.random.fraction());
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
        // First the status, so that whoever hears of the change finds it there.
        let mut known = lock(&self.status);
        let status = &mut known.status;
        status.last_ok = Some(ok);
        status.latency_ms = Some(took.as_secs_f64() * 1e3);
        status.damped = self.judge.is_damped();
        let why = why(rules, verdict, self.judge.is_damped(), error.as_deref());
        if error.is_some() {
            status.last_error = error;
        }
        if verdict != Verdict::Same {
            status.healthy = self.judge.is_healthy();
            known.since = now;
        }
        drop(known);
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
        // Nobody to tell: the controller is ending.
        let _ = self.changes.send(change);
    }
}

/// The first beat that is not before `time`.
fn beat(began: Instant, time: Instant) -> Instant {
    let beats = (time - began).as_nanos().div_ceil(BEAT.as_nanos());
    began + Duration::from_nanos((beats * BEAT.as_nanos()) as u64)
}

/// Why the state changed, if it did.
fn why(rules: &Rules, verdict: Verdict, damped: bool, error: Option<&str>) -> Option<String> {
    let checks = |number: u32| match number {
        1 => "1 check".to_owned(),
        more => format!("{more} checks in a row"),
    };
    let text = match verdict {
        Verdict::Same => return None,
        Verdict::Up => format!("{} succeeded", checks(rules.rise)),
        Verdict::Down => {
            let met = error.unwrap_or("no reason given");
            format!("{} failed: {met}", checks(rules.fall))
        }
    };
    Some(if damped {
        format!("{text}; held down for a while, since it goes up and down again and again")
    } else {
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_that_are_due_at_about_the_same_time_begin_together() {
        let began = Instant::now();
        let after = |nanoseconds| beat(began, began + Duration::from_nanos(nanoseconds)) - began;
        assert_eq!(after(0), Duration::ZERO);
        assert_eq!(after(1), BEAT);
        assert_eq!(after(10_000_000), BEAT);
        assert_eq!(after(10_000_001), BEAT * 2);
        assert_eq!(beat(began + BEAT, began), began + BEAT);
    }
}
