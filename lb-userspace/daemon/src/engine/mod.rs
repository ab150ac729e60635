//! The engine: one actor owns the data path, the controller's state and the revisions.
//!
//! ```text
//! API ──────┐                        ┌──► kernel
//! SIGHUP ───┤ commands, one by one   │
//! health ───┼──────────► actor ──────┼──► revisions on disk
//! next hops ┤                        │
//! clock ────┘                        └──► NodeState, once per second and after each change
//! ```
//!
//! Everything that changes the node happens in the actor, one thing after the other, so two changes
//! never overlap. A change that bakes or waits to be confirmed is a *trial*: a record with deadlines
//! that the actor checks every second.
//!
//! The actor has a thread of its own ([`run`]), because it writes files and waits for kernel grace
//! periods. Health checks, next hops, the API and the metrics run on the main runtime. They have an
//! [`Engine`], a handle that can be cloned, and read the [`NodeState`] that was published last, never
//! the maps.

mod actor;
mod announce_watch;
mod bounds;
mod capture;
mod change;
mod command;
mod comparison;
mod data_path;
mod drift_check;
mod error;
mod facts;
mod fleet;
mod flows;
mod health_intake;
mod import;
mod limits;
pub mod locks;
mod membership;
mod nat_ports;
mod observe;
mod publisher;
mod reports;
mod request;
mod routes;
mod run;
mod shares;
mod start;
mod suggestions;
mod tick;
mod trial;
mod votes;

use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use lb_dataplane::explain::Explanation;
use lb_fleet::Fleet;
use lb_model::{
    membership::{Member, SourceKey, check_members},
    planner::{Guard, Plan},
    sources::LimitSuggestion,
};
use tokio::sync::{mpsc, oneshot, watch};

pub use capture::CaptureStream;
pub use command::{Applied, Change, ChangeRequest, FileDiff, Progress, Reloaded};
use command::{Command, Reply};
pub(crate) use comparison::OwnTraffic;
pub use error::{EngineError, EngineResult};
use fleet::FleetCommand;
pub use fleet::{FLEET, FleetCounts, FleetRunning, REQUESTED_BY};
pub use flows::SampledFlow;
use membership::MembershipCommand;
pub(crate) use reports::Reports;
use request::Prepared;
pub use run::run;
pub(crate) use run::run_on_thread;
pub(crate) use shares::{Counts, VipTraffic};
pub use trial::TrialPhase;
pub(crate) use votes::{OwnVotes, SharedMember};

use crate::{
    alerts::Alerts,
    caller::Caller,
    clock,
    events::{Event, Journal},
    fleet::FleetSlot,
    membership::dns::{self, AskError, Found},
    metrics::{self, Facts},
    nexthop::NextHops,
    node::{NodeState, SourceState},
    reconciler::{Directory, RingPast},
    revision::{Revision, RevisionInfo, RevisionNumber},
    traffic::SharedTraffic,
};

#[derive(Clone, Debug)]
pub struct Options {
    pub config: PathBuf,
    /// Mount point of the BPF file system.
    pub bpffs: PathBuf,
    /// Socket of the API, instead of `api.socket` of the file.
    pub socket: Option<PathBuf>,
}

/// Commands that can wait for the actor. With a full queue, callers wait.
const QUEUE: usize = 64;

/// A handle of the engine.
#[derive(Clone, Debug)]
pub struct Engine {
    commands: mpsc::Sender<Command>,
    state: watch::Receiver<Arc<NodeState>>,
    routes: watch::Receiver<NextHops>,
    journal: Journal,
    traffic: SharedTraffic,
    alerts: Alerts,
    facts: watch::Receiver<Arc<Facts>>,
    fleet: FleetSlot,
    directory: watch::Receiver<Arc<Directory>>,
    own_votes: watch::Receiver<Arc<OwnVotes>>,
    own_traffic: watch::Receiver<Arc<OwnTraffic>>,
    reports: Arc<Reports>,
}

impl Engine {
    /// The state that was published last.
    #[must_use]
    pub fn state(&self) -> Arc<NodeState> {
        Arc::clone(&self.state.borrow())
    }

