//! The three rules of rings, and the golden file.

use std::{
    fmt::Write,
    net::{Ipv4Addr, Ipv6Addr},
};

use proptest::prelude::*;

use super::*;

fn size(slots: u32) -> RingSize {
    RingSize::new(slots).unwrap()
}

fn member(index: u32, weight: u32) -> RingMember {
    let address = Ipv4Addr::from(0x0a00_0000 + index * 7 + 1).into();
    RingMember {
        identity: Identity { address, port: 80 },
        weight,
        member: index as u16,
    }
}

fn members(weights: &[u32]) -> Vec<RingMember> {
    (0..).zip(weights).map(|(i, &w)| member(i, w)).collect()
}

fn count(ring: &[u16], member: u16) -> u64 {
    ring.iter().filter(|&&m| m == member).count() as u64
}

/// Slots per member by index.
fn counts(ring: &[u16], members: usize) -> Vec<u64> {
    let mut counts = vec![0; members];
    ring.iter().for_each(|&m| counts[usize::from(m)] += 1);
    counts
}

#[test]
fn sizes_are_primes_in_range() {
    assert!(
        [251, 257, 4093, 65_537]
            .iter()
            .all(|&n| RingSize::new(n).is_some())
    );
    assert!(
        [0, 1, 2, 241, 252, 65_536, 65_539]
            .iter()
            .all(|&n| RingSize::new(n).is_none())
    );
    let (below, above) = RingSize::around(1000);
    assert_eq!((below, above), (RingSize::new(997), RingSize::new(1009)));
    assert_eq!(RingSize::around(-5), (None, RingSize::new(251)));
    assert_eq!(RingSize::around(i64::MAX), (RingSize::new(65_537), None));
    assert_eq!(
        RingSize::around(65_000),
        (RingSize::new(64_997), RingSize::new(65_003))
    );
}

#[test]
fn slots_are_proportional_to_weights() {
    let ring = build(&members(&[200, 100]), size(65_537));
    assert_eq!(counts(&ring, 2), [43_691, 21_846]);
}

#[test]
fn without_weights_all_slots_are_empty() {
    assert!(build(&[], size(251)).iter().all(|&m| m == NO_MEMBER));
    assert!(
        build(&members(&[0, 0]), size(251))
            .iter()
            .all(|&m| m == NO_MEMBER)
    );
}

#[test]
fn a_single_member_gets_all_slots() {
    assert_eq!(build(&[member(9, 1)], size(65_537)), vec![9; 65_537]);
}

#[test]
fn as_many_members_as_slots_get_one_each() {
    assert_eq!(
        counts(&build(&members(&[7; 251]), size(251)), 251),
        [1; 251]
    );
}

#[test]
fn more_members_than_slots() {
    let ring = build(&members(&[7; 600]), size(251));
    assert_eq!(counts(&ring, 600).iter().filter(|&&n| n == 1).count(), 251);
}

#[test]
fn extreme_weights_terminate() {
    let mut weights = vec![1; 4096];
    weights[17] = u32::MAX;
    assert!(count(&build(&members(&weights), size(65_537)), 17) >= 65_535);
    let ring = build(&members(&vec![u32::MAX; 4096]), size(65_537));
    assert!(counts(&ring, 4096).iter().all(|n| (16..=17).contains(n)));
}

fn moved(a: &[u16], b: &[u16]) -> usize {
    a.iter().zip(b).filter(|(a, b)| a != b).count()
}

/// The minimum of slots that move: what members lose.
fn forced(a: &[u16], b: &[u16], members: usize) -> usize {
    let pairs = counts(a, members).into_iter().zip(counts(b, members));
    pairs.map(|(a, b)| a.saturating_sub(b) as usize).sum()
}

#[test]
fn few_slots_move_beyond_the_minimum() {
    // (members, new weight of one, maximum of moved / minimum in percent)
    for (k, weight, at_most) in [
        (3, 50, 101),
        (10, 0, 103),
        (10, 50, 105),
        (100, 0, 140),
        (100, 50, 160),
        (1000, 0, 500),
    ] {
        let mut weights = vec![100; k];
        let before = build(&members(&weights), size(65_537));
        weights[k / 2] = weight;
        let after = build(&members(&weights), size(65_537));
        let (moved, forced) = (moved(&before, &after), forced(&before, &after, k));
        assert!(
            moved >= forced && moved * 100 <= forced * at_most,
            "{k}: {moved}/{forced}"
        );
    }
}

