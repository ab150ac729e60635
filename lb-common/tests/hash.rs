//! The flow hash: every input bit affects every output bit, for every key that can be derived.

use lb_common::hash::{
    HashKey, flow_hash_v4, flow_hash_v6, hash_word, hash_words, is_sampled, ports_word, slot_of,
};

/// SplitMix64: reproducible random numbers without a dependency.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A key as the controller derives them: multipliers odd, with 20 to 44 bits set.
    fn key(&mut self) -> HashKey {
        let mut multiplier = || loop {
            let word = self.next() | 1;
            if (20..=44).contains(&word.count_ones()) {
                break word;
            }
        };
        let (k1, k2) = (multiplier(), multiplier());
        HashKey {
            k0: self.next(),
            k1,
            k2,
            k3: self.next(),
        }
    }
}

/// Asserts that flipping any one bit of the inputs flips each bit of the hash half of the time,
/// over many keys and inputs.
fn assert_avalanche<const N: usize>(bits: [u32; N], hash: impl Fn(&HashKey, [u64; N]) -> u64) {
    const SAMPLES: u32 = 8192;
    let mut random = Random(1);
    for (word, bits) in bits.into_iter().enumerate() {
        for bit in 0..bits {
            let mut flips = [0u32; 64];
            for _ in 0..SAMPLES {
                let key = random.key();
                let input: [u64; N] = std::array::from_fn(|_| random.next());
                let mut other = input;
                other[word] ^= 1 << bit;
                let difference = hash(&key, input) ^ hash(&key, other);
                for (out, flips) in flips.iter_mut().enumerate() {
                    *flips += (difference >> out & 1) as u32;
                }
            }
            for (out, flips) in flips.into_iter().enumerate() {
                // 4.5 % from a half: eight standard deviations.
                let off = flips.abs_diff(SAMPLES / 2);
                assert!(
                    off * 1000 < SAMPLES * 45,
                    "word {word}, bit {bit} → {out}: {flips}"
                );
            }
        }
    }
}

#[test]
fn every_bit_of_an_ipv4_flow_affects_every_bit_of_the_hash() {
    assert_avalanche([64], |key, [word]| hash_word(key, word));
}

/// Also for a single key: no input bit always or never flips an output bit.
#[test]
fn no_key_leaves_a_bit_unmixed() {
    const SAMPLES: u32 = 2000;
    let mut random = Random(4);
    for _ in 0..20 {
        let key = random.key();
        for bit in 0..64 {
            let mut flips = [0u32; 64];
            for _ in 0..SAMPLES {
                let word = random.next();
                let difference = hash_word(&key, word) ^ hash_word(&key, word ^ 1 << bit);
                for (out, flips) in flips.iter_mut().enumerate() {
                    *flips += (difference >> out & 1) as u32;
                }
            }
            for (out, flips) in flips.into_iter().enumerate() {
                // 8 % from a half: seven standard deviations.
                let off = flips.abs_diff(SAMPLES / 2);
                assert!(
                    off * 100 < SAMPLES * 8,
                    "{key:?}, bit {bit} → {out}: {flips}"
                );
            }
        }
    }
}

#[test]
fn every_bit_of_an_ipv6_flow_affects_every_bit_of_the_hash() {
    assert_avalanche([64, 64, 32], |key, [high, low, ports]| {
        hash_words(key, high, low, ports & 0xffff_ffff)
    });
}

/// χ² of counts against an even distribution, in standard deviations from its mean.
fn unevenness(counts: &[u32]) -> f64 {
    let total: u32 = counts.iter().sum();
    let expected = f64::from(total) / counts.len() as f64;
    let chi2: f64 = counts
        .iter()
        .map(|&n| (f64::from(n) - expected).powi(2) / expected)
        .sum();
    let freedom = (counts.len() - 1) as f64;
    (chi2 - freedom) / (2.0 * freedom).sqrt()
}

/// Typical flows: one client with consecutive ports, many clients with one port.
#[test]
fn sequential_flows_spread_evenly_over_a_ring() {
    let mut random = Random(2);
    for _ in 0..20 {
        let key = random.key();
        let source = random.next() as u32;
        let mut by_port = vec![0; 251];
        let mut by_client = vec![0; 251];
        let mut by_prefix = vec![0; 251];
        for i in 0..50_000u32 {
            let ports = ports_word(((1024 + i) as u16).to_be(), 443u16.to_be());
            by_port[slot_of(flow_hash_v4(&key, source, ports), 251) as usize] += 1;
            let client = 0x0a00_0000u32 + i;
            let ports = ports_word(40_000u16.to_be(), 443u16.to_be());
            by_client[slot_of(flow_hash_v4(&key, client.to_be(), ports), 251) as usize] += 1;
            let client = [0xb80d_0120, u64::from(i.to_be()) << 32];
            by_prefix[slot_of(flow_hash_v6(&key, &client, ports), 251) as usize] += 1;
        }
        for counts in [by_port, by_client, by_prefix] {
            assert!(
                unevenness(&counts) < 6.0,
                "{key:?}: {} σ",
                unevenness(&counts)
            );
        }
    }
}

#[test]
fn slot_is_below_the_ring_size() {
    for size in [251, 4093, 65_537] {
        assert_eq!(slot_of(0, size), 0);
        assert_eq!(slot_of(u64::MAX, size), size - 1);
    }
}

#[test]
fn samples_the_same_fraction_of_every_slot() {
    let mut random = Random(3);
    let sampled = (0..1_000_000)
        .filter(|_| is_sampled(random.next(), 1023))
        .count();
    assert!((800..1200).contains(&sampled), "{sampled}");
    assert!(is_sampled(u64::MAX, 0));
}
