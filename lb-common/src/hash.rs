//! The keyed flow hash.
//!
//! Every VIP has its own key, which the controller derives from the node's secret seed and the
//! VIP's address, port and protocol. Two of its words are secret odd multipliers that spread the
//! difference between two inputs by an unknown factor, so nobody outside can choose ports that all
//! map to one member. `docs/adr/0002-flow-hash.md` states the threat model and the cost of the
//! alternatives.
//!
//! All steps are bijections of the 64-bit state (xor with a constant, multiplication by an odd
//! number, xor-shift), so two IPv4 flows of one VIP never have the same hash.

use crate::{Address, map_type};

map_type! {
    /// Hash key of one VIP. `k1` and `k2` are odd.
    pub struct HashKey [32] {
        /// Xored into the first word.
        pub k0: u64,
        /// First multiplier, odd.
        pub k1: u64,
        /// Second multiplier, odd.
        pub k2: u64,
        /// Xored between the multiplications.
        pub k3: u64,
    }
}

/// Folds the upper half into the lower one: multiplication carries only upwards.
#[inline(always)]
const fn fold(x: u64) -> u64 {
    x ^ (x >> 32)
}

/// Hashes a word that identifies the flow. Every bit of the result depends on every bit of `word`.
///
/// The multiplications are serial and the packet waits for the last one. Two are enough: every bit
/// is in the lower half before each of them, and the slot is taken from the upper half after the
/// second. The lower half of the result is folded from both.
#[inline(always)]
#[must_use]
pub const fn hash_word(key: &HashKey, word: u64) -> u64 {
    let x = fold(word ^ key.k0).wrapping_mul(key.k1);
    let x = (fold(x) ^ key.k3).wrapping_mul(key.k2);
    fold(x)
}

/// Hash of an IPv6 flow: source address and ports.
#[inline(always)]
#[must_use]
pub const fn hash_words(key: &HashKey, high: u64, low: u64, ports: u64) -> u64 {
    let high = fold(high ^ key.k3).wrapping_mul(key.k2);
    let low = fold(low).wrapping_mul(key.k1);
    hash_word(key, fold(high) ^ fold(low) ^ ports)
}

/// Both ports as one number (packet order): source in bits 0–15, destination in bits 16–31.
#[inline(always)]
#[must_use]
pub const fn ports_word(source_be: u16, dest_be: u16) -> u64 {
    source_be as u64 | (dest_be as u64) << 16
}

/// Hash of an IPv4 flow.
#[inline(always)]
#[must_use]
pub const fn flow_hash_v4(key: &HashKey, source: u32, ports: u64) -> u64 {
    hash_word(key, source as u64 | ports << 32)
}

/// Hash of an IPv6 flow.
#[inline(always)]
#[must_use]
pub const fn flow_hash_v6(key: &HashKey, source: &Address, ports: u64) -> u64 {
    hash_words(key, source[0], source[1], ports)
}

/// Returns the slot of a ring with `ring_size` slots: the upper 32 bits of the hash, scaled.
///
/// Multiplication replaces the modulo (Lemire, "Fast random integer generation in an interval",
/// 2019). With 65,537 slots the shares differ by at most 2^-16 of a slot.
#[inline(always)]
#[must_use]
pub const fn slot_of(hash: u64, ring_size: u32) -> u32 {
    (((hash >> 32) * ring_size as u64) >> 32) as u32
}

/// Whether the flow with this hash is sampled: one in `mask + 1` is.
#[inline(always)]
#[must_use]
pub const fn is_sampled(hash: u64, mask: u32) -> bool {
    hash as u32 & mask == 0
}
