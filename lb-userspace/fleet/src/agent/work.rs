//! The worker: asks the state machines for the next action, and carries it out.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use lb_api::{FleetState, Guard, GuardVerdict, Plan, PlanVerdict};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use super::{Request, Shared, ended, fetch, peers, publish::publish};
use crate::{
    leader::{self, Leader},
    member::{Action, Asked, Input, Member, Settings, Standing},
    memory::{Kind, Memory},
    node::{Node, NodeError, Running},
    snapshot::Snapshot,
    store::{Committed, Txn},
};

/// The worker looks at least this often: a bake may have ended.
const TICK: Duration = Duration::from_millis(500);

/// Actions in a row before the worker looks at everything else.
const ACTIONS: usize = 16;

/// Time between two looks for garbage.
const GARBAGE: Duration = Duration::from_secs(60);

struct Worker<N> {
    shared: Arc<Shared>,
    node: N,
    member: Member,
    leader: Leader,
    /// The newest text: its digest and content.
    text: Option<(String, String)>,
    garbage_at: Instant,
}

pub(super) async fn run<N: Node>(
    shared: Arc<Shared>,
    node: N,
    mut requests: mpsc::Receiver<Request>,
    publisher: watch::Sender<FleetState>,
    mut stopped: watch::Receiver<bool>,
) {
    let path = &shared.settings.state_file;
    let (memory, disk_error) = match Memory::read(path) {
        Ok(memory) => (memory, None),
        Err(error) => {
            let error = format!(
                "can't read {}, which says what this node confirmed: {error}. `evenkeel fleet join` joins again",
                path.display()
            );
            error!("{error}");
            (Memory::default(), Some(error))
        }
    };
    let settings = Settings {
        node: shared.settings.node.clone(),
        rack: shared.settings.rack.clone(),
        exchange: shared
            .exchange()
            .and(shared.settings.exchange)
            .map(|it| it.to_string()),
        bake_s: shared.settings.bake_s,
        confirm_s: shared.settings.confirm_s,
    };
    let now_ms = shared.ms(Instant::now());
    let mut member = Member::new(settings, shared.facts.clone(), memory, now_ms);
    if let Some(error) = disk_error {
        member.not_saved(error);
    }
    let mut worker = Worker {
        shared,
        node,
        member,
        leader: Leader::default(),
        text: None,
        garbage_at: Instant::now() + GARBAGE,
    };
    loop {
        worker.work().await;
        worker.follow_peers();
        worker.publish(&publisher);
        tokio::select! {
            () = worker.shared.changed.notified() => {}
            () = tokio::time::sleep(TICK) => {}
            request = requests.recv() => match request {
                Some(request) => worker.serve(request, &publisher).await,
                None => return,
            },
            () = ended(&mut stopped) => {
                worker.resign().await;
                return;
            }
        }
    }
}