/// Rings that must never change: small ones in full, large ones as a digest.
fn golden() -> String {
    let six = |i: u32, weight| RingMember {
        identity: Identity {
            address: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, i as u16 + 1).into(),
            port: 0,
        },
        ..member(i, weight)
    };
    let mut text = String::new();
    for (name, members) in [
        ("three equal", members(&[100; 3])),
        ("2:1", members(&[200, 100])),
        ("1..=9", members(&[1, 2, 3, 4, 5, 6, 7, 8, 9])),
        ("one in 65535", members(&[65_535, 1, 300])),
        (
            "IPv6 and IPv4",
            vec![six(0, 10), six(1, 20), member(2, 30), six(3, 0)],
        ),
        ("251 equal", members(&[1; 251])),
    ] {
        writeln!(text, "{name}, 251 slots:").unwrap();
        for row in build(&members, size(251)).chunks(25) {
            let row: Vec<String> = row.iter().map(ToString::to_string).collect();
            writeln!(text, "  {}", row.join(" ")).unwrap();
        }
    }
    let mixed: Vec<u32> = (1..=1000u32).map(|i| i * i % 257 * 255).collect();
    for (name, weights, slots) in [
        ("ten equal", vec![100; 10], 65_537),
        ("hundred equal", vec![100; 100], 65_537),
        ("thousand mixed", mixed, 65_537),
        ("4096 equal", vec![1; 4096], 65_537),
        ("ten equal", vec![1; 10], 4093),
    ] {
        let digest = fnv1a(&build(&members(&weights), size(slots)));
        writeln!(text, "{name}, {slots} slots: FNV-1a {digest:016x}").unwrap();
    }
    text
}

/// FNV-1a of the slots in little-endian order.
fn fnv1a(ring: &[u16]) -> u64 {
    ring.iter()
        .flat_map(|m| m.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

#[test]
fn rings_match_the_golden_file() {
    if let Some(path) = std::env::var_os("EVENKEEL_WRITE_GOLDEN_RING") {
        std::fs::write(path, golden()).unwrap();
    }
    assert_eq!(
        golden(),
        include_str!("../../tests/golden/ring.txt"),
        "nodes of different versions would send flows to different members"
    );
}

/// Only finds gross regressions: tests are built with little optimization,
/// and machines differ. In release mode it takes 3-5 ms.
#[test]
fn a_ring_is_built_quickly() {
    let members = members(&vec![100; 1000]);
    let best = (0..5)
        .map(|_| {
            let start = std::time::Instant::now();
            assert_eq!(build(&members, size(65_537)).len(), 65_537);
            start.elapsed()
        })
        .min();
    println!("1,000 members in 65,537 slots: {best:?}");
    assert!(best.unwrap().as_millis() < 200);
}

fn weights() -> impl Strategy<Value = Vec<u32>> {
    let weight = prop_oneof![Just(0), Just(1), Just(100), 0u32..=65_535];
    prop::collection::vec(weight, 1..200)
}

fn slots() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![251, 257, 1021, 4093, 65_537])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_share_is_within_one_slot(weights in weights(), slots in slots()) {
        let total: u64 = weights.iter().map(|&w| u64::from(w)).sum();
        prop_assume!(total > 0);
        let ring = build(&members(&weights), size(slots));
        prop_assert_eq!(ring.len(), slots as usize);
        prop_assert!(ring.iter().all(|&m| usize::from(m) < weights.len()));
        for (has, &weight) in counts(&ring, weights.len()).into_iter().zip(&weights) {
            let wants = u64::from(weight) * u64::from(slots);
            prop_assert!((has * total).abs_diff(wants) < total, "{} of {}", has, weight);
            prop_assert!(weight > 0 || has == 0);
        }
    }

    #[test]
    fn the_order_of_members_does_not_matter(
        (straight, shuffled) in weights().prop_flat_map(|weights| {
            let members = members(&weights);
            (Just(members.clone()), Just(members).prop_shuffle())
        }),
        slots in slots(),
    ) {
        prop_assert_eq!(build(&straight, size(slots)), build(&shuffled, size(slots)));
    }

    #[test]
    fn indexes_do_not_change_the_layout(weights in weights(), shift in 1u16..1000) {
        let members = members(&weights);
        let mut renamed = members.clone();
        renamed.iter_mut().for_each(|m| m.member += shift);
        let ring = build(&members, size(1021)).into_iter();
        let ring: Vec<u16> = ring.map(|m| if m == NO_MEMBER { m } else { m + shift }).collect();
        prop_assert_eq!(ring, build(&renamed, size(1021)));
    }
}
