//! `fleet init`, `join`, `leave`, `import`, and the history.

use jiff::Timestamp;
use lb_api::{ErrorCode, FleetInitRequest, FleetRevision, FleetRevisionInfo};
use tracing::info;

use super::{Result, away, conflict, delete, random, refuse, shown};
use crate::{
    agent::{LEASE_S, Request, Running, fetch},
    digest,
    handle::Who,
    member::{Standing, put, standing},
    memory::{Known, Memory},
    records::{Head, Imported, Meta, Outcome, Revision, Spec, node_key, revision_key},
    snapshot::Snapshot,
    store::{Condition, Txn, Write},
};

impl Running {
    /// The text that the node runs, and its digest.
    async fn text_here(&self) -> Result<(String, String)> {
        self.ask(Request::Text).await?.map_err(super::node_error)
    }

    fn meta(&self, imported: Option<Imported>) -> Meta {
        let facts = &self.shared.facts;
        Meta {
            id: random(),
            created: Timestamp::now(),
            seed_fingerprint: facts.seed_fingerprint.clone(),
            table_size: facts.table_size,
            abi: facts.abi,
            imported,
        }
    }

    fn spec(&self) -> Write {
        let settings = &self.shared.settings;
        let spec = Spec {
            rack: settings.rack.clone(),
            joined: Timestamp::now(),
            facts: self.shared.facts.clone(),
        };
        put(node_key(&settings.node, "spec"), &spec, false)
    }

    /// The writes of a revision that is head at once.
    fn first(&self, meta: &Meta, revision: &Revision, detail: &str) -> Vec<Write> {
        let outcome = Outcome {
            confirmed: true,
            detail: detail.to_owned(),
            at: revision.at,
        };
        let head = Head {
            revision: revision.number,
            digest: revision.digest.clone(),
        };
        vec![
            put("meta".to_owned(), meta, false),
            put("head".to_owned(), &head, false),
            put(revision_key(revision.number, "head"), revision, false),
            put(revision_key(revision.number, "outcome"), &outcome, false),
            self.spec(),
        ]
    }

    pub(crate) async fn init(
        &self,
        request: FleetInitRequest,
        who: Who,
    ) -> Result<FleetRevisionInfo> {
        let fleet = &self.shared.settings.fleet;
        let snapshot = self.snapshot().await?;
        if let Some(meta) = &snapshot.meta {
            return conflict(format!(
                "etcd has fleet {fleet} already, created {}: `evenkeel fleet join` joins it",
                meta.value.created
            ));
        }
        if let Some(known) = &self.memory().await?.fleet {
            return conflict(format!(
                "this node remembers fleet {known}, which etcd has lost: `evenkeel fleet import` writes it to \
                 etcd anew, `evenkeel fleet leave` forgets it"
            ));
        }
        let (running, running_digest) = self.text_here().await?;
        let text = match request.text {
            Some(text) => {
                self.plan_here(&text, lb_api::VariantArray::VARIANTS)
                    .await?;
                text
            }
            None => running,
        };
        let meta = self.meta(None);
        let revision = Revision {
            why: request.why,
            ..self.revision_of(1, &text, who)
        };
        let mut conditions = self.write_text(&text).await?;
        conditions.push(Condition::Modified("meta".to_owned(), 0));
        let txn = Txn {
            conditions,
            writes: self.first(&meta, &revision, "fleet init"),
        };
        if !self.commit(&txn).await? && self.meta_id().await? != Some(meta.id.clone()) {
            return conflict("another node has created the fleet: `evenkeel fleet join` joins it");
        }
        let is_running = revision.digest == running_digest;
        let known = Known {
            revision: 1,
            digest: revision.digest.clone(),
            runs: running_digest,
        };
        self.remember(Memory {
            fleet: Some(meta.id),
            head: is_running.then_some(known),
            newest: 1,
            take: !is_running,
            ..Memory::default()
        })
        .await?;
        self.history_of(1).await
    }

    async fn meta_id(&self) -> Result<Option<String>> {
        let snapshot = self.snapshot().await?;
        Ok(snapshot.meta.map(|meta| meta.value.id))
    }

