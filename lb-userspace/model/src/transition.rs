//! The ring of a VIP through time: which slots are clean, in transition, settling.
//!
//! No table has an entry for every connection. What keeps connections together when a ring changes
//! is that a slot remembers the member of its last clean state until the flows of that time are
//! either over or entered into the tracking table (see [`lb_common::ring`]):
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
//! - **Settling**: flows that the previous member still had are in the table, or have been silent for
//!   all the transition; a flow without an entry belongs to the current member. The table is still
//!   asked, because of the entries.
//! - **Clean**: the ring alone decides.
//!
//! A slot that goes back to its previous member is settling at once: all flows without an entry are
//! that member's, whenever they began.

use std::collections::BTreeMap;

use lb_common::ring::{
    self, ENTRIES_PER_WORD, IMAGE_WORDS, MAX_RING_SIZE, MemberIndex, NO_MEMBER, SECTION_WORDS, Slot,
};

/// Why a ring can't be changed or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The number of slots is fixed as long as a VIP lives: with another number, flows would be in
    /// other slots, and nobody would know whose they were.
    #[error(
        "a ring of {has} slots can't be changed into one of {new}: remove the VIP and add it again, \
         which breaks its connections, or keep ring_size"
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

/// How many slots are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotCounts {
    /// The ring alone decides.
    pub clean: u32,
    /// Flows of the previous member may have no entry yet.
    pub in_transition: u32,
    /// Only the entries of the past matter.
    pub settling: u32,
}

/// The ring of one VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingState {
    slots: Vec<Slot>,
    /// When a slot that is not clean last changed its member; seconds of the caller's clock.
    changed_at_s: Vec<u32>,
}

fn is_in_transition(slot: Slot) -> bool {
    slot.previous
        .is_some_and(|previous| previous != slot.current)
}

fn is_settling(slot: Slot) -> bool {
    slot.previous == Some(slot.current)
}