impl<N: Node> Worker<N> {
    /// Carries actions out until there is none, or one fails.
    async fn work(&mut self) {
        let mut last = None;
        for _ in 0..ACTIONS {
            let running = match self.node.running().await {
                Ok(running) => running,
                Err(error) => {
                    warn!(%error, "can't read the active configuration");
                    return;
                }
            };
            let outcome = match self.member.pending_local() {
                Some(local) => self.node.outcome(local).await.ok(),
                None => None,
            };
            let snapshot = self.shared.snapshot();
            let observed = self.node.observed().await;
            let snapshot = snapshot.as_ref().map(|decoded| decoded.as_ref().as_ref());
            let input = Input {
                now_ms: self.now_ms(),
                contact_ms: self.shared.client.contact().map(|at| self.shared.ms(at)),
                snapshot: snapshot.map(|snapshot| snapshot.map_err(String::as_str)),
                lease: self.shared.lease(),
                running: &running,
                outcome: outcome.as_ref(),
                observed,
            };
            let action = self.member.step(&input);
            let is_stuck = match action {
                None => false,
                Some(action) if last.as_ref() == Some(&action) => true,
                Some(action) => {
                    if self.act(&action, &input).await {
                        last = Some(action);
                        continue;
                    }
                    true
                }
            };
            // A leader leads, also if its own node can't do what it should.
            let Some(Ok(snapshot)) = input.snapshot else {
                return;
            };
            if !self.lead(snapshot).await || is_stuck {
                return;
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.shared.ms(Instant::now())
    }

    /// Returns whether the action has succeeded.
    async fn act(&mut self, action: &Action, input: &Input<'_>) -> bool {
        match action {
            Action::Save => self.write().await.is_ok(),
            Action::Commit(txn, then) => {
                let sent_ms = self.now_ms();
                match self.commit(txn).await {
                    true => self.member.committed(then.clone(), input, sent_ms),
                    false => return false,
                }
                true
            }
            Action::Plan {
                asked,
                digest,
                force,
            } => self.plan(asked, digest, force).await,
            Action::Explain { id, packet } => {
                let explained = self.node.explain(packet).await;
                self.member.explained(id, explained);
                true
            }
            Action::Apply { digest, how } => {
                let Ok(text) = self.text(digest).await else {
                    return false;
                };
                let result = self.node.apply(&text, how).await;
                match &result {
                    Ok(local) => info!(how.origin, ?local, "applied"),
                    Err(error) => warn!(how.origin, %error, "not applied"),
                }
                let now_ms = self.now_ms();
                self.member.applied(result, now_ms);
                true
            }
            Action::Extend { local, confirm_s } => {
                let extended = self.node.extend(*local, *confirm_s).await;
                let now_ms = self.now_ms();
                self.member.extended(now_ms);
                report("extend the trial of", *local, extended)
            }
            Action::Confirm { local } => report("confirm", *local, self.node.confirm(*local).await),
            Action::RollBack { local, why } => {
                warn!(local, why, "rolling back for the fleet");
                report("roll back", *local, self.node.roll_back(*local, why).await)
            }
        }
    }

    async fn plan(&mut self, asked: &Asked, digest: &str, force: &[Guard]) -> bool {
        let Ok(text) = self.text(digest).await else {
            return false;
        };
        let refusal = match self.node.plan(&text, force).await {
            Ok(plan) => refusal(&plan),
            Err(NodeError::Busy { .. }) => return false,
            Err(error) => Some(error.to_string()),
        };
        if let (Asked::Rollout(revision), Some(why)) = (asked, &refusal) {
            info!(revision, why, "this node refuses a fleet revision");
        }
        self.member.planned(asked, refusal);
        true
    }

    /// Tells the exchange which nodes there are, and remembers them.
    fn follow_peers(&self) {
        let Some(decoded) = self.shared.snapshot() else {
            return;
        };
        let Ok(snapshot) = decoded.as_ref() else {
            return;
        };
        let node = &self.shared.settings.node;
        if let Some((file, peers)) = self.shared.peers.follow(snapshot, node) {
            // A file that is not written is only missed by a boot without etcd.
            tokio::task::spawn_blocking(move || {
                if let Err(error) = peers::write(&file, &peers) {
                    warn!(%error, "can't write {}", file.display());
                }
            });
        }
    }

    fn publish(&self, publisher: &watch::Sender<FleetState>) {
        publish(&self.shared, &self.member, publisher);
    }

    /// Writes the memory, on a thread where a disk that stalls delays nothing else.
    async fn write(&mut self) -> Result<(), String> {
        let path = &self.shared.settings.state_file;
        let (memory, file) = (self.member.memory().clone(), path.clone());
        let written = tokio::task::spawn_blocking(move || memory.write(&file)).await;
        if let Err(error) = written.unwrap_or_else(|error| Err(io::Error::other(error))) {
            let error = format!("can't write {}: {error}", path.display());
            if self.member.state().1 != error {
                error!(error, "this node does nothing for the fleet until it can");
            }
            self.member.not_saved(error.clone());
            return Err(error);
        }
        self.member.saved();
        Ok(())
    }

    async fn commit(&self, txn: &Txn) -> bool {
        matches!(self.shared.commit(txn).await, Ok(Committed::At(_)))
    }

    /// A text of etcd; the newest one is kept.
    async fn text(&mut self, digest: &str) -> Result<String, ()> {
        if let Some((known, text)) = &self.text
            && known == digest
        {
            return Ok(text.clone());
        }
        match fetch(&self.shared.client, digest).await {
            Ok(text) => {
                self.text = Some((digest.to_owned(), text.clone()));
                Ok(text)
            }
            Err(error) => {
                warn!(error, "can't read a text of the fleet");
                Err(())
            }
        }
    }

    /// Does what a leader does, if this node is it. Returns whether something was done.
    async fn lead(&mut self, snapshot: &Snapshot) -> bool {
        let lease = self.shared.lease();
        let node = &self.shared.settings.node;
        let follows = *self.member.standing() == Standing::Follows;
        let Some(leader) = &snapshot.leader else {
            return follows && lease != 0 && self.commit(&leader::campaign(node)).await;
        };
        // The key of an earlier process ends with its lease.
        if leader.node != *node || leader.lease != lease {
            return false;
        }
        let fence = leader.created;
        if !follows {
            self.commit(&leader::resign(fence)).await;
            return false;
        }
        let input = leader::Input {
            now_ms: self.now_ms(),
            at: jiff::Timestamp::now(),
            snapshot,
            fence,
        };
        if let Some(txn) = self.leader.step(&input) {
            return self.commit(&txn).await;
        }
        if Instant::now() < self.garbage_at {
            return false;
        }
        self.garbage_at = Instant::now() + GARBAGE;
        let Ok(texts) = self.shared.client.range("texts/", "texts0", true).await else {
            return false;
        };
        let texts: Vec<String> = texts.kvs.into_iter().map(|kv| kv.key).collect();
        match leader::garbage(snapshot, &texts, fence) {
            Some(txn) => self.commit(&txn).await,
            None => false,
        }
    }

    /// Lets another node lead at once.
    async fn resign(&self) {
        let Some(decoded) = self.shared.snapshot() else {
            return;
        };
        let Ok(snapshot) = decoded.as_ref() else {
            return;
        };
        if let Some(leader) = &snapshot.leader
            && leader.node == self.shared.settings.node
            && leader.lease == self.shared.lease()
        {
            self.commit(&leader::resign(leader.created)).await;
        }
    }

    async fn serve(&mut self, request: Request, publisher: &watch::Sender<FleetState>) {
        // A receiver that is gone wants no answer.
        match request {
            Request::Text(reply) => {
                let text = self.node.text().await;
                let running = self.node.running().await;
                let both = text.and_then(|text| {
                    let Running { digest, .. } = running?;
                    Ok((text, digest))
                });
                let _ = reply.send(both);
            }
            Request::Plan(text, force, reply) => {
                let _ = reply.send(self.node.plan(&text, &force).await);
            }
            Request::Explain(packet, reply) => {
                let _ = reply.send(self.node.explain(&packet).await);
            }
            Request::Memory(reply) => {
                let _ = reply.send(self.member.memory().clone());
            }
            Request::Remember(memory, reply) => {
                let result = self.remember(*memory).await;
                // The caller finds the new state published.
                self.work().await;
                self.publish(publisher);
                let _ = reply.send(result);
            }
        }
    }

    async fn remember(&mut self, memory: Memory) -> Result<(), String> {
        let before = self.member.memory().clone();
        if let Some(pending) = &before.pending
            && pending.kind == Kind::Candidate
        {
            return Err(format!(
                "fleet revision {} is on trial on this node: wait for its end",
                pending.revision
            ));
        }
        self.member.set_memory(memory);
        let result = self.write().await;
        if result.is_err() {
            self.member.set_memory(before);
        }
        result
    }
}

fn report(what: &str, local: u64, result: Result<(), NodeError>) -> bool {
    match result {
        Ok(()) => true,
        Err(error) => {
            warn!(%error, "can't {what} local revision {local}");
            false
        }
    }
}

/// Why a plan was refused, in one line.
fn refusal(plan: &Plan) -> Option<String> {
    if plan.verdict != PlanVerdict::Refused {
        return None;
    }
    let refused = plan.vips.iter().flat_map(|vip| {
        let guards = vip.guards.iter();
        let guards = guards.filter(|result| result.verdict == GuardVerdict::Refused);
        guards.map(move |result| {
            let guard = result.guard.as_str();
            format!("VIP {}: guard {guard}: {}", vip.vip, result.detail)
        })
    });
    Some(refused.collect::<Vec<_>>().join("; "))
}