    async fn history_of(&self, number: u64) -> Result<FleetRevisionInfo> {
        let snapshot = self.snapshot().await?;
        let entry = snapshot.revisions.get(&number).and_then(shown);
        entry.map_or_else(|| unknown(&snapshot, number), Ok)
    }

    pub(crate) async fn join(&self, who: &str) -> Result<()> {
        let fleet = &self.shared.settings.fleet;
        let snapshot = self.snapshot().await?;
        let (Some(meta), Some(head)) = (&snapshot.meta, &snapshot.head) else {
            return refuse(
                ErrorCode::NotFound,
                format!("etcd has no fleet {fleet}: `evenkeel fleet init` creates it"),
            );
        };
        if let Some(difference) = meta.difference(&self.shared.facts) {
            return conflict(format!(
                "this node can't join fleet {fleet}: its {difference}"
            ));
        }
        let memory = self.memory().await?;
        let node = &self.shared.settings.node;
        let live = snapshot.node(node).and_then(|node| node.live.as_ref());
        let is_other = live.is_some_and(|live| live.lease != self.shared.lease());
        if is_other && memory.fleet.as_ref() != Some(&meta.id) {
            return conflict(format!(
                "fleet {fleet} has a live node {node}: give this one another `fleet.node`, or try again in {LEASE_S} s \
                 if it was this one"
            ));
        }
        if let Some(pending) = &memory.pending {
            let number = pending.revision;
            return conflict(format!(
                "fleet revision {number} is on trial on this node: wait for its end"
            ));
        }
        let txn = Txn {
            conditions: vec![Condition::Modified("meta".to_owned(), meta.modified)],
            writes: vec![self.spec()],
        };
        if !self.commit(&txn).await? {
            return conflict("the fleet was changed at the same time: try again");
        }
        info!(who, fleet, "this node has joined the fleet");
        let is_same = memory.fleet.as_ref() == Some(&meta.id);
        self.remember(Memory {
            fleet: Some(meta.id.clone()),
            newest: head.revision,
            // What was confirmed in this fleet still tells what runs here; what came later is given up.
            head: memory
                .head
                .filter(|known| is_same && known.revision <= head.revision),
            take: true,
            ..Memory::default()
        })
        .await
    }

    pub(crate) async fn leave(&self, node: Option<String>, who: &str) -> Result<()> {
        let own = &self.shared.settings.node;
        let node = node.as_ref().unwrap_or(own);
        let snapshot = self.snapshot().await?;
        let is_known = snapshot.node(node).is_some_and(|node| node.spec.is_some());
        if !is_known && node != own {
            let nodes = snapshot.nodes.keys().cloned().collect::<Vec<_>>();
            let nodes = nodes.join(", ");
            return refuse(
                ErrorCode::NotFound,
                format!("no node {node} has joined the fleet; its nodes: {nodes}"),
            );
        }
        let rollout = snapshot.rollout.as_ref();
        if let Some(rollout) = rollout.filter(|rollout| !rollout.state.is_over()) {
            return conflict(format!(
                "a rollout of revision {} is running: wait for its end, or undo it with `evenkeel fleet \
                 rollback`",
                rollout.revision
            ));
        }
        let modified = rollout.map_or(0, |rollout| rollout.modified);
        let txn = Txn {
            conditions: vec![Condition::Modified("rollout".to_owned(), modified)],
            writes: ["spec", "live", "result"]
                .map(|part| delete(node_key(node, part)))
                .to_vec(),
        };
        if !self.commit(&txn).await? {
            return conflict("a rollout has begun at the same time: wait for its end");
        }
        info!(who, node, "the node has left the fleet");
        if node == own {
            self.remember(Memory::default()).await?;
        }
        Ok(())
    }

