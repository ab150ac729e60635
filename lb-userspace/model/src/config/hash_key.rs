//! The key of a VIP's flow hash.
//!
//! Keys are derived, not stored: all nodes with the same seed choose the same backends, and a VIP that is
//! removed and added again gets the same key. SipHash-2-4 is a pseudorandom function: the keys of
//! different VIPs reveal nothing about each other or the seed.

use std::net::IpAddr;

use lb_common::hash::HashKey;
use siphasher::sip::SipHasher24;

/// Purpose and version of the derivation. Nothing else that is derived from a seed has this prefix.
const DOMAIN: &[u8; 16] = b"evenkeel/flow/1\0";

/// Number of bits that a multiplier may have set: with very few or very many, it would spread the
/// difference of two inputs badly.
const GOOD_WEIGHT: std::ops::RangeInclusive<u32> = 20..=44;

/// Derives the key of a VIP's flow hash. The same on all nodes and in all versions.
#[must_use]
pub fn hash_key(seed: [u8; 16], address: IpAddr, family: u8, protocol: u8, port: u16) -> HashKey {
    let word = |index, attempt| derive(seed, address, [family, protocol], port, index, attempt);
    let multiplier = |index| {
        let mut odd = (0..=u32::MAX).map(|attempt| word(index, attempt) | 1);
        // One in five hundred words is rejected, so the end is never reached.
        odd.find(|word| GOOD_WEIGHT.contains(&word.count_ones()))
            .unwrap_or(1)
    };
    HashKey {
        k0: word(0, 0),
        k1: multiplier(1),
        k2: multiplier(2),
        k3: word(3, 0),
    }
}

/// One word: SipHash-2-4 keyed by the seed, over an encoding of fixed length and order.
fn derive(
    seed: [u8; 16],
    address: IpAddr,
    [family, protocol]: [u8; 2],
    port: u16,
    index: u8,
    attempt: u32,
) -> u64 {
    let mut bytes = [0; 41];
    bytes[..16].copy_from_slice(DOMAIN);
    match address {
        IpAddr::V4(v4) => bytes[16..20].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => bytes[16..32].copy_from_slice(&v6.octets()),
    }
    bytes[32] = family;
    bytes[33] = protocol;
    bytes[34..36].copy_from_slice(&port.to_be_bytes());
    bytes[36] = index;
    bytes[37..].copy_from_slice(&attempt.to_be_bytes());
    SipHasher24::new_with_key(&seed).hash(&bytes)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use lb_common::{family, proto};

    use super::*;

    const SEED: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

    fn key(seed: [u8; 16], address: &str, protocol: u8, port: u16) -> HashKey {
        let address: IpAddr = address.parse().unwrap();
        let family = if address.is_ipv4() {
            family::V4
        } else {
            family::V6
        };
        hash_key(seed, address, family, protocol, port)
    }

    fn golden() -> String {
        let mut text = String::new();
        for (address, protocol, port) in [
            ("203.0.113.10", proto::TCP, 443),
            ("203.0.113.10", proto::UDP, 443),
            ("203.0.113.10", proto::TCP, 0),
            ("2001:db8::10", proto::TCP, 443),
        ] {
            let HashKey { k0, k1, k2, k3 } = key(SEED, address, protocol, port);
            writeln!(
                text,
                "{address} {protocol} {port}: {k0:016x} {k1:016x} {k2:016x} {k3:016x}"
            )
            .unwrap();
        }
        text
    }

    #[test]
    fn keys_match_the_golden_file() {
        if let Some(path) = std::env::var_os("EVENKEEL_WRITE_GOLDEN_KEY") {
            std::fs::write(path, golden()).unwrap();
        }
        assert_eq!(
            golden(),
            include_str!("../../tests/golden/hash_key.txt"),
            "nodes of different versions would send flows to different backends"
        );
    }

    #[test]
    fn multipliers_are_odd_and_neither_sparse_nor_dense() {
        for port in 0..5000 {
            let key = key(SEED, "10.0.0.1", proto::TCP, port);
            for multiplier in [key.k1, key.k2] {
                assert!(multiplier % 2 == 1 && GOOD_WEIGHT.contains(&multiplier.count_ones()));
            }
        }
    }

    #[test]
    fn every_part_of_a_vip_changes_the_key() {
        let keys = [
            key(SEED, "10.0.0.1", proto::TCP, 80),
            key([1; 16], "10.0.0.1", proto::TCP, 80),
            key(SEED, "10.0.0.2", proto::TCP, 80),
            key(SEED, "a00:1::", proto::TCP, 80),
            key(SEED, "10.0.0.1", proto::UDP, 80),
            key(SEED, "10.0.0.1", proto::TCP, 81),
        ];
        for (i, a) in keys.iter().enumerate() {
            let words = [a.k0, a.k1, a.k2, a.k3];
            assert!(
                a.k0 != a.k3 && a.k1 != a.k2,
                "each word has its own derivation"
            );
            for b in &keys[..i] {
                assert!(
                    ![b.k0, b.k1, b.k2, b.k3]
                        .iter()
                        .any(|word| words.contains(word))
                );
            }
        }
    }
}