/// What a slot becomes when the ring gives it to `new`.
fn changed(slot: Slot, new: MemberIndex) -> Slot {
    match slot {
        Slot { current, .. } if current == new => slot,
        // Nobody had the slot, so no flow can be anybody else's.
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
        Self {
            slots: ring.iter().map(|&member| Slot::clean(member)).collect(),
            changed_at_s: vec![0; ring.len()],
        }
    }

    /// Gives the slots to the members of a new ring; returns how many slots moved.
    ///
    /// # Errors
    ///
    /// [`RingError::SizeChanged`] when the new ring has another number of slots; nothing changed.
    pub fn change(&mut self, new: &[MemberIndex], now_s: u32) -> Result<u32, RingError> {
        if new.len() != self.slots.len() {
            return Err(RingError::SizeChanged {
                has: self.slots.len(),
                new: new.len(),
            });
        }
        let mut moved = 0;
        for ((slot, at_s), &new) in self.slots.iter_mut().zip(&mut self.changed_at_s).zip(new) {
            if slot.current != new {
                *slot = changed(*slot, new);
                *at_s = now_s;
                moved += 1;
            }
        }
        Ok(moved)
    }

    /// Ends the transitions that began `transition_ttl_s` ago or earlier; returns how many.
    pub fn settle(&mut self, now_s: u32, transition_ttl_s: u32) -> u32 {
        let mut settled = 0;
        for (slot, at_s) in self.slots.iter_mut().zip(&self.changed_at_s) {
            if is_in_transition(*slot) && now_s.saturating_sub(*at_s) >= transition_ttl_s {
                slot.previous = Some(slot.current);
                settled += 1;
            }
        }
        settled
    }

    /// When [`Self::settle`] next has something to do; `None` when no slot is in transition.
    #[must_use]
    pub fn next_settle_s(&self, transition_ttl_s: u32) -> Option<u32> {
        let slots = self.slots.iter().zip(&self.changed_at_s);
        let at_s = slots
            .filter(|(slot, _)| is_in_transition(**slot))
            .map(|(_, at_s)| *at_s)
            .min();
        at_s.map(|at_s| at_s.saturating_add(transition_ttl_s))
    }

    /// Makes the settling slots clean; returns how many. To be called when the tracking table has
    /// no entry of the VIP. Slots in transition stay: their flows may still come and need an entry.
    pub fn clean(&mut self) -> u32 {
        let mut cleaned = 0;
        for slot in self.slots.iter_mut().filter(|slot| is_settling(**slot)) {
            slot.previous = None;
            cleaned += 1;
        }
        cleaned
    }

    /// Whether any slot names the member: as long as one does, its index can't be used again.
    #[must_use]
    pub fn references(&self, member: MemberIndex) -> bool {
        self.slots
            .iter()
            .any(|slot| slot.current == member || slot.previous == Some(member))
    }

    /// The slots.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// How many slots are in which state.
    #[must_use]
    pub fn counts(&self) -> SlotCounts {
        let mut counts = SlotCounts::default();
        for slot in &self.slots {
            match slot.previous {
                None => counts.clean += 1,
                Some(previous) if previous == slot.current => counts.settling += 1,
                Some(_) => counts.in_transition += 1,
            }
        }
        counts
    }

    /// Slots that each member has, [`NO_MEMBER`] included: over the number of slots, the table share.
    #[must_use]
    pub fn slots_per_member(&self) -> BTreeMap<MemberIndex, u32> {
        // A table, since a plan counts every ring of the node twice.
        let mut counts = vec![0; usize::from(NO_MEMBER) + 1];
        for slot in &self.slots {
            counts[usize::from(slot.current.min(NO_MEMBER))] += 1;
        }
        let counted = (0..).zip(counts);
        counted.filter(|(_, slots)| *slots > 0).collect()
    }

    /// Slots that have another member than in `ring`.
    #[must_use]
    pub fn moved_since(&self, ring: &[MemberIndex]) -> u32 {
        self.slots
            .iter()
            .zip(ring)
            .filter(|(slot, member)| slot.current != **member)
            .count() as u32
    }

    /// The ring as the data path reads it: [`IMAGE_WORDS`] words.
    #[must_use]
    pub fn to_image(&self) -> Vec<u64> {
        let mut words = vec![0; IMAGE_WORDS as usize];
        let (first, second) = words.split_at_mut(SECTION_WORDS as usize);
        let slots = self.slots.chunks(ENTRIES_PER_WORD as usize);
        for ((slots, first), second) in slots.zip(first).zip(second) {
            for (index, slot) in (0..).zip(slots) {
                let entries = slot.encode();
                *first = ring::with_entry(*first, index, entries.0);
                *second = ring::with_entry(*second, index, entries.1);
            }
        }
        words
    }

    /// Reads an image that a controller before this one wrote. When its slots changed is not known
    /// any more: every slot that is not clean counts as changed now.
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
        Ok(Self {
            slots: (0..ring_size).map(slot).collect(),
            changed_at_s: vec![now_s; ring_size as usize],
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TTL_S: u32 = 900;

    fn in_transition(current: MemberIndex, previous: MemberIndex) -> Slot {
        Slot {
            current,
            previous: Some(previous),
        }
    }

    /// One slot, through a list of owners at one-second intervals.
    fn slot_after(owners: &[MemberIndex]) -> Slot {
        let mut ring = RingState::new_clean(&owners[..1]);
        for (now_s, owner) in (1..).zip(&owners[1..]) {
            ring.change(&[*owner], now_s).unwrap();
        }
        ring.slots()[0]
    }

    #[test]
    fn a_change_remembers_the_last_clean_member() {
        assert_eq!(slot_after(&[1, 1]), Slot::clean(1));
        assert_eq!(slot_after(&[1, 2]), in_transition(2, 1));
        assert_eq!(slot_after(&[1, 2, 3]), in_transition(3, 1));
        assert_eq!(slot_after(&[1, 2, 2]), in_transition(2, 1));
        assert_eq!(slot_after(&[1, 2, 1]), in_transition(1, 1));
        assert_eq!(slot_after(&[1, 2, 1, 3]), in_transition(3, 1));
    }

    #[test]
    fn an_empty_ring_has_no_past() {
        assert_eq!(slot_after(&[NO_MEMBER, 1]), Slot::clean(1));
        assert_eq!(slot_after(&[1, NO_MEMBER]), in_transition(NO_MEMBER, 1));
        assert_eq!(slot_after(&[1, NO_MEMBER, 2]), in_transition(2, 1));
    }

    #[test]
    fn a_transition_ends_after_its_time_and_not_before() {
        let mut ring = RingState::new_clean(&[1, 1, 1]);
        assert_eq!(ring.change(&[2, 1, 1], 10), Ok(1));
        assert_eq!(ring.change(&[2, 3, 1], 20), Ok(1));
        assert_eq!(ring.next_settle_s(TTL_S), Some(10 + TTL_S));
        assert_eq!(ring.settle(9 + TTL_S, TTL_S), 0);
        assert_eq!(ring.settle(10 + TTL_S, TTL_S), 1);
        assert_eq!(
            ring.slots(),
            [in_transition(2, 2), in_transition(3, 1), Slot::clean(1)]
        );
        assert_eq!(
            ring.counts(),
            SlotCounts {
                clean: 1,
                in_transition: 1,
                settling: 1
            }
        );
        assert_eq!(ring.next_settle_s(TTL_S), Some(20 + TTL_S));
        assert_eq!(ring.clean(), 1);
        assert_eq!(
            ring.slots(),
            [Slot::clean(2), in_transition(3, 1), Slot::clean(1)]
        );
        assert_eq!(ring.settle(20 + TTL_S, TTL_S), 1);
        assert_eq!(ring.clean(), 1);
        assert_eq!((ring.next_settle_s(TTL_S), ring.counts().clean), (None, 3));
    }

    #[test]
    fn a_second_change_starts_the_time_anew() {
        let mut ring = RingState::new_clean(&[1]);
        ring.change(&[2], 10).unwrap();
        ring.change(&[3], 500).unwrap();
        ring.change(&[3], 800).unwrap();
        assert_eq!(ring.settle(499 + TTL_S, TTL_S), 0);
        assert_eq!(ring.settle(500 + TTL_S, TTL_S), 1);
    }

    #[test]
    fn a_settled_slot_that_changes_has_its_present_member_behind_it() {
        let mut ring = RingState::new_clean(&[1]);
        ring.change(&[2], 10).unwrap();
        ring.settle(10 + TTL_S, TTL_S);
        ring.change(&[3], 2000).unwrap();
        assert_eq!(ring.slots(), [in_transition(3, 2)]);
        assert!(!ring.references(1) && ring.references(2) && ring.references(3));
    }

    #[test]
    fn another_size_is_refused_and_changes_nothing() {
        let mut ring = RingState::new_clean(&[1, 2]);
        let error = ring.change(&[1, 2, 3], 1).unwrap_err();
        assert_eq!(error, RingError::SizeChanged { has: 2, new: 3 });
        assert!(
            error
                .to_string()
                .contains("ring of 2 slots can't be changed into one of 3")
        );
        assert_eq!(ring, RingState::new_clean(&[1, 2]));
    }

    #[test]
    fn adoption_starts_the_time_anew() {
        let mut ring = RingState::new_clean(&[1, 1]);
        ring.change(&[2, 1], 10).unwrap();
        let mut adopted = RingState::from_image(&ring.to_image(), 2, 5000).unwrap();
        assert_eq!(adopted.slots(), ring.slots());
        assert_eq!(adopted.settle(4999 + TTL_S, TTL_S), 0);
        assert_eq!(adopted.settle(5000 + TTL_S, TTL_S), 1);
    }

    #[test]
    fn what_is_no_image_is_refused() {
        assert!(RingState::from_image(&[0; 100], 251, 0).is_err());
        assert!(RingState::from_image(&vec![0; IMAGE_WORDS as usize], 65_539, 0).is_err());
    }

    #[test]
    fn shares_and_moves_are_counted() {
        let mut ring = RingState::new_clean(&[1, 1, 2, NO_MEMBER]);
        ring.change(&[1, 3, 3, NO_MEMBER], 1).unwrap();
        let shares = BTreeMap::from([(1, 1), (3, 2), (NO_MEMBER, 1)]);
        assert_eq!(ring.slots_per_member(), shares);
        assert_eq!(ring.moved_since(&[1, 1, 2, NO_MEMBER]), 2);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Change(Vec<MemberIndex>),
        Settle,
        Clean,
        Restart,
    }

    fn ring_of(slots: usize) -> impl Strategy<Value = Vec<MemberIndex>> {
        let member = prop_oneof![8 => 0u16..4, 1 => Just(NO_MEMBER)];
        prop::collection::vec(member, slots)
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => ring_of(9).prop_map(Step::Change),
            1 => Just(Step::Settle),
            1 => Just(Step::Clean),
            1 => Just(Step::Restart),
        ]
    }

    /// The flows of one slot as the data path treats them: who has a flow, and is it in the table?
    #[derive(Default)]
    struct Flows {
        opened: Vec<(MemberIndex, bool)>,
    }

    impl Flows {
        /// A flow begins: it goes to the current member, with an entry unless the slot is clean.
        fn open(&mut self, slot: Slot) {
            if slot.current != NO_MEMBER {
                self.opened.push((slot.current, slot.previous.is_some()));
            }
        }

        /// Every flow sends a packet; those that had to be looked up have an entry afterwards.
        fn send(&mut self, slot: Slot) {
            for (member, entered) in &mut self.opened {
                let goes_to = match slot.previous {
                    None => slot.current,
                    Some(_) if *entered => *member,
                    Some(previous) => previous,
                };
                assert_eq!(goes_to, *member, "a flow moved in {slot:?}");
                *entered |= slot.previous.is_some();
            }
        }
    }

    proptest! {
        /// The heart of it: whatever happens to a ring, a flow that sends a packet at least once in
        /// every transition stays where it began.
        #[test]
        fn no_active_flow_ever_moves(
            first in ring_of(9),
            steps in prop::collection::vec((step(), any::<bool>()), 1..40),
        ) {
            let mut ring = RingState::new_clean(&first);
            let mut flows: Vec<Flows> = first.iter().map(|_| Flows::default()).collect();
            let mut now_s = 0;
            for (step, talks) in steps {
                let all = flows.iter_mut().zip(ring.slots());
                all.for_each(|(flows, slot)| flows.open(*slot));
                match step {
                    Step::Change(new) => {
                        let before = ring.clone();
                        let moved = ring.change(&new, now_s).unwrap();
                        prop_assert_eq!(moved, before.moved_since(&new));
                        prop_assert_eq!(ring.moved_since(&new), 0);
                    }
                    Step::Settle => {
                        let all = flows.iter_mut().zip(ring.slots());
                        all.for_each(|(flows, slot)| flows.send(*slot));
                        now_s += TTL_S;
                        ring.settle(now_s, TTL_S);
                        prop_assert_eq!(ring.counts().in_transition, 0);
                    }
                    Step::Clean => {
                        // Allowed when the table is empty: flows with entries are over.
                        flows.iter_mut().for_each(|flows| flows.opened.retain(|(_, e)| !e));
                        ring.clean();
                        prop_assert_eq!(ring.counts().settling, 0);
                    }
                    Step::Restart => {
                        let slots = ring.slots().to_vec();
                        ring = RingState::from_image(&ring.to_image(), 9, now_s).unwrap();
                        prop_assert_eq!(ring.slots(), &slots[..]);
                    }
                }
                if talks {
                    let all = flows.iter_mut().zip(ring.slots());
                    all.for_each(|(flows, slot)| flows.send(*slot));
                }
                for member in 0..5 {
                    let named = |s: &Slot| s.current == member || s.previous == Some(member);
                    prop_assert_eq!(ring.references(member), ring.slots().iter().any(named));
                }
                let SlotCounts { clean, in_transition, settling } = ring.counts();
                prop_assert_eq!(clean + in_transition + settling, 9);
                prop_assert_eq!(ring.slots_per_member().values().sum::<u32>(), 9);
            }
        }

        #[test]
        fn an_image_holds_everything(
            slots in prop::collection::vec((0u16..4096, prop::option::of(0u16..0x8000)), 1..600),
        ) {
            let slots: Vec<Slot> = slots.into_iter()
                .map(|(current, previous)| Slot { current, previous })
                .collect();
            let ring = RingState { changed_at_s: vec![3; slots.len()], slots };
            let image = ring.to_image();
            prop_assert_eq!(image.len(), IMAGE_WORDS as usize);
            let read = RingState::from_image(&image, ring.slots.len() as u32, 3).unwrap();
            prop_assert_eq!(read, ring);
        }
    }
}
