//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! The sum does not depend on byte order as long as one keeps to it: every function here works on
//! 16-bit words *as they are in memory*. Never convert the byte order of a checksum.

/// Folds a sum of 16-bit words to 16 bits.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
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

/// A checksum field after `delta` (of [`replace_u32`], [`replace_u16`]) was added to what it covers.
///
/// RFC 1624, equation 3: HC' = ~(~HC + ~m + m').
#[inline(always)]
#[must_use]
pub const fn update(checksum: u16, delta: u64) -> u16 {
    finish(!checksum as u64 + delta)
}
