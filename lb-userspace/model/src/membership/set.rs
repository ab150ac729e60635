//! The members of a source, and what an answer changes about them.
//!
//! | rule | reason |
//! | --- | --- |
//! | A failure changes nothing. | The backends are there, whether DNS is or not. |
//! | New members come at once, and so do weights and states. | Health checks judge them before they get flows. |
//! | A member goes only if two answers in a row, some time apart, do not name it. | One answer may be cut, stale or from a server that is just starting. |
//! | At most half of the members go in a step, and at most half of the eligible ones of each VIP. | The last one that serves never goes. Somebody has time to see what happens. |
//! | A member that goes is drained first. | Its connections end by themselves. |
//! | A name belongs to the member that the last answer gives it to. | A named member may move to another address. |

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    time::Duration,
};

use super::{Member, name_of};
use crate::config::BackendState;

/// What makes a member the same in another answer: its address, and its port if it has one of its own.
pub type MemberKey = (IpAddr, Option<u16>);

/// How fast members may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Time between two answers that count as two, and between two steps.
    pub interval: Duration,
    /// Whether one answer is enough: somebody has set the members.
    pub explicit: bool,
    /// Whether an answer without a member that gets new flows is meant.
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

impl Stage {
    /// Which of two members for one place has it: the lower one.
    pub(super) const fn rank(self) -> u8 {
        match self {
            Self::Present => 0,
            Self::Missing { .. } => 1,
            Self::Leaving { .. } => 2,
        }
    }
}

/// A member and its stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// As the source named it last.
    pub member: Member,
    /// Whether it stays.
    pub stage: Stage,
    /// The name that it had before another member was given it.
    pub former_name: Option<String>,
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
    /// When members last began to leave.
    left_at: Option<Duration>,
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

