//! The states of a ring's slots over time: clean, in transition, settling.
//!
//! There is no table of all connections. When a ring changes, connections survive because a slot
//! remembers the member of its last clean state until the flows of that time have ended or are in
//! the tracking table (see [`lb_common::ring`]):
//!
//! ```text
//!            change                        ttl over
//!  clean ────────────────► in transition ────────────► settling
//!    ▲                      ▲  │ change: the previous     │ │
//!    │                      │  └── member stays ──┐       │ │
//!    │                      └─────────────────────┘       │ │
//!    │   no entry is left                     change      │ │
//!    └────────────────────────────────────────────────────┘ └──► in transition
//! ```
//!
//! - **In transition**: a flow without an entry that is not new belongs to the previous member.
//! - **Settling**: flows of the previous member are in the table, or have been idle for the whole
//!   transition; a flow without an entry belongs to the current member. The table is still looked
//!   up, because of the entries.
//! - **Clean**: the ring alone decides.
//!
//! A slot that returns to its previous member is settling at once: all flows without an entry belong
//! to that member, whenever they began.

use std::collections::BTreeMap;

use lb_common::ring::{
    self, ENTRIES_PER_WORD, IMAGE_WORDS, MAX_RING_SIZE, MemberIndex, NO_MEMBER, SECTION_WORDS, Slot,
};

/// Why a ring can't be changed or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The number of slots is fixed while a VIP exists: with another number, flows would be in other
    /// slots, and their members would be lost.
    #[error(
        "can't resize a ring from {has} to {new} slots: remove the VIP and add it again, which breaks \
         its connections, or keep ring_size"
    )]
    SizeChanged {
        /// Slots of the ring.
        has: usize,
        /// Slots of the new one.
        new: usize,
    },
    /// The image is too short, or the ring size is not one that an image holds.
    #[error("an image of {words} words can't hold a ring of {ring_size} slots")]
    NotAnImage {
        /// Words of the image.
        words: usize,
        /// Slots that it should hold.
        ring_size: u32,
    },
}

/// Numbers of slots by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotCounts {
    /// The ring alone decides.
    pub clean: u32,
    /// Flows of the previous member may have no entry yet.
    pub in_transition: u32,
    /// Only flows with an entry belong to earlier members.
    pub settling: u32,
}

/// The ring of a VIP, with the state of each slot.
///
/// A ring has up to 65,537 slots, and a node up to 1,024 rings, most of which are clean: they take two
/// bytes a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingState {
    current: Vec<MemberIndex>,
    /// `None` if all slots are clean.
    changes: Option<Changes>,
    summary: Summary,
}

/// The slots that are not clean, by number.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Changes {
    /// Their members in the last clean state; [`CLEAN`] for the others.
    previous: Vec<MemberIndex>,
    /// When they last changed their members; seconds of the caller's clock.
    changed_at_s: Vec<u32>,
}

/// In place of a previous member. No member has this index.
const CLEAN: MemberIndex = MemberIndex::MAX;

impl Changes {
    fn none(slots: usize) -> Self {
        Self {
            previous: vec![CLEAN; slots],
            changed_at_s: vec![0; slots],
        }
    }
}

/// What is known of all slots without reading them: a ring has up to 65,537.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Summary {
    counts: SlotCounts,
    /// When the oldest transition began.
    oldest_s: Option<u32>,
}

fn is_in_transition(slot: Slot) -> bool {
    slot.previous
        .is_some_and(|previous| previous != slot.current)
}

fn is_settling(slot: Slot) -> bool {
    slot.previous == Some(slot.current)
}

/// The slot after the ring assigned it to `new`.
fn changed(slot: Slot, new: MemberIndex) -> Slot {
    match slot {
        Slot { current, .. } if current == new => slot,
        // The slot had no member, so no flow belongs to another one.
        Slot {
            current: NO_MEMBER,
            previous: None,
        } => Slot::clean(new),
        Slot { current, previous } => Slot {
            current: new,
            previous: Some(previous.unwrap_or(current)),
        },
    }
}

impl RingState {
    /// The ring of a VIP that has had no flows: all slots are clean.
    #[must_use]
    pub fn new_clean(ring: &[MemberIndex]) -> Self {
        let mut state = Self {
            current: ring.to_vec(),
            changes: None,
            summary: Summary::default(),
        };
        state.summarize();
        state
    }

