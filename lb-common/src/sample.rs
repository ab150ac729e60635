//! Sampled flows: a fraction of all flows, selected by hash, is recorded individually, so that
//! elephants, black holes and heavy sources can be named.
//!
//! The controller sets the fraction per VIP ([`crate::vip::Vip::sample_mask`]) from its traffic:
//! all flows of a quiet VIP, few of a busy one. Samples are nested: a flow that one mask selects is
//! also selected by all smaller masks. Each CPU adds a bounded number of flows per second, so a
//! sudden flood costs little until the controller lowers the fraction.

use crate::{Address, map_type};

map_type! {
    /// Key of a sampled flow.
    pub struct FlowKey [40] {
        /// Source address.
        pub source: Address,
        /// Destination address.
        pub dest: Address,
        /// Source port (packet order).
        pub source_be: u16,
        /// Destination port (packet order).
        pub dest_be: u16,
        /// Protocol.
        pub protocol: u8,
        /// Family.
        pub family: u8,
        /// Padding.
        pub _pad: u16,
    }
}

map_type! {
    /// Statistics of a sampled flow.
    pub struct FlowSample [40] {
        /// Packets seen.
        pub packets: u64,
        /// Bytes of whole frames as received.
        pub bytes: u64,
        /// When the first packet was seen, in [`crate::node::seconds`].
        pub first_s: u32,
        /// When the last packet was seen, in [`crate::node::seconds`].
        pub last_s: u32,
        /// Packets with SYN and without ACK.
        pub syns: u32,
        /// Packets with RST.
        pub resets: u32,
        /// Index of the member that the last packet was sent to.
        pub member: u16,
        /// Index of the VIP.
        pub vip: u16,
        /// Lower half of the flow hash: determines which masks select the flow.
        pub hash: u32,
    }
}

/// Maximum number of flows sampled at a time.
pub const MAX_SAMPLES: u32 = 4096;

/// Seconds without a sign of life of the controller after which no mask is finer than [`COARSE_MASK`]:
/// nobody makes it coarser when the traffic grows.
pub const HEARTBEAT_AGE_S: u64 = 10;

/// One flow in 128: what a busy VIP has.
pub const COARSE_MASK: u32 = 127;

/// Whether a flow that its VIP's mask selects is sampled at `now_s`. `heartbeat_s` is when the
/// controller was last seen; 0: never.
#[inline(always)]
#[must_use]
pub const fn is_wanted(hash: u32, heartbeat_s: u64, now_s: u64) -> bool {
    let is_alone = heartbeat_s != 0 && now_s.saturating_sub(heartbeat_s) > HEARTBEAT_AGE_S;
    !is_alone || hash & COARSE_MASK == 0
}

/// Flows that a CPU may add per second. An insert takes 0.5 to 1 µs: at most a thousandth of its
/// time.
pub const MAX_ADDED_PER_S: u64 = 1024;
