//! Runs a task for each target, which probes at intervals and reports changes.

mod burst;

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    mem,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::FutureExt as _;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::AbortHandle,
    time::Instant,
};

use tracing::warn;

use super::{
    HealthChange, HealthStatus, Target,
    judge::{Judge, Rules, Verdict, first_delay},
    probe::{self, Failure, Fault, Passed, Probe},
};
use crate::nexthop::{NextHopState, UnresolvedReason};
use burst::{BURSTS, Occasion};
use lb_model::{MemberRef, config::HealthKind, text::excerpt};

/// Checks start at multiples of this, so that checks due at about the same time share a wake-up. Far
/// below every interval.
const TICK: Duration = Duration::from_millis(10);

/// Characters of a reason that are kept: it may quote the backend.
const LONGEST_REASON: usize = 500;

/// After "port unreachable", silence counts as the same for this long: a host sends few of them, which
/// packets of clients and checks of other ports use up.
const REFUSED_FOR: Duration = Duration::from_secs(30);
/// And for so many checks.
const REFUSED_CHECKS: u32 = 10;

/// For this long, no link or no route to a backend is a fault of this node, and says nothing about the
/// backend. Later it does not matter whose fault it is: the node cannot forward to it.
const CUT_OFF_FOR: Duration = Duration::from_secs(10);

/// [`HealthStatus::inconclusive`] of a check that waits for an error only.
pub const SILENT: &str = "no reply and no error, so that this check cannot tell whether the backend serves: set \
                      `send`";

type Status = Arc<Mutex<HealthStatus>>;

/// The running checks. They end when this is dropped.
#[derive(Debug)]
pub struct Health {
    changes: mpsc::UnboundedSender<HealthChange>,
    /// Changed when any check says something new: see [`HealthStatus::says`].
    news: watch::Sender<()>,
    seed: u64,
    shared: Arc<probe::Shared>,
    /// The first tick.
    began: Instant,
    watched: BTreeMap<MemberRef, Watched>,
}

/// A target and the task that checks it.
#[derive(Debug)]
struct Watched {
    target: watch::Sender<Arc<Target>>,
    status: Status,
    /// Has the checks hurry.
    hurry: Arc<Notify>,
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
    pub fn start(
        seed: u64,
        shared: probe::Shared,
    ) -> (Self, mpsc::UnboundedReceiver<HealthChange>) {
        let (changes, receiver) = mpsc::unbounded_channel();
        let health = Self {
            changes,
            news: watch::Sender::default(),
            seed,
            shared: Arc::new(shared),
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
            uncertain: false,
            since: started.into_std(),
            last_ok: None,
            last_error: None,
            last_cause: None,
            inconclusive: None,
            latency: None,
            damped: false,
        }));
        let mut hasher = DefaultHasher::new();
        (self.seed, &target.vip, &target.backend).hash(&mut hasher);
        let judge = Judge::new(target.initial);
        let hurry = Arc::new(Notify::new());
        let (sender, receiver) = watch::channel(Arc::new(target));
        let watcher = Watcher {
            target: receiver,
            judge,
            random: SmallRng::seed_from_u64(hasher.finish()),
            status: Arc::clone(&status),
            changes: self.changes.clone(),
            news: self.news.clone(),
            hurry: Arc::clone(&hurry),
            hurried: [None; BURSTS],
            shared: Arc::clone(&self.shared),
            began: self.began,
            started,
            refused: None,
            cut_off: None,
        };
        Watched {
            target: sender,
            status,
            hurry,
            task: tokio::spawn(watcher.run()).abort_handle(),
        }
    }

    /// Returns how long a member has been up or down; `None` if it is not checked.
    #[must_use]
    pub fn known_for(&self, member: &MemberRef) -> Option<Duration> {
        let watched = self.watched.get(member)?;
        Some(lock(&watched.status).since.elapsed())
    }

    /// Changes when any check says something new.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// Checks a member now, as often as a verdict needs: there is a hint that its state has changed.
    pub fn hurry(&self, member: &MemberRef) {
        if let Some(watched) = self.watched.get(member) {
            watched.hurry.notify_one();
        }
    }

    #[must_use]
    pub fn statuses(&self) -> BTreeMap<MemberRef, HealthStatus> {
        let each = self.watched.iter();
        each.map(|(name, watched)| (name.clone(), lock(&watched.status).clone()))
            .collect()
    }
}