    #[must_use]
    pub const fn alerts(&self) -> &Alerts {
        &self.alerts
    }

    pub(crate) const fn fleet_slot(&self) -> &FleetSlot {
        &self.fleet
    }

    /// The agent of the fleet.
    ///
    /// # Errors
    ///
    /// The node belongs to no fleet.
    pub fn fleet(&self) -> EngineResult<&Fleet> {
        self.fleet.get().and_then(Option::as_ref).ok_or_else(|| {
            let message = "this node belongs to no fleet: add `[fleet]` to its configuration file and restart \
                           the controller (docs/fleet.md)";
            EngineError::NotFound(message.into())
        })
    }

    /// The sources of the metrics page.
    #[must_use]
    pub fn sources(&self) -> metrics::Sources {
        metrics::Sources {
            state: self.state.clone(),
            traffic: self.traffic.clone(),
            facts: self.facts.clone(),
            alerts: self.alerts.clone(),
        }
    }

    /// `limit` events after number `since`, or the newest; oldest first.
    #[must_use]
    pub fn events(&self, since: Option<u64>, limit: usize) -> Vec<Event> {
        match since {
            Some(since) => self.journal.since(since, limit),
            None => self.journal.newest(limit),
        }
    }

    async fn request<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> EngineResult<T> {
        let stopping = || EngineError::Failed("the controller is stopping; try again".into());
        let (reply, result) = oneshot::channel();
        let sent = self.commands.send(command(reply)).await;
        sent.map_err(|_| stopping())?;
        result.await.map_err(|_| stopping())?
    }

    /// Previews a change.
    ///
    /// # Errors
    ///
    /// The change is invalid.
    pub async fn plan(&self, change: Change, force: Vec<Guard>) -> EngineResult<Plan> {
        self.ask_sources(Some(&change)).await;
        self.request(|reply| Command::Plan(change, force, reply))
            .await
    }

    /// Applies a change.
    ///
    /// # Errors
    ///
    /// The change is invalid, a guard refuses it, another change is in progress, or the kernel or the
    /// disk failed. What was active before still is.
    pub async fn apply(&self, request: ChangeRequest, caller: Caller) -> EngineResult<Applied> {
        let change = request.change.clone();
        self.ask_sources(Some(&change)).await;
        let prepared = self
            .prepare(|reply| Command::Prepare(change, reply))
            .await?;
        self.request(|reply| Command::Apply(Box::new(request), prepared, caller, reply))
            .await
    }

    /// Confirms the revision that waits for it, or fails if that is not `revision`.
    ///
    /// # Errors
    ///
    /// No revision waits to be confirmed, or another one does.
    pub async fn confirm(
        &self,
        revision: Option<RevisionNumber>,
        caller: Caller,
    ) -> EngineResult<RevisionInfo> {
        self.request(|reply| Command::Confirm(revision, caller, reply))
            .await
    }

    /// Rolls back to `revision`, by default to the one before the last change.
    ///
    /// # Errors
    ///
    /// There is no such revision, or the kernel or the disk failed.
    pub async fn rollback(
        &self,
        revision: Option<RevisionNumber>,
        why: Option<String>,
        caller: Caller,
    ) -> EngineResult<Applied> {
        let change = Change::Revision(revision);
        self.ask_sources(Some(&change)).await;
        // A revision that does not exist is reported by the rollback itself.
        let prepared = self
            .prepare(|reply| Command::Prepare(change, reply))
            .await
            .ok();
        self.request(|reply| Command::Rollback(revision, why, prepared, caller, reply))
            .await
    }

    /// Applies the configuration file, if it was edited since it was applied last. With `wait`, a change in
    /// progress is no error: the reload is repeated when that change is settled.
    ///
    /// # Errors
    ///
    /// As for [`Self::apply`].
    pub async fn reload(&self, wait: bool, caller: Caller) -> EngineResult<Reloaded> {
        self.ask_sources(None).await;
        let prepared = self.prepare(Command::PrepareReload).await?;
        self.request(|reply| Command::Reload(prepared, wait, caller, reply))
            .await
    }

