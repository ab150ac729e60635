//! `fleet apply`, `rollback`, `confirm`, `pause` and `resume`.

use lb_api::{
    ApiError, ErrorCode, FleetApplyRequest, FleetNodeState, FleetRollbackRequest,
    FleetRolloutState, FleetStarted, PlanVerdict, VariantArray as _,
};
use tracing::info;

use super::{Result, TRIES, away, conflict, fleet::unknown, random};
use crate::{
    agent::{Running, fetch},
    digest,
    handle::Who,
    member::{put, same_rollout},
    records::{Head, Revision, Rollout, revision_key},
    snapshot::{Entry, Snapshot},
    store::{Condition, Txn},
};

impl Running {
    pub(crate) async fn apply(&self, request: FleetApplyRequest, who: Who) -> Result<FleetStarted> {
        self.follows()?;
        let memory = self.memory().await?;
        let snapshot = self.snapshot().await?;
        let (_, head) = self.joined(&snapshot, &memory)?;
        check_base(request.base, head.revision)?;
        is_free(&snapshot)?;
        if digest(&request.text) == head.digest {
            return conflict(format!(
                "no changes: identical to fleet revision {}",
                head.revision
            ));
        }
        // Refused at once, instead of by the preflight.
        if self.state.borrow().state == FleetNodeState::InSync {
            let plan = self.plan_here(&request.text, &request.force).await?;
            if plan.verdict == PlanVerdict::Refused {
                let message = "a guard of this node refuses the change: see the plan";
                return Err(ApiError::refused(message, plan));
            }
        }
        self.start(&request, None, &who).await
    }

    /// Writes a revision and its rollout; `undoes`: the head that it rolls back.
    async fn start(
        &self,
        request: &FleetApplyRequest,
        undoes: Option<u64>,
        who: &Who,
    ) -> Result<FleetStarted> {
        let memory = self.memory().await?;
        let exist = self.write_text(&request.text).await?;
        let token = random();
        for _ in 0..TRIES {
            let snapshot = self.snapshot().await?;
            // A try whose answer was lost.
            let ours = snapshot.rollout.as_ref().filter(|r| r.token == token);
            if let Some(rollout) = ours {
                return Ok(started(rollout.revision));
            }
            let (_, head) = self.joined(&snapshot, &memory)?;
            check_base(request.base, head.revision)?;
            is_free(&snapshot)?;
            let number = snapshot.newest().max(memory.newest) + 1;
            let revision = Revision {
                parent: Some(head.revision),
                why: request.why.clone(),
                undoes,
                ..self.revision_of(number, &request.text, who.clone())
            };
            let rollout = self.rollout_of(&revision, head.value.clone(), request, &token);
            let revision_key = revision_key(number, "head");
            let mut conditions = exist.clone();
            conditions.extend([
                Condition::Modified("head".to_owned(), head.modified),
                same_rollout(&snapshot),
                Condition::Modified(revision_key.clone(), 0),
            ]);
            let txn = Txn {
                conditions,
                writes: vec![
                    put(revision_key, &revision, false),
                    put("rollout".to_owned(), &rollout, false),
                ],
            };
            if self.commit(&txn).await? {
                return Ok(started(number));
            }
        }
        conflict("others change the fleet at the same time: try again")
    }

    /// The rollout of a revision, before its preflight. `parent`: the head.
    fn rollout_of(
        &self,
        revision: &Revision,
        parent: Head,
        request: &FleetApplyRequest,
        token: &str,
    ) -> Rollout {
        let settings = &self.shared.settings;
        Rollout {
            revision: revision.number,
            digest: revision.digest.clone(),
            parent,
            state: FleetRolloutState::Written,
            reason: String::new(),
            started: revision.at,
            nodes: Vec::new(),
            absent: Vec::new(),
            waves: Vec::new(),
            verdicts: Vec::new(),
            position: 0,
            bake_s: request.bake_s.unwrap_or(settings.bake_s),
            confirm_s: settings.confirm_s,
            manual: request.manual,
            now: request.now,
            canary: request.canary.clone(),
            force: request.force.clone(),
            override_local: request.override_local,
            why: request.why.clone(),
            paused: None,
            confirmed: None,
            aborted: None,
            token: token.to_owned(),
        }
    }

    pub(crate) async fn rollback(
        &self,
        request: FleetRollbackRequest,
        who: Who,
    ) -> Result<FleetStarted> {
        let memory = self.memory().await?;
        let snapshot = self.snapshot().await?;
        let (_, head) = self.joined(&snapshot, &memory)?;
        let entry = |number: u64| snapshot.revisions.get(&number)?.head.as_ref();
        let rollout = snapshot.rollout.as_ref();
        if let Some(rollout) = rollout.filter(|rollout| !rollout.state.is_over()) {
            let revision = rollout.revision;
            match request.revision {
                // The command was repeated: going on is what it asked for.
                None if entry(revision).is_some_and(|entry| entry.undoes.is_some()) => {
                    return Ok(started(revision));
                }
                Some(number) if number != head.revision => is_free(&snapshot)?,
                _ => return self.abort(revision, &request, &who).await,
            }
        }
        self.follows()?;
        let number = match request.revision {
            Some(number) => number,
            None => before(
                head.revision,
                entry(head.revision).map(|entry| &entry.value),
            )?,
        };
        let Some(revision) = entry(number) else {
            return unknown(&snapshot, number);
        };
        if revision.digest == head.digest {
            return conflict(format!(
                "no changes: fleet revision {number} is identical to the head"
            ));
        }
        let text = fetch(&self.shared.client, &revision.digest).await;
        let apply = FleetApplyRequest {
            text: text.map_err(|error| away(&error))?,
            base: Some(head.revision),
            now: request.now,
            // A rollback is never stopped by guards.
            force: lb_api::Guard::VARIANTS.to_vec(),
            override_local: request.override_local,
            why: Some(
                request
                    .why
                    .unwrap_or_else(|| format!("rollback to {number}")),
            ),
            ..FleetApplyRequest::default()
        };
        self.start(&apply, Some(head.revision), &who).await
    }

