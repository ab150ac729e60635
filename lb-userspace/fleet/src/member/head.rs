//! The head on this node: followed at once, or retried.

use lb_api::VariantArray as _;

use super::{Action, Input, Member};
use crate::{
    memory::{Kind, Known, Local},
    node::{How, Outcome},
    records::Head,
    snapshot::{Entry, Snapshot},
};

/// Longest time between two tries in seconds.
const LONGEST_S: u64 = 60;

/// When the head is tried again.
#[derive(Debug, Default)]
pub(super) struct Retry {
    revision: u64,
    delay_s: u64,
    after_ms: u64,
    reason: String,
}

impl Retry {
    /// The head could not be applied, or was rolled back.
    pub(super) fn failed(&mut self, revision: u64, reason: &str, now_ms: u64) {
        let again = self.revision == revision;
        self.delay_s = if again {
            (self.delay_s * 2).clamp(1, LONGEST_S)
        } else {
            1
        };
        self.revision = revision;
        self.after_ms = now_ms + self.delay_s * 1000;
        // Without the delay: etcd is written only when something changes.
        self.reason = format!("revision {revision}: {reason}; retrying");
    }

    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    /// Whether a head could not be applied, or was rolled back.
    pub(super) fn has_failed(&self) -> bool {
        !self.reason.is_empty()
    }

    fn is_due(&self, revision: u64, now_ms: u64) -> bool {
        self.revision != revision || now_ms >= self.after_ms
    }
}

impl Member {
    /// Takes the head, if the node does not run it and was not changed itself.
    pub(super) fn follow_head(&mut self, input: &Input<'_>, snapshot: &Snapshot) -> Option<Action> {
        let head = snapshot.head.as_ref()?;
        let known = self.memory.head.as_ref();
        let is_known = known.is_some_and(|known| known.revision == head.revision);
        if is_known && (!self.memory.take || self.is_unchanged(input.running)) {
            if self.memory.take {
                self.memory.take = false;
                return Some(Action::Save);
            }
            return None;
        }
        if input.running.digest == head.digest && input.running.trial.is_none() {
            self.memory.head = Some(Known {
                revision: head.revision,
                digest: head.digest.clone(),
                runs: head.digest.clone(),
            });
            self.memory.take = false;
            return Some(Action::Save);
        }
        let may_replace = self.memory.take || self.is_unchanged(input.running);
        // A rollout may mend what this node can't apply: it must not find the node trying again.
        let rollout = snapshot.rollout.as_ref();
        let is_changing = rollout.is_some_and(|rollout| {
            !rollout.state.is_over() && rollout.nodes.contains(&self.settings.node)
        });
        if !may_replace
            || input.running.trial.is_some()
            || (is_changing && self.retry.has_failed())
            || !self.retry.is_due(head.revision, input.now_ms)
        {
            return None;
        }
        let (revision, digest) = (head.revision, head.digest.clone());
        self.begin(Kind::Head, revision, &digest, input);
        Some(Action::Save)
    }

    /// Goes on with the pending head.
    pub(super) fn settle_head(
        &mut self,
        input: &Input<'_>,
        snapshot: Option<&Snapshot>,
    ) -> Option<Action> {
        let pending = self.memory.pending.clone()?;
        let revision = pending.revision;
        match pending.local {
            Local::Unknown if self.applying_ms.is_some() => {
                let snapshot = snapshot.filter(|_| self.standing.follows());
                let head = snapshot.and_then(|snapshot| snapshot.head.as_ref());
                let is_head = |head: &&Entry<Head>| {
                    head.revision == revision && head.digest == pending.digest
                };
                // Its text could not be read, and meanwhile there is another head.
                if head.filter(is_head).is_none() {
                    self.memory.pending = None;
                    self.applying_ms = None;
                    return None;
                }
                let how = How {
                    bake_s: self.settings.bake_s,
                    confirm_s: None,
                    // The fleet has judged it.
                    force: lb_api::Guard::VARIANTS.to_vec(),
                    origin: format!("fleet revision {revision}"),
                    why: Some("the head of the fleet".to_owned()),
                };
                return Some(Action::Apply {
                    digest: pending.digest,
                    how,
                });
            }
            Local::Unknown => {
                if input.running.digest == pending.digest && input.running.local != pending.before {
                    if let Some(pending) = &mut self.memory.pending {
                        pending.local = Local::Revision(input.running.local);
                    }
                } else {
                    self.memory.pending = None;
                }
            }
            Local::Unchanged => self.keep(input),
            Local::Revision(_) => match input.outcome? {
                Outcome::Trial(_) => {}
                Outcome::Kept => self.keep(input),
                Outcome::RolledBack {
                    by_operator: true, ..
                } => {
                    // The operator's word: the node knows the head, and differs from it.
                    let running = pending.digest.clone();
                    self.memory.pending = None;
                    self.memory.take = false;
                    self.memory.head = Some(Known {
                        revision,
                        digest: pending.digest,
                        runs: running,
                    });
                }
                Outcome::RolledBack { why, .. } => {
                    self.memory.pending = None;
                    self.retry.failed(revision, why, input.now_ms);
                }
                Outcome::Unknown => self.memory.pending = None,
            },
        }
        None
    }
}
