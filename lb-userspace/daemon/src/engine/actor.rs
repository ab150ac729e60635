//! The task itself: takes one thing after the other, and what every part of it works on.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Result;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tracing::error;

use super::{
    EngineError, EngineResult, Options,
    checks::Checks,
    command::{Command, Progress, Reply},
    data_path::DriftCheck,
    locks::BpffsLock,
    observe::Observer,
    publisher::Publisher,
    routes::Said,
    shares::Watch,
    trial::Trial,
};
use crate::{
    alerts::Alerts,
    clock,
    events::{Entry, Journal},
    health::HealthChange,
    metrics::Facts,
    nexthop::{NextHops, Resolver},
    reconciler::{Reconciler, lock::Lock},
    revision::{Revision, RevisionNumber, Store},
    traffic::Recorder,
};
use lb_dataplane::{
    Dataplane, MOST_SPARE_IMAGES, SPARE_IMAGES,
    explain::{self, Explanation, Sources},
};
use lb_model::config::Config;

const TICK: Duration = Duration::from_secs(1);

/// Images of rings that are created in a tick, at most.
const IMAGES_A_TICK: usize = 4;

/// How long changes of health are gathered before they become one change of the rings.
const GATHER: Duration = Duration::from_millis(3);

/// What is in force.
pub(super) struct Running {
    /// Its revision; none until the first is written.
    pub(super) number: Option<RevisionNumber>,
    pub(super) config: Config,
    pub(super) text: String,
    pub(super) base: PathBuf,
    /// SHA-256 of the configuration file as it was last taken over.
    pub(super) file_digest: Option<String>,
}

pub(super) struct Actor {
    pub(super) options: Options,
    pub(super) running: Running,
    pub(super) dataplane: Dataplane,
    pub(super) reconciler: Reconciler,
    pub(super) resolver: Resolver,
    pub(super) routes: watch::Receiver<NextHops>,
    pub(super) said: Said,
    pub(super) store: Store,
    pub(super) checks: Checks,
    pub(super) trial: Option<Trial>,
    pub(super) watch: Watch,
    pub(super) journal: Journal,
    pub(super) recorder: Recorder,
    pub(super) observer: Observer,
    pub(super) drift_check: DriftCheck,
    /// Whether the program of this process is on the interfaces.
    pub(super) attached: bool,
    pub(super) publisher: Publisher,
    pub(super) alerts: Alerts,
    pub(super) facts: watch::Sender<Arc<Facts>>,
    /// Held to the end.
    pub(super) _lock: Lock,
    pub(super) bpffs_lock: BpffsLock,
}

/// Where things come in.
pub(super) struct Inbox {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) health: mpsc::UnboundedReceiver<HealthChange>,
    pub(super) stop: Arc<Notify>,
}