/// What follows from an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetChange {
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
        let known = |(member, is_leaving)| Known {
            member,
            stage: match is_leaving {
                true => Stage::Leaving { since: at },
                false => Stage::Present,
            },
            former_name: None,
        };
        Self::kept(members.into_iter().map(known).collect(), at)
    }

    /// A set with these members.
    #[must_use]
    pub fn kept(members: Vec<Known>, at: Duration) -> Self {
        let left_at = members.iter().any(Known::is_leaving).then_some(at);
        Self { members, left_at }
    }

    /// The set after an answer to which no VIP forwards: exactly what it names. None if no member would get
    /// new flows, and that is not meant.
    #[must_use]
    pub fn replaced(answer: &[Member], allow_empty: bool) -> Option<SetChange> {
        (allow_empty || answer.iter().any(serves)).then(|| SetChange {
            set: Self::restored(answer.iter().map(|it| (it.clone(), false)), Duration::ZERO),
            changes: Changes::default(),
            held: Held {
                of: answer.len(),
                ..Held::default()
            },
        })
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

    /// The set after an answer. `eligible` has, for each VIP of the source, the members that get new flows
    /// in it now. None if no member would get new flows, and that is not meant.
    #[must_use]
    pub fn answered(
        &self,
        answer: &[Member],
        at: Duration,
        pace: Pace,
        eligible: &[HashSet<MemberKey>],
    ) -> Option<SetChange> {
        let is_emptied = !answer.iter().any(serves);
        if is_emptied && !pace.allow_empty {
            return None;
        }
        let (mut set, mut changes) = (self.clone(), Changes::default());
        set.update(answer, &mut changes);
        set.rename_namesakes(answer);
        let missing = set.mark_missing(answer, at);
        let is_confirmed = |since: Duration| pace.explicit || at >= since + pace.interval;
        let (confirmed, unconfirmed): (Vec<_>, Vec<_>) = missing
            .into_iter()
            .partition(|(_, since)| is_confirmed(*since));
        let is_too_soon = self.left_at.is_some_and(|left| at < left + pace.interval);
        let mut allowance = match is_too_soon {
            true => Allowance::default(),
            false => Allowance::of(self, is_emptied, eligible),
        };
        // Those that serve nobody go first.
        let mut confirmed: Vec<usize> = confirmed.into_iter().map(|(index, _)| index).collect();
        confirmed.sort_by_key(|index| {
            let key = set.members[*index].member.key();
            eligible.iter().any(|vip| vip.contains(&key))
        });
        let mut next_step = 0;
        for index in confirmed {
            let known = &mut set.members[index];
            if allowance.take(known.member.key()) {
                known.stage = Stage::Leaving { since: at };
                changes.leaving.push(known.member.clone());
                set.left_at = Some(at);
            } else {
                next_step += 1;
            }
        }
        let held = Held {
            unconfirmed: unconfirmed.len(),
            next_step,
            of: set.staying().count(),
        };
        Some(SetChange { set, changes, held })
    }

    /// Adds the new members of an answer, and adopts what it says of known ones.
    fn update(&mut self, answer: &[Member], changes: &mut Changes) {
        let places = self.members.iter().enumerate();
        let places: HashMap<MemberKey, usize> = places
            .map(|(index, known)| (known.member.key(), index))
            .collect();
        for member in answer {
            let named = Known {
                member: member.clone(),
                stage: Stage::Present,
                former_name: None,
            };
            match places.get(&member.key()) {
                Some(&index) => {
                    if self.members[index].is_leaving() {
                        changes.returned.push(member.clone());
                    }
                    self.members[index] = named;
                }
                None => {
                    changes.added.push(member.clone());
                    self.members.push(named);
                }
            }
        }
    }

    /// Gives the members whose names an answer has given to others a name of their own.
    fn rename_namesakes(&mut self, answer: &[Member]) {
        let owners = answer.iter();
        let owners: HashMap<&str, MemberKey> =
            owners.map(|it| (it.name.as_str(), it.key())).collect();
        let names = self.members.iter().map(|known| known.member.name.clone());
        let mut taken: HashSet<String> = names.collect();
        for known in &mut self.members {
            let member = &mut known.member;
            let owner = owners.get(member.name.as_str());
            if owner.is_none_or(|owner| *owner == member.key()) {
                continue;
            }
            let place = name_of(member.address, member.port);
            let names = std::iter::once(place.clone())
                .chain((2..).map(|number: u32| format!("{place}-{number}")));
            // There are more numbers than members.
            for name in names {
                if taken.insert(name.clone()) {
                    let former = std::mem::replace(&mut member.name, name);
                    known.former_name.get_or_insert(former);
                    break;
                }
            }
        }
    }

    /// Marks what an answer does not name. Returns the indexes, and since when each is missing.
    fn mark_missing(&mut self, answer: &[Member], at: Duration) -> Vec<(usize, Duration)> {
        let named: HashSet<MemberKey> = answer.iter().map(Member::key).collect();
        let mut missing = Vec::new();
        for (index, known) in self.members.iter_mut().enumerate() {
            if named.contains(&known.member.key()) {
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
        let left_at = self.left_at;
        (Self { members, left_at }, gone)
    }
}

/// Whether a member gets new flows, as its source has it.
fn serves(member: &Member) -> bool {
    member.state == BackendState::Up && member.weight > 0
}

/// How many members may go in one step.
#[derive(Default)]
struct Allowance<'a> {
    members: usize,
    /// The eligible members of each VIP, and how many of them may go.
    eligible: Vec<(&'a HashSet<MemberKey>, usize)>,
}

impl<'a> Allowance<'a> {
    /// Half of the members before the answer: those that it adds have not proved anything yet.
    fn of(before: &MemberSet, is_emptied: bool, eligible: &'a [HashSet<MemberKey>]) -> Self {
        let half = |count: usize| match is_emptied {
            true => count.div_ceil(2),
            false => count / 2,
        };
        let of_vip = |vip: &'a HashSet<MemberKey>| {
            let staying = before
                .staying()
                .filter(|member| vip.contains(&member.key()));
            (vip, half(staying.count()))
        };
        Self {
            members: half(before.staying().count()),
            eligible: eligible.iter().map(of_vip).collect(),
        }
    }

    fn take(&mut self, member: MemberKey) -> bool {
        let mut vips = self.eligible.iter();
        let may_go =
            self.members > 0 && vips.all(|(vip, left)| *left > 0 || !vip.contains(&member));
        if may_go {
            self.members -= 1;
            for (vip, left) in &mut self.eligible {
                *left -= usize::from(vip.contains(&member));
            }
        }
        may_go
    }
}
