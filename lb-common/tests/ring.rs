//! The encoding of ring images.

use lb_common::ring::{
    ENTRIES_PER_WORD, IMAGE_WORDS, LOOK_UP, MAX_MEMBERS, MAX_RING_SIZE, NO_MEMBER, SECTION_WORDS,
    Slot, entry, with_entry,
};
use proptest::prelude::*;

// An image has room for the largest ring, and 15 bits for every member.
const _: () = assert!(SECTION_WORDS * ENTRIES_PER_WORD >= MAX_RING_SIZE);
const _: () = assert!(IMAGE_WORDS == 2 * SECTION_WORDS);
const _: () = assert!(MAX_MEMBERS <= NO_MEMBER as u32);

#[test]
fn encodes_states_as_documented() {
    assert_eq!(Slot::clean(7).encode(), (7, 0));
    assert_eq!(
        Slot {
            current: 7,
            previous: Some(3)
        }
        .encode(),
        (7 | LOOK_UP, 3)
    );
    assert_eq!(
        Slot {
            current: 7,
            previous: Some(7)
        }
        .encode(),
        (7 | LOOK_UP, 7)
    );
    assert_eq!(Slot::clean(NO_MEMBER).encode(), (0x7fff, 0));
}

proptest! {
    #[test]
    fn slot_encoding_round_trips(
        current in 0u16..0x8000,
        previous in prop::option::of(0u16..0x8000),
    ) {
        let slot = Slot { current, previous };
        let (first, second) = slot.encode();
        prop_assert_eq!(Slot::decode(first, second), slot);
    }

    #[test]
    fn setting_an_entry_keeps_its_neighbours(word: u64, slot in 0u32..65_537, value: u16) {
        let written = with_entry(word, slot, value);
        prop_assert_eq!(entry(written, slot), value);
        for other in (0..4).filter(|other| *other != slot % 4) {
            prop_assert_eq!(entry(written, other), entry(word, other));
        }
    }
}
