//! The actor: passes commands, health changes, next hops and ticks to its parts, one after the other,
//! and what one part returns to the parts that follow it.

use std::{net::IpAddr, sync::Arc, time::Duration};

use anyhow::Result;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tracing::{error, warn};

use super::{
    EngineError, EngineResult,
    announce_watch::AnnounceWatch,
    capture::CaptureControl,
    change::{ChangeControl, Outcome},
    command::{Command, Reloaded, Reply, send},
    comparison::Comparison,
    data_path::DataPath,
    drift_check::DriftCheck,
    flows,
    health_intake::HealthIntake,
    import::summary,
    observe::Observer,
    publisher::Publisher,
    reports::Reports,
    request::Prepared,
    routes::backends_of,
    shares::ShareMonitor,
    votes::{FleetVotes, VOTE_AFTER},
};
use crate::{
    events::{Entry, Journal},
    health::HealthChange,
    metrics::Changes,
    reconciler::{Directory, lock::Lock, nat_sources},
    revision::{Revision, RevisionNumber},
    traffic::Recorder,
};
use lb_dataplane::explain::{self, Explanation, Sources};

const TICK: Duration = Duration::from_secs(1);

/// Debounce window: changes of health within it become one update of the rings.
const DEBOUNCE: Duration = Duration::from_millis(3);