fn lock(status: &Status) -> MutexGuard<'_, HealthStatus> {
    // A panic while the lock was held left valid values.
    status.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The task of one target.
struct Watcher {
    target: watch::Receiver<Arc<Target>>,
    judge: Judge,
    random: SmallRng,
    status: Status,
    changes: mpsc::UnboundedSender<HealthChange>,
    news: watch::Sender<()>,
    hurry: Arc<Notify>,
    /// When checks hurried, the last time first.
    hurried: [Option<Instant>; BURSTS],
    shared: Arc<probe::Shared>,
    began: Instant,
    started: Instant,
    /// The last "port unreachable", when it arrived, and the number of silent checks since.
    refused: Option<(Failure, Instant, u32)>,
    /// Since when this node has no link or route to the backend.
    cut_off: Option<Instant>,
}

impl Watcher {
    async fn run(mut self) {
        let mut target = Arc::clone(&self.target.borrow_and_update());
        loop {
            let rules = Rules::from(&*target.health);
            let probe = Probe::new(&target, &self.shared);
            // Tells a VIP's path that is broken from a backend that is.
            let direct = target.member.map(|_| {
                let member = None;
                Probe::new(
                    &Target {
                        member,
                        ..(*target).clone()
                    },
                    &self.shared,
                )
            });
            let delay = first_delay(&rules, self.judge.is_healthy(), self.random.random());
            let mut next = Instant::now() + delay;
            // Repeats this probe until the settings of the target change.
            loop {
                tokio::select! {
                    () = tokio::time::sleep_until(tick(self.began, next)) => {}
                    () = self.hurry.notified(), if self.may_hurry(&rules) => {
                        self.run_burst(&target, &rules, &probe, None).await;
                        next = Instant::now() + self.judge.interval(&rules, self.random.random());
                        continue;
                    }
                    changed = self.target.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                }
                let start = Instant::now();
                let mut check = pin!(probe.run());
                let result = tokio::select! {
                    result = &mut check => result,
                    () = self.hurry.notified(), if self.may_hurry(&rules) => {
                        let begun = Some((start, check.boxed()));
                        self.run_burst(&target, &rules, &probe, begun).await;
                        next = Instant::now() + self.judge.interval(&rules, self.random.random());
                        continue;
                    }
                };
                let result = self.weigh(&target, result);
                let took = start.elapsed();
                let is_down = self.conclude(&target, &rules, took, result, Occasion::Schedule);
                if let (true, Some(direct)) = (is_down, &direct)
                    && direct.run().await.is_ok()
                {
                    self.note_difference();
                }
                next = start + self.judge.interval(&rules, self.random.random());
            }
            target = Arc::clone(&self.target.borrow_and_update());
        }
    }

    /// Decides what a result says, with what is known from earlier checks and of the route.
    fn weigh(
        &mut self,
        target: &Target,
        result: Result<Passed, Failure>,
    ) -> Result<Passed, Failure> {
        let route = self.shared.next_hops.as_ref().and_then(|next_hops| {
            match next_hops.borrow().get(&target.address) {
                Some(NextHopState::Unresolved(reason)) => Some(reason.clone()),
                _ => None,
            }
        });
        let cannot_reach = |fault, reason: &UnresolvedReason| {
            let text = format!("cannot reach {}: {reason}", target.address);
            Failure::of(fault, text).without(&target.address.to_string())
        };
        let result = match (result, route) {
            (Ok(Passed::Reply), _) => Ok(Passed::Reply),
            (
                _,
                Some(
                    reason @ (UnresolvedReason::InterfaceDown { .. }
                    | UnresolvedReason::NoRoute { .. }),
                ),
            ) => Err(cannot_reach(Fault::Path, &reason)),
            (Ok(Passed::Silence), Some(reason @ UnresolvedReason::NoAnswer { .. })) => {
                Err(cannot_reach(Fault::Backend, &reason))
            }
            (result, _) => result,
        };
        let result = self.weigh_silence(target, result);
        match result {
            Err(failure) if failure.fault == Fault::Path => {
                let since = *self.cut_off.get_or_insert_with(Instant::now);
                let fault = if since.elapsed() < CUT_OFF_FOR {
                    Fault::Path
                } else {
                    Fault::Backend
                };
                Err(Failure { fault, ..failure })
            }
            result => {
                if !matches!(&result, Err(failure) if failure.fault == Fault::Node) {
                    self.cut_off = None;
                }
                result
            }
        }
    }

