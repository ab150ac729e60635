//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! The sum does not depend on byte order as long as one keeps to it: every function here works on
//! 16-bit words *as they are in memory*. Never convert the byte order of a checksum.

/// Folds a sum of words to 16 bits. The sum is to be below 2^47: that of up to 32,768 words of 32 bits.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u64) -> u16 {
    // At most 2^31 + 0xffff, then 0x17fff, then 0xffff.
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The checksum field for a sum.
#[inline(always)]
#[must_use]
pub const fn finish(sum: u64) -> u16 {
    !fold(sum)
}

/// What replacing one 32-bit word by another adds to a sum.
#[inline(always)]
#[must_use]
pub const fn replace_u32(old: u32, new: u32) -> u64 {
    !old as u64 + new as u64
}

/// What replacing one 64-bit word by another adds to a sum.
#[inline(always)]
#[must_use]
pub const fn replace_u64(old: u64, new: u64) -> u64 {
    replace_u32(old as u32, new as u32) + replace_u32((old >> 32) as u32, (new >> 32) as u32)
}

/// What replacing one 16-bit word by another adds to a sum.
#[inline(always)]
#[must_use]
pub const fn replace_u16(old: u16, new: u16) -> u64 {
    !old as u64 + new as u64
}

/// Whether the words of a plain IPv4 header, five of 32 bits, sum up to what a right checksum makes of
/// them.
#[inline(always)]
#[must_use]
pub const fn is_right(sum: u64) -> bool {
    // They fold to 0xffff when the sum, which is not 0, is a multiple of that. Multiples of an odd number are
    // what its inverse modulo 2^64 makes small (Granlund and Montgomery, "Division by invariant integers using
    // multiplication", 1994).
    const INVERSE: u64 = 0xfffe_fffe_fffe_ffff;
    const { assert!(INVERSE.wrapping_mul(0xffff) == 1) };
    sum.wrapping_mul(INVERSE) <= u64::MAX / 0xffff
}

/// The third word of an IPv4 header (hop count, protocol, checksum) whose hop count, at least 1, goes down by
/// one.
///
/// [`update`] with that difference, which is the same for all packets: the first byte loses 1, the checksum, which
/// is in the upper half of the word as a little-endian number, gains it.
#[inline(always)]
#[must_use]
pub const fn after_hop(third_word: u32) -> u32 {
    let word = u32::from_le(third_word);
    // The checksum 0xffff is never written: it is 0 in another form.
    let carry = if word >= 0xfffe_0000 { 1 << 16 } else { 0 };
    word.wrapping_add((1 << 16) - 1).wrapping_add(carry).to_le()
}

/// A checksum field after `delta` (of [`replace_u32`], [`replace_u16`]) was added to what it covers.
///
/// RFC 1624, equation 3: HC' = ~(~HC + ~m + m').
#[inline(always)]
#[must_use]
pub const fn update(checksum: u16, delta: u64) -> u16 {
    finish(!checksum as u64 + delta)
}