impl Actor {
    /// Works until it is told to stop. Says whether forwarding goes on then.
    ///
    /// # Errors
    ///
    /// The resolver of next hops ended, without which the tables can't be kept up.
    pub(super) async fn run(mut self, mut inbox: Inbox) -> Result<bool> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut gathered = Vec::new();
        let mut flush_at = None;
        loop {
            let flush = sleep_until(flush_at.unwrap_or_else(Instant::now));
            tokio::select! {
                biased;
                Some(change) = inbox.health.recv() => {
                    flush_at.get_or_insert_with(|| Instant::now() + GATHER);
                    gathered.push(change);
                }
                () = flush, if flush_at.is_some() => {
                    flush_at = None;
                    self.health_changed(&std::mem::take(&mut gathered));
                }
                changed = self.routes.changed() => match changed {
                    Ok(()) => self.routes_changed(),
                    Err(_) => anyhow::bail!("the resolver of next hops ended"),
                },
                Some(command) = inbox.commands.recv() => self.handle(command),
                _ = ticks.tick() => self.tick(),
                () = inbox.stop.notified() => break,
            }
        }
        Ok(self.finish())
    }

    /// What is known only here is written down.
    fn finish(self) -> bool {
        let goes_on = self.outlives_us();
        let ended = if goes_on {
            "the controller ends; forwarding goes on"
        } else {
            "the controller ends, and forwarding with it"
        };
        self.note(Entry::new("start", ended));
        if let Err(error) = self.recorder.finish() {
            tracing::warn!(%error, "the totals of the traffic can't be written down");
        }
        if let Err(error) = self.alerts.finish() {
            tracing::warn!(%error, "the alerts can't be written down");
        }
        goes_on
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Plan(change, force, reply) => {
                send(reply, self.plan_request(&change, &force));
            }
            Command::Prepare(change, reply) => {
                send(reply, self.prepare(&change));
            }
            Command::Apply(request, prepared, caller, reply) => {
                send(reply, self.apply_request(*request, *prepared, &caller));
            }
            Command::Confirm(revision, caller, reply) => {
                send(reply, self.confirm(revision, &caller));
            }
            Command::Rollback(revision, why, prepared, caller, reply) => {
                let rolled_back = self.rollback(revision, why.as_deref(), prepared, &caller);
                send(reply, rolled_back);
            }
            Command::PrepareReload(reply) => send(reply, self.prepare_reload()),
            Command::Reload(prepared, reply) => send(reply, self.reload(*prepared)),
            Command::Explain(flow, syn, reply) => {
                send(reply, self.explain(&flow, syn));
            }
            Command::Revisions(reply) => {
                let records = self.store.list().map(|record| record.info.clone());
                send(reply, Ok(records.collect()));
            }
            Command::Revision(number, reply) => send(reply, self.show(number)),
            Command::Progress(number, reply) => send(reply, self.progress(number)),
            Command::Diff(from, to, reply) => {
                let diff = self.store.diff(from, to);
                send(reply, diff.map_err(EngineError::from));
            }
        }
    }

    fn explain(&self, flow: &str, syn: bool) -> EngineResult<Explanation> {
        let sources = Sources {
            tables: (&self.dataplane).into(),
            names: &self.reconciler,
            ingress: None,
        };
        Ok(explain::explain(flow, syn, &sources)?)
    }

    fn show(&self, number: Option<RevisionNumber>) -> EngineResult<Revision> {
        let nothing = || EngineError::NotFound("no revision is in force yet".into());
        let number = match number {
            Some(number) => number,
            None => self.running.number.ok_or_else(nothing)?,
        };
        Ok(self.store.get(number)?)
    }

    fn progress(&self, number: RevisionNumber) -> EngineResult<Progress> {
        let record = self.store.record(number)?;
        let trial = self.trial.as_ref().filter(|trial| trial.number == number);
        Ok(Progress {
            revision: record.info.clone(),
            remaining_s: trial.map_or(0.0, |trial| trial.remaining_s(super::now())),
            notes: trial.map_or_else(Vec::new, Trial::notes),
        })
    }

    /// Follows the system's clock. When that was set, everything that is to last lasts as long as it
    /// was to.
    fn follow_clock(&mut self) {
        let Some(by) = clock::follow() else { return };
        tracing::warn!(
            seconds = by.as_secs_f64(),
            "the system's clock was set: deadlines and silences are moved with it"
        );
        self.move_trial(by);
        self.alerts.clock_was_set(by);
        self.watch.changes.move_by(by);
        self.observer.move_by(by);
        self.recorder.traffic().lock().move_by(by);
    }

    /// To be done about every second.
    fn tick(&mut self) {
        self.follow_clock();
        let before = self.reconciler.member_count();
        let ticked = self
            .dataplane
            .now_s()
            .map_err(crate::reconciler::ReconcilerError::from)
            .and_then(|now_s| self.reconciler.tick(&mut self.dataplane, now_s));
        match ticked {
            Ok(tick) => {
                if tick.slots_settled + tick.slots_cleaned + tick.members_gone > 0 {
                    tracing::info!(
                        settled = tick.slots_settled,
                        cleaned = tick.slots_cleaned,
                        members_gone = tick.members_gone,
                        "transitions ended"
                    );
                }
            }
            Err(error) => error!(%error, "the tables can't be kept up"),
        }
        if self.reconciler.member_count() != before {
            self.follow_backends([]);
        }
        if self.said.stale.is_some() {
            self.routes_changed();
        }
        self.tick_checks();
        self.make_ready();
        self.tick_data_path();
        self.count();
        self.watch_shares();
        self.tick_trial();
        self.publish_with_alerts();
        self.keep_awake();
    }

    /// Has images of rings ready, so that the next change need not wait for a grace period: one for each
    /// VIP, since a server that fails may be a backend of all of them.
    fn make_ready(&mut self) {
        let vips = self.running.config.vips.len();
        let wanted = vips.clamp(SPARE_IMAGES, MOST_SPARE_IMAGES);
        if let Err(error) = self.dataplane.rings.approach(wanted, IMAGES_A_TICK) {
            error!(%error, "no ring can be made ready for the next change");
        }
    }

    /// Tells a service manager that asked for it that the actor is alive.
    fn keep_awake(&self) {
        use crate::reconciler::system;
        if system::wants_watchdog()
            && let Err(error) = system::notify("WATCHDOG=1\n")
        {
            tracing::warn!(%error, "telling the service manager failed");
        }
    }

    pub(super) fn note(&self, entry: Entry) {
        self.journal.append(super::now(), entry);
    }
}

fn send<T>(reply: Reply<T>, result: EngineResult<T>) {
    // The caller may have gone.
    let _ = reply.send(result);
}