    /// One "port unreachable" outweighs the silence of several checks.
    fn weigh_silence(
        &mut self,
        target: &Target,
        result: Result<Passed, Failure>,
    ) -> Result<Passed, Failure> {
        if !matches!(target.health.kind, HealthKind::Udp { send: None, .. }) {
            return result;
        }
        match &result {
            Ok(Passed::Reply) => self.refused = None,
            Err(failure) if failure.fault == Fault::Backend => {
                self.refused = Some((failure.clone(), Instant::now(), 0));
            }
            Err(_) => {}
            Ok(Passed::Silence) => {
                if let Some((failure, at, silent)) = &mut self.refused {
                    *silent += 1;
                    if at.elapsed() < REFUSED_FOR || *silent <= REFUSED_CHECKS {
                        return Err(failure.clone().and(", and no reply since"));
                    }
                }
                self.refused = None;
            }
        }
        result
    }

    /// Records a result. Returns whether the backend is down and the check failed.
    fn conclude(
        &mut self,
        target: &Target,
        rules: &Rules,
        took: Duration,
        result: Result<Passed, Failure>,
        occasion: Occasion,
    ) -> bool {
        let now = Instant::now();
        let result = result.map_err(|failure| Failure {
            text: excerpt(&failure.text, LONGEST_REASON),
            cause: excerpt(&failure.cause, LONGEST_REASON),
            ..failure
        });
        let mut status = lock(&self.status);
        status.latency = Some(took);
        status.inconclusive = match &result {
            Ok(Passed::Reply) => None,
            Ok(Passed::Silence) => Some(SILENT.to_owned()),
            Err(failure) if failure.fault == Fault::Backend => None,
            Err(failure) => {
                if status.inconclusive.is_none() {
                    warn!(
                        vip = target.vip,
                        backend = target.backend,
                        why = failure.text,
                        "cannot check a backend; its state stays as it is"
                    );
                }
                status.inconclusive = Some(failure.text.clone());
                return false;
            }
        };
        let ok = result.is_ok();
        let said = status.says();
        let verdict = self.judge.observe(rules, now - self.started, ok);
        // The status first: a receiver of the change must find it there.
        status.last_ok = Some(ok);
        status.damped = self.judge.is_damped();
        let error = result.as_ref().err().map(|failure| failure.text.as_str());
        let why = why(rules, verdict, self.judge.is_damped(), error);
        if let Err(failure) = result {
            (status.last_error, status.last_cause) = (Some(failure.text), Some(failure.cause));
        }
        if verdict != Verdict::Same {
            status.healthy = self.judge.is_healthy();
            status.since = now.into_std();
        }
        // A hint must not cause hints.
        status.uncertain =
            self.judge.is_uncertain() && (status.uncertain || occasion == Occasion::Schedule);
        let is_news = status.says() != said;
        drop(status);
        if is_news {
            self.news.send_replace(());
        }
        if let Some(why) = why {
            // Fails only when the controller is shutting down.
            let _ = self.changes.send(HealthChange {
                vip: target.vip.clone(),
                backend: target.backend.clone(),
                healthy: self.judge.is_healthy(),
                damped: self.judge.is_damped(),
                why,
                at: now.into_std(),
            });
        }
        !ok && !self.judge.is_healthy()
    }

    /// The check through the VIP failed, and a direct one succeeded.
    fn note_difference(&self) {
        let mut status = lock(&self.status);
        let HealthStatus {
            last_error,
            last_cause,
            ..
        } = &mut *status;
        for text in [last_error, last_cause].into_iter().flatten() {
            text.push_str(DIFFERENCE);
        }
    }
}

/// What is wrong if only the check through the VIP fails.
const DIFFERENCE: &str = "; it answers directly, but not for the VIP: check that the VIP is on its loopback \
                          interface, that it decapsulates (`ipip`), and that rp_filter does not drop \
                          packets";

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