    /// Counts the slots, and forgets the changes if there are none.
    fn summarize(&mut self) {
        let mut summary = Summary::default();
        let counts = &mut summary.counts;
        let Some(changes) = &self.changes else {
            counts.clean = self.current.len() as u32;
            self.summary = summary;
            return;
        };
        for (slot, &at_s) in self.slots().zip(&changes.changed_at_s) {
            if is_in_transition(slot) {
                counts.in_transition += 1;
                let oldest_s = summary.oldest_s.get_or_insert(at_s);
                *oldest_s = at_s.min(*oldest_s);
            } else if is_settling(slot) {
                counts.settling += 1;
            } else {
                counts.clean += 1;
            }
        }
        if counts.in_transition == 0 && counts.settling == 0 {
            self.changes = None;
        }
        self.summary = summary;
    }

    /// Assigns the slots to the members of a new ring; returns the number of slots that moved.
    ///
    /// # Errors
    ///
    /// [`RingError::SizeChanged`] when the new ring has another number of slots; nothing changed.
    pub fn change(&mut self, new: &[MemberIndex], now_s: u32) -> Result<u32, RingError> {
        if new.len() != self.current.len() {
            return Err(RingError::SizeChanged {
                has: self.current.len(),
                new: new.len(),
            });
        }
        let mut moved = 0;
        for (number, &new) in new.iter().enumerate() {
            let slot = self.slot(number);
            if slot.current == new {
                continue;
            }
            moved += 1;
            let slot = changed(slot, new);
            self.current[number] = slot.current;
            // A slot that had no member is clean again, and others may not be.
            if slot.previous.is_some() || self.changes.is_some() {
                let slots = self.current.len();
                let changes = self.changes.get_or_insert_with(|| Changes::none(slots));
                changes.previous[number] = slot.previous.unwrap_or(CLEAN);
                changes.changed_at_s[number] = now_s;
            }
        }
        if moved > 0 {
            self.summarize();
        }
        Ok(moved)
    }

    /// Ends the transitions that began `transition_ttl_s` ago or earlier; returns how many.
    pub fn settle(&mut self, now_s: u32, transition_ttl_s: u32) -> u32 {
        let mut settled = 0;
        if self
            .next_settle_s(transition_ttl_s)
            .is_none_or(|at_s| at_s > now_s)
        {
            return settled;
        }
        if let Some(changes) = &mut self.changes {
            let all = changes.previous.iter_mut().zip(&changes.changed_at_s);
            for ((previous, at_s), current) in all.zip(&self.current) {
                let in_transition = *previous != CLEAN && previous != current;
                if in_transition && now_s.saturating_sub(*at_s) >= transition_ttl_s {
                    *previous = *current;
                    settled += 1;
                }
            }
        }
        self.summarize();
        settled
    }

    /// When the next transition ends; `None` when no slot is in transition.
    #[must_use]
    pub fn next_settle_s(&self, transition_ttl_s: u32) -> Option<u32> {
        let oldest_s = self.summary.oldest_s;
        oldest_s.map(|at_s| at_s.saturating_add(transition_ttl_s))
    }

    /// Makes settling slots clean; returns how many. Call it when the tracking table has no entry of
    /// the VIP. Slots in transition stay: packets of their flows may still arrive and need an entry.
    pub fn clean(&mut self) -> u32 {
        let mut cleaned = 0;
        if let Some(changes) = &mut self.changes {
            for (previous, current) in changes.previous.iter_mut().zip(&self.current) {
                if previous == current {
                    *previous = CLEAN;
                    cleaned += 1;
                }
            }
        }
        self.summarize();
        cleaned
    }

    /// Whether any slot refers to the member: until none does, its index can't be reused.
    #[must_use]
    pub fn references(&self, member: MemberIndex) -> bool {
        let previous = self.changes.as_ref().map(|changes| &changes.previous);
        self.current.contains(&member) || previous.is_some_and(|all| all.contains(&member))
    }

