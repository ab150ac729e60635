//! The members of a source, and what an answer changes about them.
//!
//! | rule | reason |
//! | --- | --- |
//! | A failure changes nothing. | The backends are there, whether DNS is or not. |
//! | New members come at once, and so do weights and states. | Health checks judge them before they get flows. |
//! | A member goes only if two answers in a row, some time apart, do not name it. | One answer may be cut, stale or from a server that is just starting. |
//! | At most half of the members go in a step, and at most half of the eligible ones. | The last one that serves never goes. Somebody has time to see what happens. |
//! | A member that goes is drained first. | Its connections end by themselves. |

use std::time::Duration;

use super::Member;
use crate::config::BackendState;

/// How fast members may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Time between two answers that count as two, and between two steps.
    pub interval: Duration,
    /// Whether one answer is enough: somebody has set the members.
    pub explicit: bool,
    /// Whether an answer without members is meant.
    pub allow_empty: bool,
}

/// How long a member is part of the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The last answer named it.
    Present,
    /// The answers since then did not.
    Missing {
        /// When that began, as the time of the answer.
        since: Duration,
    },
    /// It is drained, and removed after that.
    Leaving {
        /// When that began.
        since: Duration,
    },
}

/// A member and its stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// As the source named it last.
    pub member: Member,
    /// Whether it stays.
    pub stage: Stage,
}

impl Known {
    /// Whether it is being drained because its source no longer names it.
    #[must_use]
    pub const fn is_leaving(&self) -> bool {
        matches!(self.stage, Stage::Leaving { .. })
    }

    /// The state of its backend.
    #[must_use]
    pub fn state(&self) -> BackendState {
        match self.member.state {
            BackendState::Up if self.is_leaving() => BackendState::Drain,
            state => state,
        }
    }
}

/// The members of a source, in the order in which they came. Times are those of one clock that never
/// goes back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberSet {
    members: Vec<Known>,
}

/// What an answer has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Were not members before.
    pub added: Vec<Member>,
    /// Were about to leave.
    pub returned: Vec<Member>,
    /// Are drained from now on.
    pub leaving: Vec<Member>,
}

impl Changes {
    /// Whether no member came or went.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.added.is_empty() && self.returned.is_empty() && self.leaving.is_empty()
    }
}

/// Members that an answer does not name, and that have not gone yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Wait for a second answer.
    pub unconfirmed: usize,
    /// Wait for a later step.
    pub next_step: usize,
    /// Members of the set, without those that are leaving.
    pub of: usize,
}

impl Held {
    /// Whether members are held back.
    #[must_use]
    pub const fn any(&self) -> bool {
        self.unconfirmed + self.next_step > 0
    }

    /// What is held back, in words; none if nothing is.
    #[must_use]
    pub fn words(&self) -> Option<String> {
        let Self {
            unconfirmed,
            next_step,
            of,
        } = *self;
        match (unconfirmed, next_step) {
            (0, 0) => None,
            (missing, 0) => Some(format!(
                "{missing} of {of} missing, waiting for a second answer"
            )),
            (0, missing) => Some(format!(
                "{missing} of {of} missing, going in later steps: at most half go in a step, and never the \
                 last eligible one"
            )),
            (first, second) => Some(format!(
                "{} of {of} missing: {first} waiting for a second answer, {second} for a later step",
                first + second
            )),
        }
    }
}

/// The result of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The members from now on.
    pub set: MemberSet,
    /// What is new about them.
    pub changes: Changes,
    /// What is not new yet.
    pub held: Held,
}

impl MemberSet {
    /// A set from the disk: members, and whether they were leaving. Their time begins anew.
    pub fn restored(members: impl IntoIterator<Item = (Member, bool)>, at: Duration) -> Self {
        let stage = |is_leaving| match is_leaving {
            true => Stage::Leaving { since: at },
            false => Stage::Present,
        };
        let members = members.into_iter();
        Self {
            members: members
                .map(|(member, is_leaving)| Known {
                    member,
                    stage: stage(is_leaving),
                })
                .collect(),
        }
    }

    /// The members, also those that are leaving.
    #[must_use]
    pub fn members(&self) -> &[Known] {
        &self.members
    }

    /// Members that are not leaving.
    pub fn staying(&self) -> impl Iterator<Item = &Member> {
        let known = self.members.iter().filter(|known| !known.is_leaving());
        known.map(|known| &known.member)
    }

    /// The set after a failure: what was missing has to be missing twice again.
    #[must_use]
    pub fn failed(&self) -> Self {
        let mut set = self.clone();
        for known in &mut set.members {
            if matches!(known.stage, Stage::Missing { .. }) {
                known.stage = Stage::Present;
            }
        }
        set
    }