    /// Lets all nodes undo the candidate.
    async fn abort(
        &self,
        revision: u64,
        request: &FleetRollbackRequest,
        who: &Who,
    ) -> Result<FleetStarted> {
        let why = match &request.why {
            Some(why) => format!("rolled back by {who}: {why}"),
            None => format!("rolled back by {who}"),
        };
        let is_done = |rollout: &Rollout| rollout.revision == revision && rollout.dead().is_some();
        let abort = |rollout: &mut Rollout| {
            rollout.aborted = Some(why.clone());
            Ok(())
        };
        let revision = self.mark(is_done, abort).await?.revision;
        Ok(FleetStarted {
            revision,
            undone: true,
        })
    }

    pub(crate) async fn confirm(&self, who: Who) -> Result<FleetStarted> {
        // The answer of the write may be lost, and the leader may be faster than the next try.
        let is_done = |rollout: &Rollout| rollout.confirmed.as_ref() == Some(&who);
        self.mark(is_done, |rollout| {
            if rollout.state != FleetRolloutState::AwaitingConfirm {
                return conflict(format!(
                    "the rollout of revision {} does not wait for confirmation (state: {})",
                    rollout.revision,
                    rollout.state.as_str()
                ));
            }
            rollout.confirmed = Some(who.clone());
            Ok(())
        })
        .await
    }

    pub(crate) async fn pause(&self, who: Who) -> Result<FleetStarted> {
        self.mark(never, |rollout| {
            rollout.paused.get_or_insert_with(|| who.clone());
            Ok(())
        })
        .await
    }

    pub(crate) async fn resume(&self, who: &str) -> Result<FleetStarted> {
        self.mark(never, |rollout| {
            rollout.paused = None;
            info!(who, rollout.revision, "resuming the rollout");
            Ok(())
        })
        .await
    }

    /// Changes the running rollout, unless that is done.
    async fn mark(
        &self,
        is_done: impl Fn(&Rollout) -> bool,
        change: impl Fn(&mut Rollout) -> Result<()>,
    ) -> Result<FleetStarted> {
        let memory = self.memory().await?;
        for _ in 0..TRIES {
            let snapshot = self.snapshot().await?;
            self.joined(&snapshot, &memory)?;
            let newest = snapshot.rollout.as_ref();
            if let Some(rollout) = newest.filter(|rollout| is_done(rollout)) {
                return Ok(started(rollout.revision));
            }
            let Some(rollout) = newest.filter(|r| r.dead().is_none() && !r.state.is_over()) else {
                return conflict(
                    "no rollout is running: `evenkeel fleet status` shows the last one",
                );
            };
            let mut next = rollout.value.clone();
            change(&mut next)?;
            let done = started(next.revision);
            if next == rollout.value {
                return Ok(done);
            }
            let txn = Txn {
                conditions: vec![same_rollout(&snapshot)],
                writes: vec![put("rollout".to_owned(), &next, false)],
            };
            if self.commit(&txn).await? {
                return Ok(done);
            }
        }
        conflict("the rollout changes at the same time: try again")
    }
}

fn never(_: &Rollout) -> bool {
    false
}

fn started(revision: u64) -> FleetStarted {
    FleetStarted {
        revision,
        undone: false,
    }
}

fn check_base(base: Option<u64>, head: u64) -> Result<()> {
    match base.filter(|base| *base != head) {
        Some(base) => conflict(format!(
            "the change is based on fleet revision {base}, but {head} is head: review the difference \
             (`evenkeel fleet diff {base} {head}`) and try again"
        )),
        None => Ok(()),
    }
}

fn is_free(snapshot: &Snapshot) -> Result<()> {
    let rollout: Option<&Entry<Rollout>> = snapshot.rollout.as_ref();
    match rollout.filter(|rollout| !rollout.state.is_over()) {
        Some(rollout) if rollout.dead().is_some() => conflict(format!(
            "the nodes undo revision {}: wait for the end (`evenkeel fleet status` shows it)",
            rollout.revision
        )),
        Some(rollout) => conflict(format!(
            "a rollout of revision {} is running (state: {}): `evenkeel fleet status` shows it, `evenkeel fleet \
             rollback` undoes it",
            rollout.revision,
            rollout.state.as_str()
        )),
        None => Ok(()),
    }
}

/// The revision before the head, for a rollback that names none.
fn before(head: u64, revision: Option<&Revision>) -> Result<u64> {
    if let Some(undone) = revision.and_then(|revision| revision.undoes) {
        return conflict(format!(
            "fleet revision {head} has rolled {undone} back already: name a revision (`evenkeel fleet history` \
             lists them)"
        ));
    }
    let parent = revision.and_then(|revision| revision.parent);
    let none = || {
        let message = format!("fleet revision {head} has no parent: name a revision");
        ApiError::new(ErrorCode::NotFound, message)
    };
    parent.ok_or_else(none)
}
