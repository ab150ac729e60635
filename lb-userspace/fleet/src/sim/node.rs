//! A simulated node: its engine, which survives crashes of the controller, and the state machines.

use super::{BAKE_S, CONFIRM_S, etcd::Etcd};
use crate::{
    leader::{self, Leader},
    member::{Action, Asked, Input, Member, Settings, Standing, Then},
    memory::Memory,
    node::{Facts, Observed, Outcome, Running, Trial},
    snapshot::{Keys, Snapshot},
    store::{Committed, Txn},
};

/// What goes wrong in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// The controller dies before the action.
    DiesBefore,
    /// It dies after the action, before it knows the result.
    DiesAfter,
    /// The answer of etcd is lost.
    AnswerLost,
}

#[derive(Clone, Debug, PartialEq)]
enum End {
    Trial {
        bake_until: u64,
        confirm_until: Option<u64>,
    },
    Kept,
    RolledBack(String),
}

/// Reason of a rollback by `evenkeel rollback`.
const BY_OPERATOR: &str = "operator";

/// What the daemon's engine does. Texts are their own digests.
#[derive(Debug)]
pub(super) struct Engine {
    revisions: Vec<(String, End)>,
    active: usize,
    parent: usize,
}

impl Engine {
    fn judge(&mut self, now_ms: u64, node: &str) {
        let is_sick = self.active().contains(&format!("sick={node};"));
        let (_, end) = &mut self.revisions[self.active];
        let End::Trial {
            bake_until,
            confirm_until,
        } = end
        else {
            return;
        };
        if is_sick && now_ms >= *bake_until - 1000 {
            self.roll_back("sick");
        } else if now_ms >= *bake_until {
            match confirm_until {
                None => *end = End::Kept,
                Some(until) if now_ms >= *until => self.roll_back("not confirmed"),
                Some(_) => {}
            }
        }
    }

    fn roll_back(&mut self, why: &str) {
        self.revisions[self.active].1 = End::RolledBack(why.to_owned());
        self.active = self.parent;
    }

    fn trial(&self, index: usize, now_ms: u64) -> Option<Trial> {
        match self.revisions[index].1 {
            End::Trial { bake_until, .. } if now_ms < bake_until => Some(Trial::Baking),
            End::Trial { .. } => Some(Trial::AwaitsConfirm),
            _ => None,
        }
    }

    pub(super) fn active(&self) -> &str {
        &self.revisions[self.active].0
    }

    /// Whether a change is on trial that needs a confirmation.
    pub(super) fn is_candidate(&self) -> bool {
        matches!(
            self.revisions[self.active].1,
            End::Trial {
                confirm_until: Some(_),
                ..
            }
        )
    }

    /// An operator rolls back what is on trial.
    pub(super) fn roll_back_by_hand(&mut self) {
        if self.is_on_trial() {
            self.roll_back(BY_OPERATOR);
        }
    }

    pub(super) fn is_on_trial(&self) -> bool {
        matches!(self.revisions[self.active].1, End::Trial { .. })
    }

    /// Changes the text on the node itself.
    pub(super) fn change(&mut self, text: String) {
        self.parent = self.active;
        self.revisions.push((text, End::Kept));
        self.active = self.revisions.len() - 1;
    }
}

pub(super) struct SimNode {
    pub(super) name: String,
    pub(super) engine: Engine,
    disk: Memory,
    /// None: the controller does not run.
    pub(super) process: Option<Process>,
    pub(super) is_cut_off: bool,
    /// etcd does not give this node the text that it is to apply.
    pub(super) lacks_text: bool,
    /// The state folder can't be written.
    pub(super) has_full_disk: bool,
}

/// What ends with the controller.
pub(super) struct Process {
    pub(super) member: Member,
    leader: Leader,
    keys: Keys,
    lease: i64,
    pub(super) contact_ms: Option<u64>,
}

impl SimNode {
    pub(super) fn new(name: &str, text: &str, memory: Memory) -> Self {
        Self {
            name: name.to_owned(),
            engine: Engine {
                revisions: vec![(text.to_owned(), End::Kept)],
                active: 0,
                parent: 0,
            },
            disk: memory,
            process: None,
            is_cut_off: false,
            lacks_text: false,
            has_full_disk: false,
        }
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.disk
    }