    /// The set after an answer. `is_eligible` says which members get new flows now. None if the answer has
    /// no members, and that is not meant.
    #[must_use]
    pub fn answered(
        &self,
        answer: &[Member],
        at: Duration,
        pace: Pace,
        is_eligible: impl Fn(&Member) -> bool,
    ) -> Option<Answer> {
        let is_emptied = answer.is_empty();
        if is_emptied && !pace.allow_empty {
            return None;
        }
        let (mut set, mut changes) = (self.clone(), Changes::default());
        set.update(answer, &mut changes);
        let missing = set.mark_missing(answer, at);
        let is_confirmed = |since: Duration| pace.explicit || at >= since + pace.interval;
        let (confirmed, unconfirmed): (Vec<_>, Vec<_>) = missing
            .into_iter()
            .partition(|(_, since)| is_confirmed(*since));
        let mut allowance = Allowance::of(self, is_emptied, &is_eligible);
        // Those that serve nobody go first.
        let mut confirmed: Vec<usize> = confirmed.into_iter().map(|(index, _)| index).collect();
        confirmed.sort_by_key(|index| is_eligible(&set.members[*index].member));
        let mut next_step = 0;
        for index in confirmed {
            let known = &mut set.members[index];
            if allowance.take(is_eligible(&known.member)) {
                known.stage = Stage::Leaving { since: at };
                changes.leaving.push(known.member.clone());
            } else {
                next_step += 1;
            }
        }
        let held = Held {
            unconfirmed: unconfirmed.len(),
            next_step,
            of: set.staying().count(),
        };
        Some(Answer { set, changes, held })
    }

    /// Adds the new members of an answer, and adopts what it says of known ones.
    fn update(&mut self, answer: &[Member], changes: &mut Changes) {
        for member in answer {
            let mut all = self.members.iter_mut();
            match all.find(|known| known.member.key() == member.key()) {
                Some(known) => {
                    if known.is_leaving() {
                        changes.returned.push(member.clone());
                    }
                    *known = Known {
                        member: member.clone(),
                        stage: Stage::Present,
                    };
                }
                None => {
                    changes.added.push(member.clone());
                    self.members.push(Known {
                        member: member.clone(),
                        stage: Stage::Present,
                    });
                }
            }
        }
    }

    /// Marks what an answer does not name. Returns the indexes, and since when each is missing.
    fn mark_missing(&mut self, answer: &[Member], at: Duration) -> Vec<(usize, Duration)> {
        let mut missing = Vec::new();
        for (index, known) in self.members.iter_mut().enumerate() {
            if answer.iter().any(|named| named.key() == known.member.key()) {
                continue;
            }
            let since = match known.stage {
                Stage::Leaving { .. } => continue,
                Stage::Missing { since } => since,
                Stage::Present => at,
            };
            known.stage = Stage::Missing { since };
            missing.push((index, since));
        }
        missing
    }

    /// The set without the leaving members that `are_done`: given a member and how long it has been
    /// leaving. Also returns the removed ones.
    #[must_use]
    pub fn retired(
        &self,
        at: Duration,
        are_done: impl Fn(&Member, Duration) -> bool,
    ) -> (Self, Vec<Member>) {
        let is_done = |known: &Known| match known.stage {
            Stage::Leaving { since } => are_done(&known.member, at.saturating_sub(since)),
            _ => false,
        };
        let (gone, members): (Vec<Known>, _) = self.members.iter().cloned().partition(is_done);
        let gone = gone.into_iter().map(|known| known.member).collect();
        (Self { members }, gone)
    }
}

/// How many members may go in one step.
struct Allowance {
    members: usize,
    eligible: usize,
}

impl Allowance {
    /// Half of the members before the answer: those that it adds have not proved anything yet.
    fn of(before: &MemberSet, is_emptied: bool, is_eligible: impl Fn(&Member) -> bool) -> Self {
        let half = |count: usize| match is_emptied {
            true => count.div_ceil(2),
            false => count / 2,
        };
        Self {
            members: half(before.staying().count()),
            eligible: half(
                before
                    .staying()
                    .filter(|member| is_eligible(member))
                    .count(),
            ),
        }
    }

    fn take(&mut self, is_eligible: bool) -> bool {
        let may_go = self.members > 0 && (!is_eligible || self.eligible > 0);
        if may_go {
            self.members -= 1;
            self.eligible -= usize::from(is_eligible);
        }
        may_go
    }
}
