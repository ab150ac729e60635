//! The actor: handles commands, health changes, next hops and ticks one after the other, and owns the
//! parts that they work on.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Result;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tracing::{error, info, warn};

use super::{
    EngineError, EngineResult, Options,
    command::{Command, Progress, Reply},
    data_path::DriftCheck,
    health_intake::HealthIntake,
    locks::BpffsLock,
    observe::Observer,
    publisher::Publisher,
    routes::RouteMonitor,
    run::notify_manager,
    shares::ShareMonitor,
    trial::Trial,
};
use crate::{
    clock,
    events::{Entry, Journal},
    health::HealthChange,
    reconciler::{Reconciler, ReconcilerError, lock::Lock, system},
    revision::{Revision, RevisionNumber, Store},
    traffic::Recorder,
};
use lb_dataplane::{
    Dataplane, MOST_SPARE_IMAGES, SPARE_IMAGES,
    explain::{self, Explanation, Sources},
};
use lb_model::config::Config;

const TICK: Duration = Duration::from_secs(1);

/// Ring images created per tick, at most.
const IMAGES_PER_TICK: usize = 4;

/// Debounce window: changes of health within it become one update of the rings.
const DEBOUNCE: Duration = Duration::from_millis(3);

/// The active configuration.
pub(super) struct Running {
    /// None until the first revision is written.
    pub(super) number: Option<RevisionNumber>,
    pub(super) config: Config,
    pub(super) text: String,
    pub(super) base: PathBuf,
    /// SHA-256 of the configuration file when it was last applied.
    pub(super) file_digest: Option<String>,
}

pub(super) struct Actor {
    pub(super) options: Options,
    pub(super) running: Running,
    pub(super) dataplane: Dataplane,
    pub(super) reconciler: Reconciler,
    pub(super) routes: RouteMonitor,
    pub(super) store: Store,
    pub(super) health: HealthIntake,
    pub(super) trial: Option<Trial>,
    pub(super) shares: ShareMonitor,
    pub(super) journal: Journal,
    pub(super) recorder: Recorder,
    pub(super) observer: Observer,
    pub(super) drift_check: DriftCheck,
    /// Whether the program is attached to the interfaces.
    pub(super) attached: bool,
    pub(super) publisher: Publisher,
    pub(super) _lock: Lock,
    pub(super) bpffs_lock: BpffsLock,
}

/// The actor's input besides next hops.
pub(super) struct Inbox {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) health: mpsc::UnboundedReceiver<HealthChange>,
    pub(super) stop: Arc<Notify>,
}

impl Actor {
    /// Runs until it is stopped. Returns whether the data path keeps forwarding.
    ///
    /// # Errors
    ///
    /// The resolver of next hops ended.
    pub(super) async fn run(mut self, mut inbox: Inbox) -> Result<bool> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut health_changes = Vec::new();
        let mut flush_at = None;
        loop {
            let flush = sleep_until(flush_at.unwrap_or_else(Instant::now));
            tokio::select! {
                biased;
                Some(change) = inbox.health.recv() => {
                    flush_at.get_or_insert_with(|| Instant::now() + DEBOUNCE);
                    health_changes.push(change);
                }
                () = flush, if flush_at.is_some() => {
                    flush_at = None;
                    self.health_changed(&std::mem::take(&mut health_changes));
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

    /// Saves what is only in memory. Returns whether the data path keeps forwarding.
    fn finish(self) -> bool {
        let keeps_forwarding = self.outlives_us();
        let ended = if keeps_forwarding {
            "controller stopped; the data path keeps forwarding"
        } else {
            "controller stopped, and forwarding with it"
        };
        self.note(Entry::new("start", ended));
        if let Err(error) = self.recorder.finish() {
            warn!(%error, "can't save the traffic totals");
        }
        if let Err(error) = self.publisher.finish() {
            warn!(%error, "can't save the alerts");
        }
        keeps_forwarding
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
        let nothing = || EngineError::NotFound("there is no active revision yet".into());
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

    /// Follows the system clock. When it was set, all deadlines keep their distance.
    fn follow_clock(&mut self) {
        let Some(by) = clock::follow() else { return };
        warn!(
            seconds = by.as_secs_f64(),
            "the system clock was set: deadlines and silences move with it"
        );
        self.move_trial(by);
        self.publisher.clock_was_set(by);
        self.shares.changes.move_by(by);
        self.observer.move_by(by);
        self.recorder.traffic().lock().move_by(by);
    }

    /// Runs every second.
    fn tick(&mut self) {
        self.follow_clock();
        let before = self.reconciler.member_count();
        let ticked = self
            .dataplane
            .now_s()
            .map_err(ReconcilerError::from)
            .and_then(|now_s| self.reconciler.tick(&mut self.dataplane, now_s));
        match ticked {
            Ok(tick) => {
                if tick.slots_settled + tick.slots_cleaned + tick.members_gone > 0 {
                    info!(
                        settled = tick.slots_settled,
                        cleaned = tick.slots_cleaned,
                        members_gone = tick.members_gone,
                        "transitions ended"
                    );
                }
            }
            Err(error) => error!(%error, "can't maintain the maps"),
        }
        if self.reconciler.member_count() != before {
            self.follow_backends([]);
        }
        if self.routes.is_stale() {
            self.routes_changed();
        }
        self.tick_health();
        self.prepare_rings();
        self.tick_data_path();
        self.count();
        self.tick_shares();
        self.tick_trial();
        self.publish_with_alerts();
        self.ping_watchdog();
    }

    /// Prepares ring images, so that the next change need not wait for a grace period: one per VIP,
    /// because a server that fails may be a backend of all of them.
    fn prepare_rings(&mut self) {
        let vips = self.running.config.vips.len();
        let wanted = vips.clamp(SPARE_IMAGES, MOST_SPARE_IMAGES);
        if let Err(error) = self.dataplane.rings.approach(wanted, IMAGES_PER_TICK) {
            error!(%error, "can't prepare a ring for the next change");
        }
    }

    fn tick_shares(&mut self) {
        let report = self.reconciler.report();
        let notes = self.shares.tick(
            &mut self.dataplane,
            &self.running.config,
            &report,
            &self.recorder.traffic(),
        );
        for note in notes {
            self.note(note);
        }
    }

    /// Tells the service manager, if it asked for it, that the actor makes progress.
    fn ping_watchdog(&self) {
        if system::wants_watchdog() {
            notify_manager(
                "WATCHDOG=1
",
            );
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