pub(super) struct Actor {
    pub(super) changes: ChangeControl,
    pub(super) data_path: DataPath,
    pub(super) health: HealthIntake,
    pub(super) shares: ShareMonitor,
    pub(super) journal: Journal,
    pub(super) recorder: Recorder,
    pub(super) observer: Observer,
    pub(super) drift_check: DriftCheck,
    pub(super) capture: CaptureControl,
    pub(super) publisher: Publisher,
    pub(super) announce_watch: AnnounceWatch,
    pub(super) votes: FleetVotes,
    pub(super) comparison: Comparison,
    pub(super) reports: Arc<Reports>,
    /// What the tables hold, with the version of the reconciler's state.
    pub(super) directory: (u64, watch::Sender<Arc<Directory>>),
    /// Notified when a reload that waited may be repeated.
    pub(super) reload_due: Arc<Notify>,
    pub(super) _lock: Lock,
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
        let mut news = self.health.news();
        let reports = Arc::clone(&self.reports);
        let (mut vote_at, mut vote_pause) = (None, VOTE_AFTER);
        loop {
            let flush = sleep_until(flush_at.unwrap_or_else(Instant::now));
            let vote = sleep_until(vote_at.unwrap_or_else(Instant::now));
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
                Ok(()) = news.changed() => {
                    vote_at.get_or_insert_with(|| Instant::now() + vote_pause);
                }
                () = reports.changed() => {
                    vote_at.get_or_insert_with(|| Instant::now() + vote_pause);
                }
                () = vote, if vote_at.is_some() => {
                    vote_at = None;
                    vote_pause = self.vote();
                }
                changed = self.data_path.routes.changed() => match changed {
                    Ok(()) => self.routes_changed(),
                    Err(_) => anyhow::bail!("the resolver of next hops ended"),
                },
                _ = ticks.tick() => self.tick(),
                Some(command) = inbox.commands.recv() => self.handle(command),
                () = inbox.stop.notified() => break,
            }
            self.publish_directory();
        }
        // Nobody is answered from here on.
        drop(inbox);
        Ok(self.finish())
    }

    /// Saves what is only in memory. Returns whether the data path keeps forwarding.
    fn finish(mut self) -> bool {
        self.capture.finish(&mut self.data_path);
        let keeps_forwarding = self.data_path.outlives_us();
        let ended = if keeps_forwarding {
            "controller stopped; the data path keeps forwarding"
        } else {
            "controller stopped, and forwarding with it"
        };
        self.note(Entry::new("start", ended));
        self.changes.membership.finish();
        if let Err(error) = self.recorder.finish() {
            warn!(%error, "can't save the traffic totals");
        }
        if let Err(error) = self.publisher.finish() {
            warn!(%error, "can't save the alerts");
        }
        keeps_forwarding
    }

    fn handle(&mut self, command: Command) {
        let (changes, data_path) = (&mut self.changes, &mut self.data_path);
        match command {
            Command::Plan(change, force, reply) => {
                send(reply, changes.plan_request(data_path, &change, &force));
            }
            Command::Prepare(change, reply) => {
                let prepared = changes.prepare(data_path, &change);
                self.resolve(reply, prepared);
            }
            Command::PrepareReload(reply) => {
                let prepared = changes.prepare_reload();
                if let Err(error) = &prepared {
                    self.file_rejected(&error.to_string());
                }
                self.resolve(reply, prepared);
            }
            Command::Apply(request, prepared, caller, reply) => {
                let applied = changes.apply_request(data_path, *request, *prepared, &caller);
                self.finish_change(reply, applied);
            }
            Command::Confirm(revision, caller, reply) => {
                let confirmed = changes.confirm(revision, &caller);
                self.finish_change(reply, confirmed);
            }
            Command::Rollback(revision, why, prepared, caller, reply) => {
                let rolled_back =
                    changes.rollback(data_path, revision, why.as_deref(), prepared, &caller);
                self.finish_change(reply, rolled_back);
            }
            Command::Reload(prepared, wait, caller, reply) => {
                let reloaded = changes.reload(data_path, *prepared, wait, &caller);
                self.finish_reload(reply, reloaded);
            }
            Command::Explain(flow, syn, reply) => send(reply, self.explain(&flow, syn)),
            Command::Flows(vip, backend, reply) => {
                let flows = flows::sampled(data_path, vip.as_deref(), backend.as_deref());
                send(reply, flows);
            }
            Command::SuggestLimits(vip, reply) => {
                send(reply, changes.suggest_limits(vip.as_deref()));
            }
            Command::Revisions(reply) => {
                let records = changes.store.list().map(|record| record.info.clone());
                send(reply, Ok(records.collect()));
            }
            Command::Revision(number, reply) => send(reply, self.show(number)),
            Command::Progress(number, reply) => send(reply, changes.progress(number)),
            Command::Diff(from, to, reply) => {
                let diff = changes.store.diff(from, to);
                send(reply, diff.map_err(EngineError::from));
            }
            Command::DiffFile(reply) => send(reply, changes.diff_file()),
            Command::Capture(command) => self.handle_capture(command),
            Command::Fleet(command) => self.handle_fleet(command),
            Command::Membership(command) => self.handle_membership(command),
        }
    }

    fn finish_reload(&mut self, reply: Reply<Reloaded>, reloaded: EngineResult<Reloaded>) {
        self.follow_changes();
        match &reloaded {
            Err(error @ (EngineError::Refused { .. } | EngineError::InvalidConfig(_))) => {
                self.file_rejected(&error.to_string());
            }
            Ok(Reloaded {
                waits_for: Some(change),
                ..
            }) => {
                let words = format!("reload waits for revision {}", change.revision.number);
                self.note(Entry::new("revision", words));
            }
            _ => {}
        }
        send(reply, reloaded);
    }

    /// Reports that the configuration file could not be applied.
    pub(super) fn file_rejected(&mut self, why: &str) {
        let running = self.changes.running.number.unwrap_or(0);
        let what = "configuration file rejected; still running";
        error!(revision = running, "{what} revision {running}: {why}");
        let words = format!("{what} revision {running}: {}", summary(why));
        self.note(Entry::new("revision", words));
        self.changes.compare_file();
        self.publish();
    }

    /// Has the next hops of a prepared change resolved.
    fn resolve(&mut self, reply: Reply<Box<Prepared>>, prepared: EngineResult<Box<Prepared>>) {
        match &prepared {
            Ok(prepared) => self.follow_backends(prepared.backends()),
            Err(EngineError::InvalidConfig(_)) => {
                self.publisher.count_change(|changes| changes.invalid += 1);
            }
            Err(_) => {}
        }
        send(reply, prepared);
    }

    pub(super) fn finish_change<T>(&mut self, reply: Reply<T>, result: EngineResult<T>) {
        self.follow_changes();
        send(reply, result);
    }

    /// Passes what has happened to changes to the parts that follow the active configuration.
    pub(super) fn follow_changes(&mut self) {
        for outcome in std::mem::take(&mut self.changes.outcomes) {
            let (count, kind, words): (fn(&mut Changes), _, _) = match outcome {
                Outcome::Unchanged => {
                    let count = |changes: &mut Changes| changes.unchanged += 1;
                    self.publisher.count_change(count);
                    continue;
                }
                Outcome::Refused => {
                    self.publisher.count_change(|changes| changes.refused += 1);
                    continue;
                }
                Outcome::Settled(words) => (|_| {}, "revision", words),
                Outcome::Failed { number, why } => {
                    self.follow_backends([]);
                    let words =
                        format!("revision {number} failed, the previous one stays active: {why}");
                    (|changes| changes.failed += 1, "revision", words)
                }
                Outcome::Applied { info, plan } => {
                    let number = info.number;
                    self.follow_config();
                    self.shares.changed(number, &plan);
                    let words =
                        format!("revision {number} is active: {} by {}", info.how, info.who);
                    (|changes| changes.applied += 1, "revision", words)
                }
                Outcome::RolledBack { number, to, why } => {
                    self.follow_config();
                    self.shares.changes.forget(number);
                    let words = format!("revision {number} was rolled back to {to}: {why}");
                    (|changes| changes.rolled_back += 1, "rollback", words)
                }
            };
            self.changes.compare_file();
            self.drift_check.installed();
            self.publisher.count_change(count);
            self.note(Entry::new(kind, words));
            self.publish();
        }
    }

    /// Passes the active configuration to the parts that depend on it.
    pub(super) fn follow_config(&mut self) {
        self.follow_backends([]);
        self.follow_targets();
        let changes = &mut self.changes;
        changes.membership.follow(&changes.running.config);
        let config = &changes.running.config;
        self.publisher.configure(config);
        self.announce_watch.configure(config);
        for warning in nat_sources::warnings(config) {
            warn!("{warning}");
        }
    }

    /// Resolves the backends of the running configuration, those that are leaving, and those of changes
    /// in preparation, to which it adds `expected`.
    pub(super) fn follow_backends(&mut self, expected: impl IntoIterator<Item = IpAddr>) {
        let mut backends = self.data_path.reconciler.backends();
        backends.extend(backends_of(&self.changes.running.config));
        self.data_path.routes.follow(backends, expected);
    }

    pub(super) fn routes_changed(&mut self) {
        self.data_path.update_routes();
        self.follow_probe_interfaces();
    }

    /// Fails a change on trial at once if one of its backends went down.
    pub(super) fn judge_members(&mut self) {
        self.changes.judge_members(&mut self.data_path);
        self.follow_changes();
    }

    pub(super) fn explain(&self, flow: &str, syn: bool) -> EngineResult<Explanation> {
        let sources = Sources {
            tables: (&self.data_path.dataplane).into(),
            names: &self.data_path.reconciler,
            ingress: None,
        };
        Ok(explain::explain(flow, syn, &sources)?)
    }

    fn show(&self, number: Option<RevisionNumber>) -> EngineResult<Revision> {
        let nothing = || EngineError::NotFound("there is no active revision yet".into());
        let number = match number {
            Some(number) => number,
            None => self.changes.running.number.ok_or_else(nothing)?,
        };
        Ok(self.changes.store.get(number)?)
    }

    pub(super) fn note(&self, entry: Entry) {
        self.journal.append(super::now(), entry);
    }
}
