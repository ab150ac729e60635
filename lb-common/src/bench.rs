//! Parameters of the benchmark's wrapper program.
//!
//! `BPF_PROG_TEST_RUN` with a repeat count passes a program its own output as the next input. The
//! wrapper therefore runs first: it restores the frame length, writes all headers for the next
//! flow, and tail-calls the program under test.
//!
//! The module is here because this crate is the only one that both sides share: the wrapper
//! (`lb-ebpf/src/bench.rs`) and the measuring code (`tests/src/bench`).

use crate::{checksum, map_type};

map_type! {
    /// The packets of a workload.
    pub struct Plan [112] {
        /// Packets generated so far.
        pub made: u64,
        /// Length of the frame.
        pub frame_len: u32,
        /// Address family of the generated packets.
        pub family: u32,
        /// Number of flows (a power of two) minus one.
        pub flow_mask: u32,
        /// IPv4: number of destinations (a power of two) minus one.
        pub dest_mask: u32,
        /// Ethernet header.
        pub ethernet: [u64; 2],
        /// First eight bytes of the IP header.
        pub ip: u64,
        /// IPv6: base of the source address. IPv4: the third word of the header, without the
        /// checksum.
        pub source: [u64; 2],
        /// IPv6: the destination. IPv4: the first destination as a number, and the sum of the
        /// header words that are the same for every flow.
        pub dest: [u64; 2],
        /// TCP or UDP header with source port 0; UDP uses the first eight bytes.
        pub transport: [u64; 3],
        /// Bits of the source port that are written; 0 for protocols without ports.
        pub port_mask: u64,
    }
}

/// Odd multiplier that makes the order of flows look random to the caches.
const SPREAD: u32 = 0x9e37_79b1;

/// First source address of IPv4 flows: 64.0.0.0.
const FIRST_SOURCE: u32 = 64 << 24;

/// Number of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow(pub u32);

impl Flow {
    /// Flow of the packet with this number. Every flow occurs once before any repeats.
    #[inline(always)]
    #[must_use]
    pub const fn of_packet(made: u64, flow_mask: u32) -> Self {
        Self((made as u32).wrapping_mul(SPREAD) & flow_mask)
    }

    /// IPv4 source address (packet order).
    #[inline(always)]
    #[must_use]
    pub const fn source_v4(self) -> u32 {
        (FIRST_SOURCE | self.0 & 0xff_ffff).to_be()
    }

    /// Second word of the IPv6 source address.
    #[inline(always)]
    #[must_use]
    pub const fn source_v6(self, base: u64) -> u64 {
        base ^ (self.0 as u64).to_be()
    }

    /// Source port (packet order). Source address and port together are unique per flow.
    #[inline(always)]
    #[must_use]
    pub const fn source_be(self) -> u16 {
        (0x8000 | (self.0 >> 17) as u16).to_be()
    }

    /// IPv4 destination (packet order).
    #[inline(always)]
    #[must_use]
    pub const fn dest_v4(self, plan: &Plan) -> u32 {
        (plan.dest[0] as u32)
            .wrapping_add(self.0 & plan.dest_mask)
            .to_be()
    }
}

/// Third word of an IPv4 header: TTL, protocol and checksum for these addresses.
#[inline(always)]
#[must_use]
pub const fn third_word_v4(plan: &Plan, source: u32, dest: u32) -> u32 {
    let sum = checksum::finish(plan.dest[1] + source as u64 + dest as u64);
    plan.source[0] as u32 | (sum as u32) << 16
}