    /// What may be imported: the id of the fleet, its head as this node has confirmed it, and the text.
    async fn to_import<'m>(
        &self,
        memory: &'m Memory,
        snapshot: &Snapshot,
    ) -> Result<(&'m String, &'m Known, String)> {
        let (Some(previous), Some(known)) = (&memory.fleet, &memory.head) else {
            return conflict(
                "this node has confirmed no fleet revision: import on a node that has",
            );
        };
        let (text, running) = self.text_here().await?;
        if running != known.runs || digest(&text) != running {
            return conflict(format!(
                "this node does not run fleet revision {}, which it has confirmed: import on a node that does",
                known.revision
            ));
        }
        // All nodes that run something else would refuse the fleet.
        let node = &self.shared.settings.node;
        let standing = standing(memory, &self.shared.facts, node, snapshot);
        if !matches!(standing, Standing::Refuses(_)) {
            return conflict(
                "this node follows the fleet that etcd has: there is nothing to import",
            );
        }
        Ok((previous, known, text))
    }

    pub(crate) async fn import(&self, who: Who) -> Result<FleetRevisionInfo> {
        let snapshot = self.snapshot().await?;
        let memory = self.memory().await?;
        let (previous, known, text) = self.to_import(&memory, &snapshot).await?;
        let meta = snapshot.meta.as_ref();
        let number = snapshot.newest().max(memory.newest) + 1;
        let new = self.meta(Some(Imported {
            previous: previous.clone(),
            revision: number,
            digest: known.digest.clone(),
        }));
        let revision = Revision {
            why: Some(format!("fleet import of revision {}", known.revision)),
            ..self.revision_of(number, &text, who)
        };
        let mut conditions = self.write_text(&text).await?;
        let modified = meta.map_or(0, |meta| meta.modified);
        conditions.push(Condition::Modified("meta".to_owned(), modified));
        let mut writes = self.first(&new, &revision, "fleet import");
        // A rollout of the old snapshot, and whoever led it.
        writes.extend([delete("rollout"), delete("leader")]);
        if let Some(rollout) = snapshot.rollout.filter(|rollout| !rollout.state.is_over()) {
            let outcome = Outcome {
                confirmed: false,
                detail: format!("replaced by the import of revision {number}"),
                at: revision.at,
            };
            let key = revision_key(rollout.revision, "outcome");
            writes.push(put(key, &outcome, false));
        }
        let txn = Txn { conditions, writes };
        if !self.commit(&txn).await? {
            return conflict("etcd was changed at the same time: try again");
        }
        self.remember(Memory {
            fleet: Some(new.id),
            newest: number,
            head: Some(Known {
                revision: number,
                digest: revision.digest.clone(),
                runs: revision.digest,
            }),
            ..Memory::default()
        })
        .await?;
        self.history_of(number).await
    }

    pub(crate) async fn history(&self) -> Result<Vec<FleetRevisionInfo>> {
        let snapshot = self.snapshot().await?;
        Ok(snapshot
            .revisions
            .values()
            .rev()
            .filter_map(shown)
            .collect())
    }

    pub(crate) async fn revision(&self, number: Option<u64>) -> Result<FleetRevision> {
        let snapshot = self.snapshot().await?;
        let head = snapshot.head.as_ref().map(|head| head.revision);
        let Some(number) = number.or(head) else {
            return refuse(ErrorCode::NotFound, "the fleet has no revisions");
        };
        let Some(info) = snapshot.revisions.get(&number).and_then(shown) else {
            return unknown(&snapshot, number);
        };
        let text = fetch(&self.shared.client, &info.digest).await;
        let text = text.map_err(|error| away(&error))?;
        Ok(FleetRevision { info, text })
    }
}

/// The error of a number that no revision has.
pub(super) fn unknown<T>(snapshot: &Snapshot, number: u64) -> Result<T> {
    let mut numbers = snapshot.revisions.keys();
    let range = match (numbers.next(), numbers.next_back()) {
        (Some(first), Some(last)) => format!("etcd has {first} to {last}"),
        (Some(only), None) => format!("etcd has only {only}"),
        _ => "etcd has none".to_owned(),
    };
    refuse(
        ErrorCode::NotFound,
        format!("no fleet revision {number}: {range}"),
    )
}
