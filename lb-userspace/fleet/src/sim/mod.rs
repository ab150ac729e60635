//! A fleet of five nodes with an etcd in memory, where anything may crash, be cut off, be late or be lost.

mod cases;
mod etcd;
mod node;
mod tests;

use lb_api::FleetRolloutState;

use crate::{
    member::put,
    memory::{Known, Memory},
    records::{Head, Meta, Revision, Rollout, Spec, node_key, revision_key},
    store::{Committed, Condition, Txn},
};
use etcd::Etcd;
use node::{Fault, SimNode};

const BAKE_S: u32 = 3;
const CONFIRM_S: u32 = 12;
const NODES: usize = 5;

struct World {
    etcd: Etcd,
    nodes: Vec<SimNode>,
    now_ms: u64,
    /// Number of the next text.
    next: u32,
    /// Bake of the next rollout.
    bake_s: u32,
    /// Whether the next rollout replaces changes of nodes.
    override_local: bool,
}

impl World {
    fn new() -> Self {
        let text = "text 0;".to_owned();
        let at = jiff::Timestamp::UNIX_EPOCH;
        let facts = node::facts();
        let meta = Meta {
            id: "fleet".to_owned(),
            created: at,
            seed_fingerprint: facts.seed_fingerprint.clone(),
            table_size: facts.table_size,
            abi: facts.abi,
            imported: None,
        };
        let known = Known {
            revision: 1,
            digest: text.clone(),
            runs: text.clone(),
        };
        let memory = Memory {
            fleet: Some("fleet".to_owned()),
            head: Some(known),
            newest: 1,
            ..Memory::default()
        };
        let head = Head {
            revision: 1,
            digest: text.clone(),
        };
        let first = revision(1, None, &text);
        let mut writes = vec![
            put("meta".to_owned(), &meta, false),
            put("head".to_owned(), &head, false),
            put(revision_key(1, "head"), &first, false),
        ];
        let mut nodes = Vec::new();
        for index in 0..NODES {
            let name = format!("n{index}");
            let spec = Spec {
                rack: None,
                joined: at,
                facts: facts.clone(),
            };
            writes.push(put(node_key(&name, "spec"), &spec, false));
            nodes.push(SimNode::new(&name, &text, memory.clone()));
        }
        let mut etcd = Etcd::default();
        let txn = Txn {
            conditions: Vec::new(),
            writes,
        };
        assert_ne!(etcd.commit(&txn, 0), Committed::Conflict);
        let mut world = Self {
            etcd,
            nodes,
            now_ms: 1_000,
            next: 0,
            bake_s: BAKE_S,
            override_local: true,
        };
        for node in &mut world.nodes {
            node.boot(world.now_ms);
        }
        world
    }

    fn advance(&mut self, by_ms: u64) {
        self.now_ms += by_ms;
        self.etcd.expire(self.now_ms);
    }

    fn step(&mut self, index: usize, fault: Fault) -> bool {
        self.nodes[index].step(&mut self.etcd, self.now_ms, fault)
    }

    fn sync(&mut self, index: usize) {
        self.nodes[index].sync(&mut self.etcd, self.now_ms);
    }

    /// Lets time pass while everything works that is not cut off or dead.
    fn run(&mut self, for_ms: u64) {
        self.run_by(for_ms, 500);
    }

    fn run_by(&mut self, for_ms: u64, step_ms: u64) {
        let until = self.now_ms + for_ms;
        while self.now_ms < until {
            self.advance(step_ms);
            for index in 0..NODES {
                self.sync(index);
                for _ in 0..8 {
                    if !self.step(index, Fault::None) {
                        break;
                    }
                }
            }
        }
    }

    /// Begins a rollout, if none runs. `words` decide what becomes of it.
    fn apply(&mut self, words: &str, manual: bool) -> Option<u64> {
        let snapshot = self.etcd.snapshot();
        let rollout = snapshot.rollout.as_ref();
        if rollout.is_some_and(|rollout| !rollout.state.is_over()) {
            return None;
        }
        let head = snapshot.head.as_ref()?;
        self.next += 1;
        let text = format!("text {};{words}", self.next);
        let number = snapshot.newest() + 1;
        let next = Rollout {
            revision: number,
            digest: text.clone(),
            parent: head.value.clone(),
            state: FleetRolloutState::Written,
            reason: String::new(),
            started: jiff::Timestamp::UNIX_EPOCH,
            nodes: Vec::new(),
            absent: Vec::new(),
            waves: Vec::new(),
            verdicts: Vec::new(),
            position: 0,
            bake_s: self.bake_s,
            confirm_s: CONFIRM_S,
            manual,
            now: false,
            canary: None,
            force: Vec::new(),
            override_local: self.override_local,
            why: None,
            paused: None,
            confirmed: None,
            aborted: None,
            token: text.clone(),
        };
        let txn = Txn {
            conditions: Vec::new(),
            writes: vec![
                put(
                    revision_key(number, "head"),
                    &revision(number, Some(head.revision), &text),
                    false,
                ),
                put("rollout".to_owned(), &next, false),
            ],
        };
        self.etcd.commit(&txn, 0);
        Some(number)
    }

    /// Sets a mark of a command in a running rollout.
    fn mark(&mut self, change: impl Fn(&mut Rollout)) {
        let snapshot = self.etcd.snapshot();
        let Some(rollout) = snapshot.rollout else {
            return;
        };
        if rollout.state.is_over() || rollout.dead().is_some() {
            return;
        }
        let mut next = rollout.value.clone();
        change(&mut next);
        let txn = Txn {
            conditions: vec![Condition::Modified("rollout".to_owned(), rollout.modified)],
            writes: vec![put("rollout".to_owned(), &next, false)],
        };
        self.etcd.commit(&txn, 0);
    }

    fn rollout(&self) -> Rollout {
        self.etcd
            .snapshot()
            .rollout
            .expect("there is a rollout")
            .value
    }

    fn head(&self) -> String {
        self.etcd
            .snapshot()
            .head
            .expect("there is a head")
            .value
            .digest
    }
}

fn revision(number: u64, parent: Option<u64>, text: &str) -> Revision {
    Revision {
        number,
        parent,
        digest: text.to_owned(),
        parts: 1,
        author: "root".to_owned(),
        node: "n0".to_owned(),
        why: None,
        undoes: None,
        at: jiff::Timestamp::UNIX_EPOCH,
    }
}
