//! The encoding of tracking cells, and their eviction.

use std::collections::HashSet;

use lb_common::{
    hash::{HashKey, flow_hash_v4, ports_word, slot_of},
    track::{Cell, FREE, Place, REPLACE_IDLE_S, eviction_rank},
};
use proptest::prelude::*;

proptest! {
    #[test]
    fn cell_encoding_round_trips(
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

    /// Active cells are never evicted. Holds at any time, also when the 16 bits wrap.
    #[test]
    fn evicts_free_then_unconfirmed_then_idle_cells(tag: u32, member in 0u16..4096, now_s: u16, idle_s in 0u16..43_200) {
        let cell = |confirmed, idle_s| {
            let seen_s = now_s.wrapping_sub(idle_s);
            Cell { tag, member, confirmed, closed: false, seen_s }.pack()
        };
        let unconfirmed = eviction_rank(cell(false, idle_s), now_s);
        let confirmed = eviction_rank(cell(true, idle_s), now_s);
        prop_assume!(cell(false, idle_s) != 1);
        prop_assert!(eviction_rank(FREE, now_s) > unconfirmed && unconfirmed > confirmed);
        prop_assert_eq!(confirmed == 0, idle_s < REPLACE_IDLE_S);
        // Stamped by a CPU that has seen the next second already: not idle for 18 hours, but fresh.
        let seen_s = now_s.wrapping_add(1);
        let ahead = Cell { tag, member, confirmed: true, closed: false, seen_s }.pack();
        prop_assert_eq!(eviction_rank(ahead, now_s), 0);
        if idle_s > 0 {
            prop_assert!(unconfirmed > eviction_rank(cell(false, idle_s - 1), now_s));
        }
    }
}

#[test]
fn never_packs_a_cell_as_free() {
    let cell = Cell {
        tag: 0,
        member: 0,
        confirmed: false,
        closed: false,
        seen_s: 0,
    };
    assert_eq!(Cell::unpack(cell.pack()), Cell { seen_s: 1, ..cell });
}

/// Flows of one slot share the upper bits of their hash, and must spread nevertheless.
#[test]
fn spreads_flows_of_one_slot_over_buckets_and_tags() {
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