    pub(super) fn boot(&mut self, now_ms: u64) {
        if self.process.is_some() {
            return;
        }
        let settings = Settings {
            node: self.name.clone(),
            rack: None,
            exchange: None,
            bake_s: BAKE_S,
            confirm_s: CONFIRM_S,
        };
        self.process = Some(Process {
            member: Member::new(settings, facts(), self.disk.clone(), now_ms),
            leader: Leader::default(),
            keys: Keys::default(),
            lease: 0,
            contact_ms: None,
        });
    }

    /// Lists the keys and renews the lease.
    pub(super) fn sync(&mut self, etcd: &mut Etcd, now_ms: u64) {
        let Some(process) = self.process.as_mut().filter(|_| !self.is_cut_off) else {
            return;
        };
        let newest = process.keys.newest();
        process.keys.list(etcd.list(), newest);
        if process.lease == 0 || !etcd.keep_alive(process.lease, now_ms) {
            process.lease = etcd.grant(now_ms);
        }
        process.contact_ms = Some(now_ms);
    }

    /// Delivers a change again that a watch may have brought long ago, or has not brought yet.
    pub(super) fn deliver(&mut self, etcd: &Etcd, which: usize) {
        if let Some(process) = self.process.as_mut().filter(|_| !self.is_cut_off)
            && let Some(kv) = etcd.history.get(which % etcd.history.len().max(1))
            // What was deleted stays so: etcd brings changes of one key in their order.
            && kv.lease == 0
        {
            process
                .keys
                .change(vec![crate::store::Change::Put(kv.clone())]);
        }
    }

    /// Does the next thing. Returns whether there was one.
    pub(super) fn step(&mut self, etcd: &mut Etcd, now_ms: u64, fault: Fault) -> bool {
        self.engine.judge(now_ms, &self.name);
        let Some(process) = &mut self.process else {
            return false;
        };
        let running = Running {
            digest: self.engine.active().to_owned(),
            local: index(self.engine.active),
            trial: self.engine.trial(self.engine.active, now_ms),
        };
        let outcome = process.member.pending_local().map(|local| {
            let index = usize::try_from(local).unwrap() - 1;
            match &self.engine.revisions[index].1 {
                End::Kept => Outcome::Kept,
                End::RolledBack(why) => Outcome::RolledBack {
                    why: why.clone(),
                    by_operator: why == BY_OPERATOR,
                },
                End::Trial { .. } => Outcome::Trial(self.engine.trial(index, now_ms).unwrap()),
            }
        });
        let decoded = process.keys.decode();
        let snapshot = decoded.as_deref().map(|decoded| decoded.as_ref().unwrap());
        let input = Input {
            now_ms,
            contact_ms: process.contact_ms,
            snapshot: snapshot.map(Ok),
            lease: process.lease,
            running: &running,
            outcome: outcome.as_ref(),
            observed: Observed {
                new_flows: now_ms,
                ..Observed::default()
            },
        };
        let action = process.member.step(&input);
        if fault == Fault::DiesBefore {
            self.process = None;
            return true;
        }
        let Some(action) = action else {
            let txn = snapshot.and_then(|snapshot| process.lead(&self.name, snapshot, now_ms));
            return match txn {
                Some(txn) => self.commit(etcd, &txn, now_ms, fault) == Some(true),
                None => false,
            };
        };
        let is_lost = fault == Fault::DiesAfter;
        match action {
            Action::Save if self.has_full_disk => {
                process.member.not_saved("disk full".to_owned());
                // As the agent does: what its own node can't do keeps no leader from leading.
                let txn = snapshot.and_then(|s| process.lead(&self.name, s, now_ms));
                return txn.is_some_and(|txn| self.commit(etcd, &txn, now_ms, fault) == Some(true));
            }
            Action::Save => {
                self.disk = process.member.memory().clone();
                process.member.saved();
            }
            Action::Commit(txn, then) => {
                return self.commit_for(etcd, &txn, then, &input, fault);
            }
            Action::Plan { asked, digest, .. } => {
                let refuses = digest.contains(&format!("refuse={};", self.name));
                let refusal = refuses.then(|| "guard".to_owned());
                assert!(matches!(asked, Asked::Rollout(_)));
                process.member.planned(&asked, refusal);
            }
            Action::Apply { .. } if self.lacks_text => return false,
            Action::Apply { digest, how } => {
                let is_candidate = how.confirm_s.is_some();
                let pending = process.member.memory().pending.clone().unwrap();
                assert_eq!(
                    self.disk.pending.as_ref(),
                    Some(&pending),
                    "not on disk before"
                );
                let age = now_ms - process.contact_ms.unwrap();
                assert!(age <= 20_000, "{} applies without etcd", self.name);
                if is_candidate {
                    let claim = (self.name.clone(), pending.revision);
                    assert!(etcd.claims.contains(&claim), "applied without a claim");
                } else {
                    assert!(etcd.heads.contains(&digest), "{digest} was never head");
                }
                assert!(running.trial.is_none(), "a trial is running");
                self.engine.parent = self.engine.active;
                let bake_until = now_ms + u64::from(how.bake_s) * 1000;
                let confirm = how.confirm_s.map(|s| bake_until + u64::from(s) * 1000);
                let end = End::Trial {
                    bake_until,
                    confirm_until: confirm,
                };
                self.engine.revisions.push((digest, end));
                self.engine.active = self.engine.revisions.len() - 1;
                if !is_lost {
                    process
                        .member
                        .applied(Ok(Some(index(self.engine.active))), now_ms);
                }
            }
            Action::Explain { .. } => unreachable!("nobody asks"),
            Action::Extend { local, confirm_s } => {
                let revision = &mut self.engine.revisions[usize::try_from(local).unwrap() - 1];
                if let End::Trial { confirm_until, .. } = &mut revision.1 {
                    *confirm_until = Some(now_ms + u64::from(confirm_s) * 1000);
                }
                process.member.extended(now_ms);
            }
            Action::Confirm { local } => {
                let index = usize::try_from(local).unwrap() - 1;
                let text = &self.engine.revisions[index].0;
                assert!(
                    etcd.heads.contains(text),
                    "{text} is kept, but was never head"
                );
                self.engine.revisions[index].1 = End::Kept;
            }
            Action::RollBack { why, .. } => self.engine.roll_back(&why),
        }
        if is_lost {
            self.process = None;
        }
        true
    }

