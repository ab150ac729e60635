use proptest::prelude::*;

use super::*;

const TTL_S: u32 = 900;

fn in_transition(current: MemberIndex, previous: MemberIndex) -> Slot {
    Slot {
        current,
        previous: Some(previous),
    }
}

fn slots(ring: &RingState) -> Vec<Slot> {
    ring.slots().collect()
}

/// One slot, through a list of owners at one-second intervals.
fn slot_after(owners: &[MemberIndex]) -> Slot {
    let mut ring = RingState::new_clean(&owners[..1]);
    for (now_s, owner) in (1..).zip(&owners[1..]) {
        ring.change(&[*owner], now_s).unwrap();
    }
    slots(&ring)[0]
}

/// What a thousand rings take: two bytes a slot, and more only while a slot is not clean.
#[test]
fn a_clean_ring_remembers_no_changes() {
    let mut ring = RingState::new_clean(&[1, 2, NO_MEMBER]);
    assert_eq!(ring.changes, None);
    ring.change(&[1, 2, 3], 1).unwrap();
    assert_eq!(ring.changes, None, "a slot that had no member");
    ring.change(&[1, 4, 3], 2).unwrap();
    ring.change(&[5, 4, 3], 3).unwrap();
    assert!(ring.changes.is_some());
    ring.settle(2 + TTL_S, TTL_S);
    assert_eq!((ring.counts().in_transition, ring.clean()), (1, 1));
    assert!(ring.changes.is_some());
    ring.settle(3 + TTL_S, TTL_S);
    assert_eq!(ring.clean(), 1);
    assert_eq!(ring.changes, None);
    let adopted = RingState::from_image(&ring.to_image(), 3, 9).unwrap();
    assert_eq!(adopted, ring);
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
fn a_slot_without_a_member_has_no_previous_one() {
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
        slots(&ring),
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
        slots(&ring),
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
    assert_eq!(slots(&ring), [in_transition(3, 2)]);
    assert!(!ring.references(1) && ring.references(2) && ring.references(3));
}

#[test]
fn rejects_another_size_and_changes_nothing() {
    let mut ring = RingState::new_clean(&[1, 2]);
    let error = ring.change(&[1, 2, 3], 1).unwrap_err();
    assert_eq!(error, RingError::SizeChanged { has: 2, new: 3 });
    assert!(
        error
            .to_string()
            .contains("can't resize a ring from 2 to 3 slots")
    );
    assert_eq!(ring, RingState::new_clean(&[1, 2]));
}

#[test]
fn adoption_restarts_the_transition_time() {
    let mut ring = RingState::new_clean(&[1, 1]);
    ring.change(&[2, 1], 10).unwrap();
    let mut adopted = RingState::from_image(&ring.to_image(), 2, 5000).unwrap();
    assert_eq!(slots(&adopted), slots(&ring));
    assert_eq!(adopted.settle(4999 + TTL_S, TTL_S), 0);
    assert_eq!(adopted.settle(5000 + TTL_S, TTL_S), 1);
}

#[test]
fn rejects_what_is_not_an_image() {
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

/// The flows of one slot, as the data path handles them: member, and whether it has an entry.
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
    /// The invariant: a flow that sends at least one packet in every transition stays on its member,
    /// whatever happens to the ring.
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
            all.for_each(|(flows, slot)| flows.open(slot));
            now_s += 1;
            match step {
                Step::Change(new) => {
                    let before = ring.clone();
                    let moved = ring.change(&new, now_s).unwrap();
                    prop_assert_eq!(moved, before.moved_since(&new));
                    prop_assert_eq!(ring.moved_since(&new), 0);
                }
                Step::Settle => {
                    let all = flows.iter_mut().zip(ring.slots());
                    all.for_each(|(flows, slot)| flows.send(slot));
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
                    let before = slots(&ring);
                    ring = RingState::from_image(&ring.to_image(), 9, now_s).unwrap();
                    prop_assert_eq!(slots(&ring), before);
                }
            }
            let known = ring.summary;
            ring.summarize();
            prop_assert_eq!(known, ring.summary);
            if talks {
                let all = flows.iter_mut().zip(ring.slots());
                all.for_each(|(flows, slot)| flows.send(slot));
            }
            for member in 0..5 {
                let named = |s: Slot| s.current == member || s.previous == Some(member);
                prop_assert_eq!(ring.references(member), ring.slots().any(named));
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
        let ring = RingState::of(&slots, 3);
        let image = ring.to_image();
        prop_assert_eq!(image.len(), IMAGE_WORDS as usize);
        let read = RingState::from_image(&image, ring.size(), 3).unwrap();
        prop_assert_eq!(read, ring);
    }
}

#[test]
fn a_node_learns_the_past_of_another() {
    let mut other = RingState::new_clean(&[1, 1, 1, 2]);
    other.change(&[3, 3, 1, 2], 5).unwrap();
    other.change(&[3, 1, 1, 2], 6).unwrap();
    let past: Vec<_> = other.past().collect();
    assert_eq!(past, [(0, 1, true), (1, 1, false)]);
    let known = || {
        past.iter()
            .map(|(slot, previous, _)| (*slot, Some(*previous)))
    };
    // Rebooted: as if it had made the change itself.
    let mut rebooted = RingState::new_clean(other.members());
    assert_eq!(rebooted.learn(known(), false, 100), 2);
    assert_eq!(slots(&rebooted), slots(&other));
    assert_eq!(rebooted.next_settle_s(TTL_S), Some(100 + TTL_S));
    assert_eq!(rebooted.learn(known(), false, 200), 0, "it knows");
    // With flows of its own, which have no entries: it only looks up.
    for ring in [other.members(), &[1, 1, 1, 2]] {
        let mut running = RingState::new_clean(ring);
        assert_eq!(running.learn(known(), true, 100), 2);
        assert_eq!(slots(&running)[0], in_transition(ring[0], ring[0]));
        assert!(
            running.past().all(|(_, _, moving)| !moving),
            "nothing to tell on"
        );
        assert_eq!(running.clean(), 2);
    }
    // Members that it does not know, slots that it does not have, slots without a member.
    let mut strange = RingState::new_clean(&[4, NO_MEMBER]);
    let past = [(0, None), (1, Some(4)), (9, Some(4))];
    assert_eq!(strange.learn(past, false, 100), 1);
    assert_eq!(slots(&strange)[0], in_transition(4, 4));
    strange.forget();
    assert_eq!(strange, RingState::new_clean(&[4, NO_MEMBER]));
}
