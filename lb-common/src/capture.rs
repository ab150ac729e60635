//! Packet capture: the filter that the controller writes, and the records that the capturing
//! program `evenkeel_capture` writes.
//!
//! A record is a [`Record`], the first bytes of the frame as received, and those of the frame as
//! transmitted.

use crate::{Address, map_type, reason::REASONS, ring::MAX_MEMBERS, trace::Trace, vip::MAX_VIPS};

/// Most bytes of a frame in a record.
pub const MAX_SNAP: u32 = 2048;

/// Bytes of a frame that are copied for the filter, whatever the snap length: the longest headers
/// that it reads are Ethernet with two VLAN tags, IPv4 with options, and ports.
pub const HEADER_BYTES: u32 = 128;

/// Seconds (of the data path) after which the program records nothing, unless the controller has
/// renewed the time: a capture ends even if nothing replaces the program.
pub const DEADLINE_S: u64 = 10;

/// Words of [`Filter::vips`].
pub const VIP_WORDS: usize = MAX_VIPS as usize / 64;
/// Words of [`Filter::members`].
pub const MEMBER_WORDS: usize = MAX_MEMBERS as usize / 64;

/// [`Filter::reasons`] has a bit for each.
const _: () = assert!(REASONS.len() <= 64);

map_type! {
    /// Which packets are recorded. All conditions must hold.
    pub struct Filter [752] {
        /// Nothing is recorded from this second on ([`crate::node::seconds`]).
        pub until_s: u64,
        /// Records per CPU and second, at most.
        pub per_s: u64,
        /// Bit set of reasons.
        pub reasons: u64,
        /// Source address of the client's packets, after masking.
        pub source: Address,
        /// Mask of `source`.
        pub source_mask: Address,
        /// Destination address of the client's packets, after masking.
        pub dest: Address,
        /// Mask of `dest`.
        pub dest_mask: Address,
        /// Bit set of VIPs, used with [`condition::VIP`].
        pub vips: [u64; VIP_WORDS],
        /// Bit set of members, used with [`condition::MEMBER`].
        pub members: [u64; MEMBER_WORDS],
        /// Bytes of a frame to record, at most [`MAX_SNAP`].
        pub snap: u32,
        /// Bit set of XDP actions.
        pub actions: u32,
        /// Bit set of [`condition`]s.
        pub conditions: u32,
        /// Source port of the client's packets (packet order); 0: any.
        pub source_be: u16,
        /// Destination port of the client's packets (packet order); 0: any.
        pub dest_be: u16,
        /// Protocol; 0: any.
        pub protocol: u8,
        /// Address family; 0: any.
        pub family: u8,
        /// Bit set of [`side`]s.
        pub sides: u8,
        /// Padding.
        pub _pad: [u8; 5],
    }
}

impl Filter {
    /// Every packet, but only until second 0.
    pub const ALL: Self = Self {
        until_s: 0,
        per_s: u64::MAX,
        reasons: u64::MAX,
        source: [0; 2],
        source_mask: [0; 2],
        dest: [0; 2],
        dest_mask: [0; 2],
        vips: [0; VIP_WORDS],
        members: [0; MEMBER_WORDS],
        snap: HEADER_BYTES,
        actions: u32::MAX,
        conditions: 0,
        source_be: 0,
        dest_be: 0,
        protocol: 0,
        family: 0,
        sides: side::IN | side::OUT,
        _pad: [0; 5],
    };
}

/// Conditions that not every filter has.
pub mod condition {
    /// The packet belongs to one of [`super::Filter::vips`].
    pub const VIP: u32 = 1;
    /// The packet belongs to one of [`super::Filter::members`].
    pub const MEMBER: u32 = 2;
    /// The packet's headers have the filter's addresses, ports, protocol and family.
    pub const HEADERS: u32 = 4;
}

/// The sides of the data path.
pub mod side {
    /// Frames as received.
    pub const IN: u8 = 1;
    /// Frames as transmitted.
    pub const OUT: u8 = 2;
}

map_type! {
    /// Start of a record; `in_bytes` and then `out_bytes` bytes of frames follow.
    pub struct Record [72] {
        /// Time of the verdict in nanoseconds since boot (`CLOCK_MONOTONIC`).
        pub time_ns: u64,
        /// Decisions about the packet.
        pub trace: Trace,
        /// Length of the frame as received.
        pub in_len: u32,
        /// Recorded bytes of it.
        pub in_bytes: u32,
        /// Length of the frame as transmitted.
        pub out_len: u32,
        /// Recorded bytes of it.
        pub out_bytes: u32,
        /// Interface that received the frame.
        pub ifindex: u32,
        /// CPU that processed the packet.
        pub cpu: u32,
    }
}

map_type! {
    /// Counts of a CPU, in a cache line of its own: `matched` is the sum of the three after it.
    pub struct CaptureCounts [64] {
        /// The second that `used` refers to.
        pub second: u64,
        /// Records in that second.
        pub used: u64,
        /// Packets that the filter selects.
        pub matched: u64,
        /// Records written.
        pub recorded: u64,
        /// Packets not recorded for lack of space: the reader is too slow.
        pub no_space: u64,
        /// Packets not recorded because of [`Filter::per_s`].
        pub over_limit: u64,
        /// Padding.
        pub _pad: [u64; 2],
    }
}

/// Whether a bit set contains a number.
#[inline(always)]
#[must_use]
pub const fn contains<const WORDS: usize>(set: &[u64; WORDS], number: u16) -> bool {
    let word = number as usize / 64;
    word < WORDS && set[word] >> (number % 64) & 1 != 0
}

/// Adds a number to a bit set.
pub const fn insert<const WORDS: usize>(set: &mut [u64; WORDS], number: u16) {
    let word = number as usize / 64;
    if word < WORDS {
        set[word] |= 1 << (number % 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_contain_what_was_inserted() {
        let mut set = [0; VIP_WORDS];
        for number in [0, 63, 64, 1023, 1024, 0xffff] {
            insert(&mut set, number);
        }
        let found: [u16; 4] = [0, 63, 64, 1023];
        for number in 0..=u16::MAX {
            assert_eq!(contains(&set, number), found.contains(&number), "{number}");
        }
    }
}
