//! The station table: the MAC addresses that each interface accepts frames for.
//!
//! A promiscuous interface or a flooding switch delivers frames for other hosts, too. XDP runs
//! before the kernel drops those, so the data path has to recognize them.
//!
//! An open-addressing hash table (linear probing, at most [`MAX_STATION_PROBES`] steps) of single
//! words, each stored atomically: MAC address in bytes 0–5 (packet order), lower half of the
//! interface index in bytes 6–7.

/// Entries of the table; a power of two.
pub const STATION_TABLE_SIZE: u32 = 1024;

/// Maximum number of addresses of all interfaces, so that the table is at most a quarter full.
pub const MAX_STATIONS: u32 = STATION_TABLE_SIZE / 4;

/// Maximum number of steps of a search.
pub const MAX_STATION_PROBES: u32 = 8;

/// A free entry: the search ends.
pub const FREE: u64 = 0;

/// A removed entry: the search continues. No unicast address has this word.
pub const REMOVED: u64 = u64::MAX;

/// An address of an interface, as the table holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Station(pub u64);

impl Station {
    /// Returns the station that a frame is for, given its first eight bytes as read from memory.
    #[inline(always)]
    #[must_use]
    pub const fn of_frame(first: u64, ifindex: u32) -> Self {
        Self(u64::from_le(first) & 0xffff_ffff_ffff | (ifindex as u64) << 48)
    }

    /// Returns the station of an address of an interface.
    #[must_use]
    pub const fn new(mac: [u8; 6], ifindex: u32) -> Self {
        let [a, b, c, d, e, f] = mac;
        Self::of_frame(u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]), ifindex)
    }

    /// Returns the table position where the search starts.
    ///
    /// Not keyed: only the operator's interfaces are in the table, and a search for anything else
    /// takes at most [`MAX_STATION_PROBES`] steps.
    #[inline(always)]
    #[must_use]
    pub const fn home(self) -> u32 {
        let x = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (x >> (u64::BITS - STATION_TABLE_SIZE.trailing_zeros())) as u32
    }
}
