//! The keyed flow hash.
//!
//! Every VIP has a key of its own, derived by the controller from the node's secret seed and the
//! VIP's address, port and protocol. Two of the words are secret odd multipliers: a difference
//! between two inputs is spread by a factor that nobody outside knows, so ports can't be chosen
//! ahead of time to land on one member. `docs/adr/0002-flow-hash.md` states the threat model and what
//! the alternatives cost.
//!
//! All steps are bijections of the 64-bit state (xor with a constant, odd multiplication,
//! xor-shift), so two IPv4 flows of one VIP never share a hash.

use crate::{Address, map_type};

map_type! {
    /// The key of the flow hash of one VIP. `k1` and `k2` are odd.
    pub struct HashKey [32] {
        /// Added (xor) to the first word.
        pub k0: u64,
        /// First multiplier, odd.
        pub k1: u64,
        /// Second multiplier, odd.
        pub k2: u64,
        /// Added (xor) between the multiplications.
        pub k3: u64,
    }
}

/// Multiplication carries a bit only upwards: this brings the upper half down again.
#[inline(always)]
const fn fold(x: u64) -> u64 {
    x ^ (x >> 32)
}

/// Hash of a word that says everything about the flow: 64 bits, every one of which depends on
/// every bit of `word`.
///
/// Each multiplication waits for the one before, and the packet for the last: there are two, which
/// is enough because every bit is in the lower half before each, and the slot is taken from the upper
/// half after the second. The lower half of the result is folded from both.
#[inline(always)]
#[must_use]
pub const fn hash_word(key: &HashKey, word: u64) -> u64 {
    let x = fold(word ^ key.k0).wrapping_mul(key.k1);
    let x = (fold(x) ^ key.k3).wrapping_mul(key.k2);
    fold(x)
}

/// Hash of an IPv6 flow: both halves of the source address, side by side, then the ports.
#[inline(always)]
#[must_use]
pub const fn hash_words(key: &HashKey, high: u64, low: u64, ports: u64) -> u64 {
    let high = fold(high ^ key.k3).wrapping_mul(key.k2);
    let low = fold(low).wrapping_mul(key.k1);
    hash_word(key, fold(high) ^ fold(low) ^ ports)
}

/// Both ports as one number: source in the low 16 bits, destination above (packet byte order).
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

/// The slot of a ring of `ring_size` slots that a hash falls into: the upper 32 bits, scaled.
///
/// (Multiplication in place of the modulo: Lemire, "Fast random integer generation in an interval",
/// 2019. A ring of 65,537 slots gets shares that differ by at most 2^-16 of a slot.)
#[inline(always)]
#[must_use]
pub const fn slot_of(hash: u64, ring_size: u32) -> u32 {
    (((hash >> 32) * ring_size as u64) >> 32) as u32
}

/// Whether the flow with this hash is among the one in `mask + 1` that are sampled.
#[inline(always)]
#[must_use]
pub const fn is_sampled(hash: u64, mask: u32) -> bool {
    hash as u32 & mask == 0
}
