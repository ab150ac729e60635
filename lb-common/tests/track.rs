//! The coding of tracking cells, and which of them gives way.

use std::collections::HashSet;

use lb_common::{
    hash::{HashKey, flow_hash_v4, ports_word, slot_of},
    track::{Cell, FREE, Place, REPLACE_IDLE_S, yields},
};
use proptest::prelude::*;

proptest! {
    #[test]
    fn a_cell_survives_its_coding(
        tag: u32,
        member in 0u16..0x4000,
        confirmed: bool,
        closed: bool,
        seen_s: u16,
    ) {
        let cell = Cell { tag, member, confirmed, closed, seen_s };
        let word = cell.pack();
        prop_assert_ne!(word, FREE);
        if (tag, member, confirmed, closed, seen_s) != (0, 0, false, false, 0) {
            prop_assert_eq!(Cell::unpack(word), cell);
        }
    }

    /// Free before unconfirmed before idle; one that talks never gives way. Whatever the time, also
    /// around the end of its 16 bits.
    #[test]
    fn the_right_cell_gives_way(tag: u32, member in 0u16..4096, now_s: u16, idle_s in 0u16..43_200) {
        let cell = |confirmed, idle_s| {
            let seen_s = now_s.wrapping_sub(idle_s);
            Cell { tag, member, confirmed, closed: false, seen_s }.pack()
        };
        let unconfirmed = yields(cell(false, idle_s), now_s);
        let confirmed = yields(cell(true, idle_s), now_s);
        prop_assume!(cell(false, idle_s) != 1);
        prop_assert!(yields(FREE, now_s) > unconfirmed && unconfirmed > confirmed);
        prop_assert_eq!(confirmed == 0, idle_s < REPLACE_IDLE_S);
        // Stamped by a CPU that has seen the next second already: not idle for 18 hours, but fresh.
        let seen_s = now_s.wrapping_add(1);
        let ahead = Cell { tag, member, confirmed: true, closed: false, seen_s }.pack();
        prop_assert_eq!(yields(ahead, now_s), 0);
        if idle_s > 0 {
            prop_assert!(unconfirmed > yields(cell(false, idle_s - 1), now_s));
        }
    }
}

#[test]
fn the_cell_that_would_look_free_is_written_as_another() {
    let cell = Cell {
        tag: 0,
        member: 0,
        confirmed: false,
        closed: false,
        seen_s: 0,
    };
    assert_eq!(Cell::unpack(cell.pack()), Cell { seen_s: 1, ..cell });
}

/// Flows of one slot have the upper bits of their hash in common, and must spread all the same.
#[test]
fn flows_of_one_slot_spread_over_buckets_and_tags() {
    let key = HashKey {
        k0: 0x2ca7_b9e2_8b6e_857d,
        k1: 0x17ce_d7db_4ae5_f88f,
        k2: 0x08e4_59ce_329c_2ff5,
        k3: 0x41d5_667b_9b32_7e5e,
    };
    let places: Vec<Place> = (0..u32::MAX)
        .map(|client| flow_hash_v4(&key, client, ports_word(0x1234, 0x5678)))
        .filter(|hash| slot_of(*hash, 1021) == 17)
        .map(Place::of)
        .take(4096)
        .collect();
    let buckets: HashSet<u32> = places.iter().map(|place| place.bucket & 1023).collect();
    let tags: HashSet<u32> = places.iter().map(|place| place.tag).collect();
    // By chance, 4096 balls leave 19 of 1024 boxes empty.
    assert!(buckets.len() > 980, "{} of 1024 buckets", buckets.len());
    assert!(tags.len() > 4090, "{} tags of 4096 flows", tags.len());
}
