//! What the benchmark tells its wrapper program.
//!
//! `BPF_PROG_TEST_RUN` with a repeat count hands a program its own output as the next input. So a
//! wrapper runs first: it restores the length of the frame, writes all headers anew for the next
//! flow, and calls the program that is measured.
//!
//! The module is here because this crate is the only one that both sides share: the wrapper
//! (`lb-ebpf/src/bench.rs`) and the measuring code (`tests/src/bench`).

use crate::{checksum, map_type};

map_type! {
    /// The packets of a workload.
    pub struct Plan [112] {
        /// Packets made so far.
        pub made: u64,
        /// Length of the frame.
        pub frame_len: u32,
        /// Family of the frame's layout.
        pub family: u32,
        /// Flows minus one; flows are a power of two.
        pub flow_mask: u32,
        /// IPv4: how many destinations there are, minus one; a power of two.
        pub dest_mask: u32,
        /// Ethernet header.
        pub ethernet: [u64; 2],
        /// First eight bytes of the IP header.
        pub ip: u64,
        /// IPv6: base of the source address. IPv4: the third word of the header, with no checksum.
        pub source: [u64; 2],
        /// IPv6: the destination. IPv4: first destination, as a number, and the sum of the words
        /// of the header that no flow changes.
        pub dest: [u64; 2],
        /// TCP or UDP header, with source port 0. UDP: eight bytes.
        pub transport: [u64; 3],
        /// Which bits of the source port are written; 0 for what has no ports.
        pub port_mask: u64,
    }
}

/// Odd multiplier that makes the order of flows look random to caches.
const SPREAD: u32 = 0x9e37_79b1;

/// First source address of IPv4 flows: 64.0.0.0.
const FIRST_SOURCE: u32 = 64 << 24;

/// A flow's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow(pub u32);

impl Flow {
    /// Flow of the packet with this number: every flow comes once before any comes again.
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

    /// Last word of the IPv6 source address.
    #[inline(always)]
    #[must_use]
    pub const fn source_v6(self, base: u64) -> u64 {
        base ^ (self.0 as u64).to_be()
    }

    /// Source port (packet order). Together with the address, no two flows have the same.
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

/// Third word of an IPv4 header: hops, protocol, and the checksum for these addresses.
#[inline(always)]
#[must_use]
pub const fn third_word_v4(plan: &Plan, source: u32, dest: u32) -> u32 {
    let sum = checksum::finish(plan.dest[1] + source as u64 + dest as u64);
    plan.source[0] as u32 | (sum as u32) << 16
}