    /// The slots that are not clean, with their previous members, and whether they are in transition: what
    /// another node has to know if it is to choose alike.
    pub fn past(&self) -> impl Iterator<Item = (u32, MemberIndex, bool)> + '_ {
        let slots = self.changes.iter().flat_map(|_| (0..).zip(self.slots()));
        slots.filter_map(|(number, slot)| Some((number, slot.previous?, is_in_transition(slot))))
    }

    /// Learns from another node that slots are not clean there; returns how many changed here.
    ///
    /// A clean slot of a ring that `has_flows` becomes settling: its own flows have no entries, and those of
    /// the other node do. Without flows of its own, it takes over the previous member, as if the change had
    /// been made now. `None`: it is not known here. Slots that are not clean keep what they know.
    pub fn learn(
        &mut self,
        past: impl IntoIterator<Item = (u32, Option<MemberIndex>)>,
        has_flows: bool,
        now_s: u32,
    ) -> u32 {
        let mut learnt = 0;
        let slots = self.current.len();
        for (number, previous) in past {
            let number = number as usize;
            let Some(&current) = self.current.get(number) else {
                continue;
            };
            if current == NO_MEMBER || self.slot(number).previous.is_some() {
                continue;
            }
            let previous = previous.filter(|previous| !has_flows && *previous != NO_MEMBER);
            let changes = self.changes.get_or_insert_with(|| Changes::none(slots));
            changes.previous[number] = previous.unwrap_or(current);
            changes.changed_at_s[number] = now_s;
            learnt += 1;
        }
        if learnt > 0 {
            self.summarize();
        }
        learnt
    }

    /// Forgets all changes: no flow began before the last one.
    pub fn forget(&mut self) {
        self.changes = None;
        self.summarize();
    }

    /// Number of slots.
    #[must_use]
    pub const fn size(&self) -> u32 {
        self.current.len() as u32
    }

    fn slot(&self, number: usize) -> Slot {
        let changes = self.changes.as_ref();
        let previous = changes.map(|changes| changes.previous[number]);
        Slot {
            current: self.current[number],
            previous: previous.filter(|member| *member != CLEAN),
        }
    }

    /// The slots, by number.
    pub fn slots(&self) -> impl ExactSizeIterator<Item = Slot> + '_ {
        (0..self.current.len()).map(|number| self.slot(number))
    }

    /// The slots' members, by number.
    #[must_use]
    pub fn members(&self) -> &[MemberIndex] {
        &self.current
    }

    /// Numbers of slots by state.
    #[must_use]
    pub const fn counts(&self) -> SlotCounts {
        self.summary.counts
    }

    /// Slots per member, [`NO_MEMBER`] included. Divided by the number of slots, the table share.
    #[must_use]
    pub fn slots_per_member(&self) -> BTreeMap<MemberIndex, u32> {
        // An array, since a plan counts every ring of the node twice.
        let mut counts = vec![0; usize::from(NO_MEMBER) + 1];
        for member in &self.current {
            counts[usize::from(*member.min(&NO_MEMBER))] += 1;
        }
        let counted = (0..).zip(counts);
        counted.filter(|(_, slots)| *slots > 0).collect()
    }

    /// Slots that have another member than in `ring`.
    #[must_use]
    pub fn moved_since(&self, ring: &[MemberIndex]) -> u32 {
        let pairs = self.current.iter().zip(ring);
        pairs.filter(|(current, member)| current != member).count() as u32
    }

    /// The ring in the format of the data path: [`IMAGE_WORDS`] words.
    #[must_use]
    pub fn to_image(&self) -> Vec<u64> {
        let mut words = vec![0; IMAGE_WORDS as usize];
        let (first, second) = words.split_at_mut(SECTION_WORDS as usize);
        for (number, slot) in (0..).zip(self.slots()) {
            let (word, entries) = ((number / ENTRIES_PER_WORD) as usize, slot.encode());
            first[word] = ring::with_entry(first[word], number, entries.0);
            second[word] = ring::with_entry(second[word], number, entries.1);
        }
        words
    }

    /// Reads an image that an earlier controller wrote. It has no times: every slot that is not clean
    /// counts as changed now.
    ///
    /// # Errors
    ///
    /// [`RingError::NotAnImage`] when the image is too short or the ring too large.
    pub fn from_image(words: &[u64], ring_size: u32, now_s: u32) -> Result<Self, RingError> {
        if words.len() < IMAGE_WORDS as usize || ring_size > MAX_RING_SIZE {
            return Err(RingError::NotAnImage {
                words: words.len(),
                ring_size,
            });
        }
        let slot = |index: u32| {
            let word = (index / ENTRIES_PER_WORD) as usize;
            let first = ring::entry(words[word], index);
            Slot::decode(
                first,
                ring::entry(words[word + SECTION_WORDS as usize], index),
            )
        };
        let slots: Vec<Slot> = (0..ring_size).map(slot).collect();
        Ok(Self::of(&slots, now_s))
    }

    /// Slots of which those that are not clean changed at this time.
    fn of(slots: &[Slot], now_s: u32) -> Self {
        let previous = slots.iter().map(|slot| slot.previous.unwrap_or(CLEAN));
        let mut state = Self {
            current: slots.iter().map(|slot| slot.current).collect(),
            changes: Some(Changes {
                previous: previous.collect(),
                changed_at_s: vec![now_s; slots.len()],
            }),
            summary: Summary::default(),
        };
        state.summarize();
        state
    }
}

#[cfg(test)]
mod tests;
