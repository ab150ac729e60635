//! The engine: one task that owns the data path, the controller's state and the revisions.
//!
//! ```text
//! API ────┐                        ┌──► kernel
//! SIGHUP ─┤ commands, one by one   │
//! health ─┼──────────► actor ──────┼──► revisions on disk
//! ways ───┤                        │
//! clock ──┘                        └──► Status, once a second and after each change
//! ```
//!
//! Whatever happens, happens in the actor, one thing after the other: that is why two changes can't
//! meet. Nothing in it waits. A change that is watched or waits to be confirmed is a *trial*: a note
//! with deadlines, which the actor looks at every second.
//!
//! Everybody else has an [`Engine`], a handle that can be cloned, and reads the [`Status`] that was
//! published last, never the tables.

mod actor;
mod change;
mod checks;
mod command;
mod data_path;
mod error;
mod import;
pub mod locks;
mod nat_ports;
mod observe;
mod request;
mod routes;
mod shares;
mod start;
mod trial;

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
};
use tracing::{error, info, warn};

use command::{Ask, Command};
pub use error::{EngineError, EngineResult};

use crate::{
    alerts::Alerts,
    clock,
    events::Journal,
    http::{self, Caller},
    metrics::{self, Facts},
    reconciler::system,
    traffic::SharedTraffic,
};
use lb_api::{
    Applied, ApplyRequest, ConfirmRequest, Diff, Event, ExplainRequest, Plan, PlanRequest,
    Progress, Revision, RevisionInfo, RevisionNumber, RollbackRequest, Status,
};

use lb_dataplane::explain::Explanation;

/// What `run` is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// Where the BPF file system is.
    pub bpffs: PathBuf,
}

/// Commands that may wait for the actor. One that finds it full waits itself.
const QUEUE: usize = 64;

/// A handle of the engine.
#[derive(Clone, Debug)]
pub struct Engine {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Arc<Status>>,
    routes: watch::Receiver<crate::nexthop::Table>,
    journal: Journal,
    traffic: SharedTraffic,
    alerts: Alerts,
    facts: watch::Receiver<Arc<Facts>>,
}

