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
    // At most 0x5ffff, then 0x10004: only 0xffff itself is 0 in this arithmetic.
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum == 0xffff
}

/// The checksum field of an IPv4 header whose hop count goes down by one.
///
/// [`update`] with that difference, which is the same for all packets: the word with the hop count in
/// its first byte loses 1 there, the checksum gains it.
#[inline(always)]
#[must_use]
pub const fn after_hop(checksum: u16) -> u16 {
    let sum = checksum as u32 + u16::from_ne_bytes([1, 0]) as u32;
    (sum + (sum >= 0xffff) as u32) as u16
}

/// A checksum field after `delta` (of [`replace_u32`], [`replace_u16`]) was added to what it covers.
///
/// RFC 1624, equation 3: HC' = ~(~HC + ~m + m').
#[inline(always)]
#[must_use]
pub const fn update(checksum: u16, delta: u64) -> u16 {
    finish(!checksum as u64 + delta)
}