    /// The difference from the active revision to the configuration file.
    ///
    /// # Errors
    ///
    /// The file can't be read.
    pub async fn diff_file(&self) -> EngineResult<FileDiff> {
        self.request(Command::DiffFile).await
    }

    /// Explains what the data path would do with a packet of a flow; `syn`: the first one of TCP.
    ///
    /// # Errors
    ///
    /// The flow is invalid.
    pub async fn explain(&self, flow: String, syn: bool) -> EngineResult<Explanation> {
        self.request(|reply| Command::Explain(flow, syn, reply))
            .await
    }

    /// The flows that the data path samples, the ones with most bytes first.
    ///
    /// # Errors
    ///
    /// A VIP or backend of this name does not exist, or the table can't be read.
    pub async fn flows(
        &self,
        vip: Option<String>,
        backend: Option<String>,
    ) -> EngineResult<Vec<SampledFlow>> {
        self.request(|reply| Command::Flows(vip, backend, reply))
            .await
    }

    /// Limits that would have limited nobody in the last hour, for a VIP or for all.
    ///
    /// # Errors
    ///
    /// A VIP of this name does not exist.
    pub async fn suggest_limits(&self, vip: Option<String>) -> EngineResult<Vec<LimitSuggestion>> {
        self.request(|reply| Command::SuggestLimits(vip, reply))
            .await
    }

    /// All revisions, oldest first.
    ///
    /// # Errors
    ///
    /// The controller is stopping.
    pub async fn revisions(&self) -> EngineResult<Vec<RevisionInfo>> {
        self.request(Command::Revisions).await
    }

    /// A revision with its text, by default the running one.
    ///
    /// # Errors
    ///
    /// It does not exist or its file can't be read.
    pub async fn revision(&self, number: Option<RevisionNumber>) -> EngineResult<Revision> {
        self.request(|reply| Command::Revision(number, reply)).await
    }

    /// The progress of a revision.
    ///
    /// # Errors
    ///
    /// It does not exist.
    pub async fn progress(&self, number: RevisionNumber) -> EngineResult<Progress> {
        self.request(|reply| Command::Progress(number, reply)).await
    }

    /// The unified diff of two revisions' texts.
    ///
    /// # Errors
    ///
    /// One of them does not exist.
    pub async fn diff(&self, from: RevisionNumber, to: RevisionNumber) -> EngineResult<String> {
        self.request(|reply| Command::Diff(from, to, reply)).await
    }

    /// The fleet's view of the active configuration.
    ///
    /// # Errors
    ///
    /// There is no active revision, or the controller is stopping.
    pub async fn fleet_running(&self) -> EngineResult<FleetRunning> {
        self.request(|reply| Command::Fleet(FleetCommand::Running(reply)))
            .await
    }

    /// Moves the deadline to confirm of revision `number` to `by` from now, durably.
    ///
    /// # Errors
    ///
    /// It does not wait for confirmation, or its state can't be written.
    pub async fn extend(&self, number: RevisionNumber, by: SignedDuration) -> EngineResult<()> {
        self.request(|reply| Command::Fleet(FleetCommand::Extend(number, by, reply)))
            .await
    }

    /// Rolls back a revision on trial, and no other.
    ///
    /// # Errors
    ///
    /// It is not on trial, or the kernel or the disk failed.
    pub async fn end_trial(&self, number: RevisionNumber, why: String) -> EngineResult<()> {
        self.request(|reply| Command::Fleet(FleetCommand::EndTrial(number, why, reply)))
            .await
    }

    /// Counters for the comparison of the nodes of a fleet.
    ///
    /// # Errors
    ///
    /// The controller is stopping.
    pub async fn fleet_counts(&self) -> EngineResult<FleetCounts> {
        self.request(|reply| Command::Fleet(FleetCommand::Counts(reply)))
            .await
    }