impl Engine {
    /// What was published last.
    #[must_use]
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status.borrow())
    }

    /// To be told of every new status.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Status>> {
        self.status.clone()
    }

    /// What happened.
    #[must_use]
    pub const fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The accounts of the traffic.
    #[must_use]
    pub const fn traffic(&self) -> &SharedTraffic {
        &self.traffic
    }

    /// The alerts.
    #[must_use]
    pub const fn alerts(&self) -> &Alerts {
        &self.alerts
    }

    /// What the metrics are made of.
    #[must_use]
    pub fn sources(&self) -> metrics::Sources {
        metrics::Sources {
            status: self.status.clone(),
            traffic: self.traffic.clone(),
            facts: self.facts.clone(),
            alerts: self.alerts.clone(),
        }
    }

    /// `limit` events after the one of this number, or the newest; oldest first.
    #[must_use]
    pub fn events(&self, since: Option<u64>, limit: usize) -> Vec<Event> {
        match since {
            Some(since) => self.journal.since(since, limit),
            None => self.journal.newest(limit),
        }
    }

    async fn ask<T>(&self, make: impl FnOnce(Ask<T>) -> Command) -> EngineResult<T> {
        let ending = || EngineError::Failed("the controller is stopping; try again".into());
        let (ask, answer) = oneshot::channel();
        let sent = self.commands.send(make(ask)).await;
        sent.map_err(|_| ending())?;
        answer.await.map_err(|_| ending())?
    }

    /// What a change would do.
    ///
    /// # Errors
    ///
    /// The change makes no sense.
    pub async fn plan(&self, request: PlanRequest) -> EngineResult<Plan> {
        self.ask(|ask| Command::Plan(request, ask)).await
    }

    /// Makes a change.
    ///
    /// # Errors
    ///
    /// It makes no sense, a guard refuses it, another change is under way, or the kernel or the disk
    /// refused. What was in force before is in force.
    pub async fn apply(&self, request: ApplyRequest, caller: Caller) -> EngineResult<Applied> {
        let change = request.change.clone();
        self.find_ways(|ask| Command::Prepare(change, ask)).await?;
        self.ask(|ask| Command::Apply(Box::new(request), caller, ask))
            .await
    }

    /// Confirms a revision that waits for it.
    ///
    /// # Errors
    ///
    /// None waits, or another one.
    pub async fn confirm(
        &self,
        request: ConfirmRequest,
        caller: Caller,
    ) -> EngineResult<RevisionInfo> {
        self.ask(|ask| Command::Confirm(request, caller, ask)).await
    }

    /// Goes back.
    ///
    /// # Errors
    ///
    /// There is nowhere to go back to, or the kernel or the disk refused.
    pub async fn rollback(
        &self,
        request: RollbackRequest,
        caller: Caller,
    ) -> EngineResult<Applied> {
        let change = lb_api::Change::Revision {
            revision: request.revision,
        };
        // That there is nothing to go back to is said by the command itself.
        let _ = self.find_ways(|ask| Command::Prepare(change, ask)).await;
        self.ask(|ask| Command::Rollback(request, caller, ask))
            .await
    }

    /// Reads the configuration file again and makes what it says a change.
    ///
    /// # Errors
    ///
    /// As for [`Self::apply`].
    pub async fn reload(&self) -> EngineResult<Applied> {
        self.find_ways(Command::PrepareReload).await?;
        self.ask(Command::Reload).await
    }

    /// What the data path would do with a packet.
    ///
    /// # Errors
    ///
    /// The flow makes no sense.
    pub async fn explain(&self, request: ExplainRequest) -> EngineResult<Explanation> {
        self.ask(|ask| Command::Explain(request, ask)).await
    }

    /// All revisions, oldest first.
    ///
    /// # Errors
    ///
    /// The controller is ending.
    pub async fn revisions(&self) -> EngineResult<Vec<RevisionInfo>> {
        self.ask(Command::Revisions).await
    }

    /// A revision with its text.
    ///
    /// # Errors
    ///
    /// There is none of this number.
    pub async fn revision(&self, number: RevisionNumber) -> EngineResult<Revision> {
        self.ask(|ask| Command::Revision(Some(number), ask)).await
    }

    /// The running revision with its text.
    ///
    /// # Errors
    ///
    /// Its file can't be read.
    pub async fn config(&self) -> EngineResult<Revision> {
        self.ask(|ask| Command::Revision(None, ask)).await
    }

    /// How a revision is doing.
    ///
    /// # Errors
    ///
    /// There is none of this number.
    pub async fn progress(&self, number: RevisionNumber) -> EngineResult<Progress> {
        self.ask(|ask| Command::Progress(number, ask)).await
    }

    /// The difference of two revisions.
    ///
    /// # Errors
    ///
    /// There is none of one of the numbers.
    pub async fn diff(&self, from: RevisionNumber, to: RevisionNumber) -> EngineResult<Diff> {
        self.ask(|ask| Command::Diff(from, to, ask)).await
    }

    /// Has the ways to the backends of a change looked for, and waits until they are known, or not
    /// for some time. That is the one thing of a change that takes time, so it is done out here.
    async fn find_ways(
        &self,
        make: impl FnOnce(Ask<std::collections::BTreeSet<std::net::IpAddr>>) -> Command,
    ) -> EngineResult<()> {
        let backends = self.ask(make).await?;
        routes::first(&mut self.routes.clone(), &backends).await;
        Ok(())
    }
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
///
/// Why it can't start. What was pinned before stays as it was.
pub async fn run(options: Options) -> Result<()> {
    // Before anything that takes time, so that no signal kills us half-way.
    let mut reload = signal(SignalKind::hangup()).context("watch for SIGHUP")?;
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
    let started = start::start(options).await?;
    let engine = started.engine.clone();
    tokio::spawn(http::serve(started.listener, engine.clone()));
    tokio::spawn(metrics::run(engine.sources()));
    let stop = Arc::clone(&started.inbox.stop);
    info!("ready");
    tell_manager("READY=1\n");
    let mut actor = Box::pin(started.actor.run(started.inbox));
    let stopped = loop {
        tokio::select! {
            ended = &mut actor => break ended,
            _ = terminate.recv() => stop.notify_one(),
            _ = interrupt.recv() => stop.notify_one(),
            _ = reload.recv() => spawn_reload(engine.clone()),
        }
    };
    tell_manager("STOPPING=1\n");
    if stopped? {
        info!("stopped; the data path stays pinned and goes on forwarding");
    } else {
        error!("stopped; nothing is pinned that keeps the data path: forwarding ends");
    }
    Ok(())
}

/// The outcome of a reload is in the log: nobody waits for it.
fn spawn_reload(engine: Engine) {
    tokio::spawn(async move {
        tell_manager(&format!(
            "RELOADING=1\nMONOTONIC_USEC={}\n",
            system::monotonic_us()
        ));
        match engine.reload().await {
            Ok(applied) => match applied.revision {
                Some(revision) => {
                    info!(revision = revision.number, "configuration reloaded");
                }
                None => info!("configuration reloaded: nothing to do"),
            },
            Err(error) => {
                error!(%error, "reload failed; nothing changed");
            }
        }
        tell_manager("READY=1\n");
    });
}

/// systemd may have asked to be told.
fn tell_manager(message: &str) {
    if let Err(error) = system::notify(message) {
        warn!(%error, "telling the service manager failed");
    }
}

fn now() -> Timestamp {
    clock::now()
}
