//! The commands: each reads etcd, and writes one transaction that holds only if nothing has changed since.

mod doctor;
mod fleet;
mod questions;
mod rollouts;

use jiff::Timestamp;
use lb_api::{ApiError, ErrorCode, FleetRevisionInfo, Guard, Plan, Refused};
use rand::{RngExt as _, distr::Alphanumeric};
use tokio::sync::oneshot;

use crate::{
    agent::{Request, Running, parts},
    digest,
    handle::Who,
    memory::Memory,
    node::NodeError,
    records::{Head, Meta, Revision},
    snapshot::{Entry, RevisionEntry, Snapshot},
    store::{Committed, Condition, Txn, Write},
};

/// How often a command tries again when others write at the same time.
const TRIES: usize = 5;

pub(crate) type Result<T> = std::result::Result<T, Refused>;

fn refuse<T>(code: ErrorCode, message: impl Into<String>) -> Result<T> {
    Err(ApiError::new(code, message))
}

fn conflict<T>(message: impl Into<String>) -> Result<T> {
    refuse(ErrorCode::Conflict, message)
}

fn away(error: &str) -> Refused {
    ApiError::new(
        ErrorCode::Failed,
        format!(
            "the request to etcd failed: {error}. `evenkeel fleet doctor` checks its endpoints"
        ),
    )
}

fn stopped() -> Refused {
    ApiError::new(ErrorCode::Failed, "the fleet's agent has stopped")
}

fn node_error(error: NodeError) -> Refused {
    let message = error.to_string();
    match error {
        NodeError::Busy { remaining_s, .. } => ApiError::busy(message, remaining_s),
        NodeError::Refused { plan, .. } => ApiError::refused(message, *plan),
        NodeError::Invalid(_) => ApiError::new(ErrorCode::InvalidConfig, message),
        NodeError::Conflict(_) => ApiError::new(ErrorCode::Conflict, message),
        NodeError::Failed(_) => ApiError::new(ErrorCode::Failed, message),
    }
}

fn random() -> String {
    let letters = rand::rng().sample_iter(Alphanumeric);
    letters.take(16).map(char::from).collect()
}

impl Running {
    async fn snapshot(&self) -> Result<Snapshot> {
        let listed = self.shared.list().await;
        listed.map_err(|error| away(&error))?;
        let decoded = self.shared.snapshot();
        let snapshot = decoded.map_or_else(|| Ok(Snapshot::default()), |known| (*known).clone());
        // etcd has answered, and this version does not understand it.
        snapshot.map_err(|error| ApiError::new(ErrorCode::Failed, error))
    }

    async fn commit(&self, txn: &Txn) -> Result<bool> {
        let committed = self
            .shared
            .commit(txn)
            .await
            .map_err(|error| away(&error))?;
        Ok(committed != Committed::Conflict)
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        let sent = self.requests.send(request(sender)).await;
        sent.map_err(|_| stopped())?;
        receiver.await.map_err(|_| stopped())
    }

    async fn memory(&self) -> Result<Memory> {
        self.ask(Request::Memory).await
    }

    async fn remember(&self, memory: Memory) -> Result<()> {
        let remembered = self.ask(|reply| Request::Remember(memory.into(), reply));
        let remembered = remembered.await?;
        remembered.map_err(|error| ApiError::new(ErrorCode::Failed, error))
    }

    async fn plan_here(&self, text: &str, force: &[Guard]) -> Result<Plan> {
        let plan = self.ask(|reply| Request::Plan(text.to_owned(), force.to_vec(), reply));
        plan.await?.map_err(node_error)
    }

    /// A revision with this text, without parent and reason.
    fn revision_of(&self, number: u64, text: &str, author: Who) -> Revision {
        Revision {
            number,
            parent: None,
            digest: digest(text),
            parts: parts(text).len(),
            author,
            node: self.shared.settings.node.clone(),
            why: None,
            undoes: None,
            at: Timestamp::now(),
        }
    }

    /// Writes the parts of a text, and returns the conditions that they are there.
    async fn write_text(&self, text: &str) -> Result<Vec<Condition>> {
        let mut conditions = Vec::new();
        for part in parts(text) {
            conditions.push(Condition::Exists(part.key().to_owned()));
            let txn = Txn {
                conditions: Vec::new(),
                writes: vec![part],
            };
            self.commit(&txn).await?;
        }
        Ok(conditions)
    }

    /// The fleet and its head, for commands that need a joined node.
    fn joined<'s>(
        &self,
        snapshot: &'s Snapshot,
        memory: &Memory,
    ) -> Result<(&'s Entry<Meta>, &'s Entry<Head>)> {
        let fleet = &self.shared.settings.fleet;
        let Some(meta) = &snapshot.meta else {
            return refuse(
                ErrorCode::NotFound,
                format!("etcd has no fleet {fleet}: `evenkeel fleet init` creates it"),
            );
        };
        if memory.fleet.is_none() {
            return conflict(format!(
                "this node has not joined fleet {fleet}: run `evenkeel fleet join`"
            ));
        }
        if memory.fleet.as_ref() != Some(&meta.id) {
            return conflict(format!(
                "this node has joined another fleet named {fleet}: `evenkeel fleet status` shows the reason"
            ));
        }
        match &snapshot.head {
            Some(head) => Ok((meta, head)),
            None => refuse(ErrorCode::NotFound, format!("fleet {fleet} has no head")),
        }
    }

    /// Checks that the node follows the fleet, and returns why not.
    fn follows(&self) -> Result<()> {
        let state = self.state.borrow();
        if state.state == lb_api::FleetNodeState::Refused {
            return conflict(format!("this node refuses the fleet: {}", state.reason));
        }
        Ok(())
    }
}

/// A revision as the API shows it.
fn shown(entry: &RevisionEntry) -> Option<FleetRevisionInfo> {
    let Revision {
        number,
        parent,
        digest,
        parts: _,
        author,
        node,
        why,
        undoes: _,
        at,
    } = entry.head.as_ref()?.value.clone();
    Some(FleetRevisionInfo {
        number,
        parent,
        digest,
        author,
        node,
        why,
        at,
        outcome: entry.outcome.as_ref().map(|outcome| outcome.value.clone()),
    })
}

fn delete(key: impl Into<String>) -> Write {
    Write::Delete(key.into())
}
