//! Checksums: incremental updates equal the sum over all bytes.

use lb_common::checksum::{
    decrement_ttl, finish, fold, is_valid_sum, replace_u16, replace_u32, update,
};
use proptest::prelude::*;

/// RFC 1071, straightforward: 16-bit words in memory order.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_ne_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// RFC 1071 §3.
#[test]
fn matches_the_example_of_rfc_1071() {
    let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(checksum(&bytes).to_ne_bytes(), [0x22, 0x0d]);
}

/// RFC 1624 §4: equation 3 gives 0x0000 where older ones gave 0xffff.
#[test]
fn matches_the_example_of_rfc_1624() {
    let old = u16::from_ne_bytes([0x55, 0x55]);
    let new = u16::from_ne_bytes([0x32, 0x85]);
    let checksum = u16::from_ne_bytes([0xdd, 0x2f]);
    assert_eq!(update(checksum, replace_u16(old, new)), 0);
}

/// Every checksum, with every TTL.
#[test]
fn decrementing_the_ttl_updates_the_checksum() {
    for checksum in 0..=u16::MAX {
        for hops in [1, 2, 64, 128, 255] {
            for protocol in [6, 17] {
                let old = u16::from_ne_bytes([hops, protocol]);
                let new = u16::from_ne_bytes([hops - 1, protocol]);
                let expected = update(checksum, replace_u16(old, new));
                let word = u32::from(old) | u32::from(checksum) << 16;
                let word = decrement_ttl(word);
                assert_eq!(word as u16, new, "{checksum:#x} {hops}");
                assert_eq!((word >> 16) as u16, expected, "{checksum:#x} {hops}");
            }
        }
    }
}

#[test]
fn folds_the_largest_sums() {
    for sum in [
        (1 << 47) - 1,
        (1 << 47) - 0x8001,
        0xffff_ffff_0000,
        0x7fff_ffff_ffff,
    ] {
        let sum = sum & ((1 << 47) - 1);
        assert_eq!(u64::from(fold(sum)) % 0xffff, sum % 0xffff);
    }
}

/// 0x0000 and 0xffff are equal in ones' complement.
fn same(a: u16, b: u16) -> bool {
    a == b || (a.is_multiple_of(0xffff) && b.is_multiple_of(0xffff))
}

proptest! {
    #[test]
    fn folding_keeps_the_sum(sum in 0u64..1 << 47) {
        prop_assert_eq!(u64::from(fold(sum)) % 0xffff, sum % 0xffff);
        prop_assert_eq!(finish(sum), !fold(sum));
    }

    #[test]
    fn accepts_a_header_whose_sum_is_zero(words: [u32; 4], off in 0u16..3) {
        let sum = words.iter().map(|&word| u64::from(word)).sum::<u64>();
        let checksum = finish(sum).wrapping_add(off);
        // All zero but the checksum is no header.
        prop_assume!(sum != 0);
        let right = same(checksum, finish(sum));
        prop_assert_eq!(is_valid_sum(sum + u64::from(checksum)), right);
    }

    #[test]
    fn update_equals_the_sum_of_the_new_bytes(
        mut bytes in prop::collection::vec(any::<u8>(), 40..80),
        word in 0usize..10,
        half in 0usize..20,
        new_word: u32,
        new_half: u16,
    ) {
        let before = checksum(&bytes);
        let mut delta = 0;
        let at = word * 4..word * 4 + 4;
        let old = u32::from_ne_bytes(bytes[at.clone()].try_into().unwrap());
        delta += replace_u32(old, new_word);
        bytes[at].copy_from_slice(&new_word.to_ne_bytes());
        let at = half * 2..half * 2 + 2;
        let old = u16::from_ne_bytes(bytes[at.clone()].try_into().unwrap());
        delta += replace_u16(old, new_half);
        bytes[at].copy_from_slice(&new_half.to_ne_bytes());
        prop_assert!(same(update(before, delta), checksum(&bytes)));
    }

    #[test]
    fn undoing_an_update_restores_the_checksum(checksum: u16, old: u32, new: u32) {
        let there = update(checksum, replace_u32(old, new));
        prop_assert!(same(update(there, replace_u32(new, old)), checksum));
    }
}
