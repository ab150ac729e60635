//! The encoding of tracking cells, and their eviction.

use std::collections::HashSet;

use lb_common::{
    hash::{HashKey, flow_hash_v4, ports_word, slot_of},
    track::{Bucket, Cell, FREE, Newcomer, Place, REPLACE_IDLE_S, REPLACE_UNCONFIRMED_S, WAYS},
};
use proptest::prelude::*;

proptest! {
    #[test]
    fn cell_encoding_round_trips(
        tag: u32,
        member in 0u16..0x1000,
        confirmed: bool,
        closed: bool,
        redundant: bool,
        unproven: bool,
        seen_s: u16,
    ) {
        let cell = Cell { tag, member, confirmed, closed, redundant, unproven, seen_s };
        let word = cell.pack();
        prop_assert_ne!(word, FREE);
        if (tag, member, confirmed, closed, redundant, unproven, seen_s) != (0, 0, false, false, false, false, 0) {
            prop_assert_eq!(Cell::unpack(word), cell);
        }
    }

    /// Holds at any time, also when the 16 bits wrap.
    #[test]
    fn ranks_cells_by_what_their_loss_changes(now_s: u16, idle_s in 0u16..43_200) {
        let newcomer = |redundant| Newcomer { redundant, ..newcomer(0, now_s) };
        let rank = |redundant, confirmed, of: bool, share| {
            let seen_s = now_s.wrapping_sub(idle_s);
            let word = Cell { confirmed, redundant, seen_s, ..CELL }.pack();
            newcomer(of).eviction_rank(word, share, 4)
        };
        let is_idle = idle_s >= REPLACE_IDLE_S;
        prop_assert_eq!(newcomer(true).eviction_rank(FREE, 0, 4), u32::MAX);
        // A flow that needs its cell replaces any redundant one, and before any other.
        let needed = rank(false, true, false, 16).max(rank(false, false, false, 16));
        prop_assert!(rank(true, true, false, 1) > needed);
        prop_assert_eq!(rank(false, true, false, 4) > 0, is_idle);
        prop_assert_eq!(rank(false, true, false, 3), 0);
        prop_assert_eq!(rank(false, false, false, 1) > 0, idle_s >= REPLACE_UNCONFIRMED_S);
        // A redundant flow replaces no other cell.
        prop_assert_eq!(rank(false, true, true, 16), 0);
        prop_assert_eq!(rank(false, false, true, 16), 0);
        prop_assert!(rank(true, false, true, 4) > rank(true, true, true, 4));
        prop_assert_eq!(rank(true, true, true, 5) > 0, is_idle);
        prop_assert!(rank(true, true, true, 6) > 0);
        // The VIP that fills the bucket comes first.
        prop_assert!(rank(true, true, false, 9) > rank(true, false, false, 8));
        // Stamped by a CPU that has seen the next second already: not idle for 18 hours, but fresh.
        let ahead = Cell { confirmed: true, seen_s: now_s.wrapping_add(1), ..CELL }.pack();
        prop_assert_eq!(newcomer(false).eviction_rank(ahead, 16, 4), 0);
    }

    /// Two VIPs that fill a table share it, whichever came first.
    #[test]
    fn two_vips_share_a_bucket(tags: [u32; 400], now_s: u16) {
        let mut bucket: Bucket = [FREE; WAYS];
        for (number, tag) in tags.into_iter().enumerate() {
            // The second VIP comes when the first has all cells.
            let vip = u16::from(number >= 100 && number % 2 == 0);
            let newcomer = Newcomer { vip, redundant: true, ..newcomer(tag, now_s) };
            if let Some(way) = newcomer.way(|way| bucket[way], |member| member) {
                bucket[way] = Cell { tag, member: vip, confirmed: true, redundant: true, seen_s: now_s, ..CELL }.pack();
            }
        }
        let second = bucket.iter().filter(|&&word| Cell::unpack(word).member == 1).count();
        prop_assert!((7..=9).contains(&second), "{second} of {WAYS}");
    }
}

const CELL: Cell = Cell {
    tag: 7,
    member: 1,
    confirmed: false,
    closed: false,
    redundant: false,
    unproven: false,
    seen_s: 0,
};

fn newcomer(tag: u32, now_s: u16) -> Newcomer {
    Newcomer {
        place: Place { bucket: 0, tag },
        vip: 0,
        redundant: false,
        now_s,
    }
}

#[test]
fn never_packs_a_cell_as_free() {
    let cell = Cell {
        tag: 0,
        member: 0,
        confirmed: false,
        closed: false,
        redundant: false,
        unproven: false,
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
