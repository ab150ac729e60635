//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! The sum does not depend on the byte order as long as it is used consistently: every function
//! works on 16-bit words *as they are in memory*. Never convert the byte order of a checksum.

/// Folds a sum of words to 16 bits. `sum` must be below 2^47: the sum of at most 32,768 32-bit
/// words.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u64) -> u16 {
    // At most 2^31 + 0xffff, then 0x17fff, then 0xffff.
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Returns the checksum field for a sum.
#[inline(always)]
#[must_use]
pub const fn finish(sum: u64) -> u16 {
    !fold(sum)
}

/// Returns what replacing one 32-bit word adds to a sum.
#[inline(always)]
#[must_use]
pub const fn replace_u32(old: u32, new: u32) -> u64 {
    !old as u64 + new as u64
}

/// Returns what replacing one 64-bit word adds to a sum.
#[inline(always)]
#[must_use]
pub const fn replace_u64(old: u64, new: u64) -> u64 {
    replace_u32(old as u32, new as u32) + replace_u32((old >> 32) as u32, (new >> 32) as u32)
}

/// Returns what replacing one 16-bit word adds to a sum.
#[inline(always)]
#[must_use]
pub const fn replace_u16(old: u16, new: u16) -> u64 {
    !old as u64 + new as u64
}

/// Whether the five 32-bit words of a plain IPv4 header add up to a valid checksum.
#[inline(always)]
#[must_use]
pub const fn is_valid_sum(sum: u64) -> bool {
    // The words fold to 0xffff if their sum, which is not 0, is a multiple of 0xffff. Multiplying
    // by the inverse modulo 2^64 maps exactly the multiples of an odd number to small values
    // (Granlund and Montgomery, "Division by invariant integers using multiplication", 1994).
    const INVERSE: u64 = 0xfffe_fffe_fffe_ffff;
    const { assert!(INVERSE.wrapping_mul(0xffff) == 1) };
    sum.wrapping_mul(INVERSE) <= u64::MAX / 0xffff
}

/// Decrements the TTL, which must be at least 1, in the third word of an IPv4 header (TTL,
/// protocol, checksum).
///
/// Same as [`update`], but the difference is constant: the first byte loses 1, and the checksum, in
/// the upper half of the little-endian word, gains 1.
#[inline(always)]
#[must_use]
pub const fn decrement_ttl(third_word: u32) -> u32 {
    let word = u32::from_le(third_word);
    // The checksum 0xffff is never written: it equals 0 in ones' complement.
    let carry = if word >= 0xfffe_0000 { 1 << 16 } else { 0 };
    word.wrapping_add((1 << 16) - 1).wrapping_add(carry).to_le()
}

/// Updates a checksum field after `delta` (from [`replace_u32`] or [`replace_u16`]) was added to
/// the data it covers: RFC 1624, equation 3, HC' = ~(~HC + ~m + m').
#[inline(always)]
#[must_use]
pub const fn update(checksum: u16, delta: u64) -> u16 {
    finish(!checksum as u64 + delta)
}
