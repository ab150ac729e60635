//! The rules of bounded load, against their definition.

use std::collections::HashMap;

use lb_common::{
    bound::{
        Candidates, FORGET_SPILLED_AFTER_S, MemberBound, ONE_FLOW, Recent, SynNote, WHOLE_SHARE,
        is_over, jump, places_of, second,
    },
    limit::Rate,
    ring::NO_MEMBER,
    track::{Cell, FREE, Place, REPLACE_IDLE_S, REPLACE_UNCONFIRMED_S, is_spare},
};
use proptest::prelude::*;

fn bound(factor: f64, share: f64) -> MemberBound {
    MemberBound {
        most: ((factor * share).min(1.0) * WHOLE_SHARE as f64) as u64,
        share: (share * WHOLE_SHARE as f64) as u64,
        capacity: Rate::NONE,
    }
}

const NEVER: Recent = Recent {
    count: 0,
    second: 0,
    spilled: 0,
};

proptest! {
    /// x > c·X·s, plus three standard deviations before the first spill.
    #[test]
    fn exceeds_what_the_factor_and_the_tolerance_allow(
        factor in 1.05_f64..10.0,
        share in 0.0001_f64..1.0,
        count in 0_u64..1 << 31,
        all in 1_u64..1 << 31,
        spills: bool,
    ) {
        let (x, all_flows) = (count as f64 / ONE_FLOW as f64, all as f64 / ONE_FLOW as f64);
        let tolerance = if spills { 0.0 } else { 3.0 * (all_flows * share + 1.0).sqrt() };
        let over = x - (factor * share).min(1.0) * all_flows - tolerance;
        // Rounded to parts of a flow, and of the share.
        prop_assume!(over.abs() > 0.02 + all_flows * 1e-8);
        prop_assert_eq!(bound(factor, share).is_exceeded(count, all, spills), over > 0.0);
    }

    /// What flows add up to is what is left of them after each second's halving.
    #[test]
    fn counts_are_halved_each_second(steps in prop::collection::vec((0_u32..4, 0_u32..50), 1..30)) {
        let (mut recent, mut now, mut expected) = (NEVER, 7, 0.0_f64);
        for (seconds, flows) in steps {
            now += seconds;
            expected /= f64::from(1 << seconds);
            for _ in 0..flows {
                recent.add(now);
                expected += 1.0;
            }
            let count = recent.now(now) as f64 / ONE_FLOW as f64;
            prop_assert!((count - expected).abs() < 0.3, "{} is not {}", count, expected);
        }
    }

    /// Forged sequence numbers prove nothing; those of the handshake's end and the first window do.
    #[test]
    fn a_segment_continues_the_syn_or_does_not(hash: u64, sequence: u32, ahead: u32, at: u32) {
        let place = Place::of(hash);
        let note = SynNote::new(place, sequence, at);
        prop_assert!(note.is_of(place) || note.0 == 0);
        let next = sequence.wrapping_add(1).wrapping_add(ahead);
        prop_assert_eq!(note.is_continued(next, false), ahead < 1 << 14);
        prop_assert_eq!(note.is_continued(next, true), ahead == 0);
        prop_assert_eq!(note.is_repeated(next), next == sequence);
        prop_assert!(!note.is_over(at) || note.0 == 0);
        prop_assert!(note.is_over(at.wrapping_add(u32::from(REPLACE_UNCONFIRMED_S))));
    }

    /// Each flow reaches all members, in another order, and the first one is any of them.
    #[test]
    fn candidates_by_member_are_all_members(members in 2_u16..300) {
        let indexes: Vec<_> = (0..members).map(|index| 4000 - index).collect();
        let table = Candidates::of(&indexes);
        let kept = usize::from(members).min(Candidates::MAX_PLACES as usize);
        let mut firsts = HashMap::<_, u32>::new();
        for hash in 0..2_000_u64 {
            let jump = jump(hash.wrapping_mul(0x9e37_79b9_7f4a_7c15), 65_537);
            let (start, step) = places_of(jump, table.places());
            let walk = (1..=table.places()).map(|k| table.member((start + k * step) % table.places()));
            let mut walk: Vec<_> = walk.filter(|member| *member != NO_MEMBER).collect();
            *firsts.entry(walk[0]).or_default() += 1;
            walk.sort_unstable_by(|a, b| b.cmp(a));
            prop_assert_eq!(&walk, &indexes[..kept]);
        }
        let mean = 2_000.0 / kept as f64;
        for (member, count) in firsts {
            let deviation = (f64::from(count) - mean) / mean.sqrt();
            prop_assert!(deviation.abs() < 6.0, "{} of {}: {}", member, mean, count);
        }
    }

    #[test]
    fn a_jump_reaches_all_slots(hash: u64, size in prop::sample::select(vec![2_u32, 251, 65_537])) {
        let jump = jump(hash, size);
        prop_assert!(jump > 0 && jump < size);
    }
}

#[test]
fn an_unbounded_member_is_never_full() {
    assert!(!MemberBound::NONE.is_exceeded(u64::MAX >> 8, 1, true));
}

#[test]
fn a_member_spills_for_two_seconds() {
    let spilled = |at: u32| Recent {
        spilled: at + 1,
        ..NEVER
    };
    assert!(!NEVER.spills(0) && !NEVER.spills(1));
    assert!(spilled(0).spills(0) && spilled(0).spills(1) && !spilled(0).spills(2));
    assert_eq!(second(5 << 30), 5);
}

#[test]
fn spilled_flows_take_cells_of_ended_ones_only() {
    let cell = Cell {
        tag: 1,
        member: 2,
        confirmed: true,
        closed: true,
        redundant: false,
        unproven: false,
        seen_s: 1000,
    };
    let later = |s: u16| 1000 + s;
    assert!(is_spare(FREE, 0));
    assert!(is_spare(cell.pack(), later(REPLACE_IDLE_S)) && !is_spare(cell.pack(), later(59)));
    let open = Cell {
        closed: false,
        ..cell
    }
    .pack();
    assert!(!is_spare(open, later(30_000)), "an idle connection");
    let new = Cell {
        confirmed: false,
        closed: false,
        ..cell
    }
    .pack();
    assert!(is_spare(new, later(REPLACE_UNCONFIRMED_S)) && !is_spare(new, later(2)));
}

#[test]
fn a_member_forgets_after_its_flows_have_lost_their_cells() {
    assert!(!is_over(100, 100 + 60 + FORGET_SPILLED_AFTER_S, 60));
    assert!(is_over(100, 101 + 60 + FORGET_SPILLED_AFTER_S, 60));
    assert!(!is_over(100, 99, 60), "a stamp from another CPU is ahead");
}