    /// What the tables hold now.
    pub(crate) fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.directory.borrow())
    }

    /// What this node says of its backends, for the other nodes.
    pub(crate) fn own_votes(&self) -> watch::Receiver<Arc<OwnVotes>> {
        self.own_votes.clone()
    }

    /// What this node forwarded in the last second, for the other nodes.
    pub(crate) fn own_traffic(&self) -> watch::Receiver<Arc<OwnTraffic>> {
        self.own_traffic.clone()
    }

    /// Where what other nodes say is left for the engine.
    pub(crate) fn reports(&self) -> &Reports {
        &self.reports
    }

    /// Learns what another node remembers of its rings, unless the controller is stopping.
    pub(crate) async fn learn(&self, from: String, pasts: Vec<RingPast>) {
        self.tell(FleetCommand::Learn(from, pasts)).await;
    }

    /// Says that the other nodes have told the past, or can't be asked.
    pub(crate) async fn past_is_known(&self) {
        self.tell(FleetCommand::PastIsKnown).await;
    }

    async fn tell(&self, command: FleetCommand) {
        // A controller that stops needs nothing.
        let _ = self.commands.send(Command::Fleet(command)).await;
    }

    /// Says that no node will tell the past.
    pub(crate) fn expect_no_past(&self) {
        let engine = self.clone();
        tokio::spawn(async move { engine.past_is_known().await });
    }

    /// Asks the sources that a change brings, or a reload if there is none, so that its plan knows their
    /// members. It waits for that no longer than for one answer.
    async fn ask_sources(&self, change: Option<&Change>) {
        let change = change.cloned().map(Box::new);
        let to_ask = |reply| Command::Membership(MembershipCommand::ToAsk(change, reply));
        let Ok((keys, settings)) = self.request(to_ask).await else {
            return;
        };
        let answers = keys.into_iter().map(|key| async {
            let answer = dns::ask(&key, &settings).await;
            self.source_answered(key, answer).await
        });
        futures_util::future::join_all(answers).await;
    }

    /// Passes the answer of a source to the actor. Returns when to ask again; none if the controller is
    /// stopping.
    pub(crate) async fn source_answered(
        &self,
        key: SourceKey,
        answer: Result<Found, AskError>,
    ) -> Option<Duration> {
        // What is not valid is refused by the actor, with the reason.
        if let Ok(found) = &answer
            && check_members(&found.members).is_ok()
        {
            self.follow_members(&found.members).await.ok()?;
        }
        let answered = |reply| Command::Membership(MembershipCommand::Answered(key, answer, reply));
        self.request(answered).await.ok()
    }

    /// Waits until the next hops of new members are known, or for a limited time.
    async fn follow_members(&self, members: &[Member]) -> EngineResult<()> {
        let addresses = members.iter().map(|member| member.address).collect();
        let follow = |reply| Command::Membership(MembershipCommand::Follow(addresses, reply));
        let new = self.request(follow).await?;
        routes::wait_for(&mut self.routes.clone(), &new).await;
        Ok(())
    }

    /// Sets the members of the source `api:NAME`. None at all must be meant.
    ///
    /// # Errors
    ///
    /// A member is not valid, or can't be a backend of a VIP that uses the source. Its members are as before.
    pub async fn set_source(
        &self,
        name: String,
        members: Vec<Member>,
        allow_empty: bool,
        caller: Caller,
    ) -> EngineResult<SourceState> {
        check_members(&members).map_err(|why| EngineError::InvalidConfig(why.to_string()))?;
        self.follow_members(&members).await?;
        self.request(|reply| {
            let set = MembershipCommand::Set(name, members, allow_empty, caller, reply);
            Command::Membership(set)
        })
        .await
    }

    /// Reads the configuration of a change and waits until the next hops of its backends are known, or
    /// for a limited time. This is the slow part of a change, so the actor does not wait for it.
    async fn prepare(
        &self,
        prepare: impl FnOnce(Reply<Box<Prepared>>) -> Command,
    ) -> EngineResult<Box<Prepared>> {
        let prepared = self.request(prepare).await?;
        routes::wait_for(&mut self.routes.clone(), &prepared.backends()).await;
        Ok(prepared)
    }
}

fn now() -> Timestamp {
    clock::now()
}