    /// None: no answer.
    fn commit(&mut self, etcd: &mut Etcd, txn: &Txn, now_ms: u64, fault: Fault) -> Option<bool> {
        let process = self.process.as_mut()?;
        if self.is_cut_off || etcd.is_full {
            return None;
        }
        let committed = etcd.commit(txn, process.lease);
        match fault {
            Fault::DiesAfter => self.process = None,
            Fault::AnswerLost => {}
            _ => {
                process.contact_ms = Some(now_ms);
                if let Committed::At(revision) = committed {
                    process.keys.wrote(txn, revision, process.lease);
                    return Some(true);
                }
                return Some(false);
            }
        }
        None
    }

    fn commit_for(
        &mut self,
        etcd: &mut Etcd,
        txn: &Txn,
        then: Then,
        input: &Input<'_>,
        fault: Fault,
    ) -> bool {
        match self.commit(etcd, txn, input.now_ms, fault) {
            Some(true) => {
                if let Some(process) = &mut self.process {
                    process.member.committed(then, input, input.now_ms);
                }
                true
            }
            _ => false,
        }
    }
}

impl Process {
    fn lead(&mut self, node: &str, snapshot: &Snapshot, now_ms: u64) -> Option<Txn> {
        let follows = *self.member.standing() == Standing::Follows;
        let Some(leader) = &snapshot.leader else {
            return (follows && self.lease != 0).then(|| leader::campaign(node));
        };
        if leader.node != node || leader.lease != self.lease || !follows {
            return None;
        }
        let fence = leader.created;
        let step = self.leader.step(&leader::Input {
            now_ms,
            at: jiff::Timestamp::UNIX_EPOCH,
            snapshot,
            fence,
        });
        step.or_else(|| leader::garbage(snapshot, &[], fence))
    }

    /// The state as shown.
    pub(super) fn state(&self) -> lb_api::FleetNodeState {
        self.member.state().0
    }
}

pub(super) fn facts() -> Facts {
    Facts {
        abi: 1,
        table_size: 251,
        seed_fingerprint: "seed".to_owned(),
        version: "0.1.0".to_owned(),
    }
}

fn index(of: usize) -> u64 {
    of as u64 + 1
}
