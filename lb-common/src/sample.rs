//! Sampled flows: a part of all flows, chosen by hash, is looked at more closely, so that
//! elephants, black holes and heavy sources can be named.
//!
//! How large the part is the controller decides for each VIP ([`crate::vip::Vip::sample_mask`]), from the traffic that there
//! is: all flows of a quiet VIP, few of a busy one. The parts are nested: a flow that one mask samples is sampled by
//! all smaller ones too. What a CPU may add to the table in a second is bounded, so a flood that comes before the
//! controller has seen it costs little.

use crate::{Address, map_type};

map_type! {
    /// A flow.
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
        /// Unused.
        pub _pad: u16,
    }
}

map_type! {
    /// What was seen of a sampled flow.
    pub struct FlowSample [40] {
        /// Packets.
        pub packets: u64,
        /// Bytes of whole frames as they came in.
        pub bytes: u64,
        /// When the first packet was seen, seconds of [`crate::node::seconds`].
        pub first_s: u32,
        /// When the last one was seen.
        pub last_s: u32,
        /// Packets with SYN and without ACK.
        pub syns: u32,
        /// Packets with RST.
        pub resets: u32,
        /// Member that the last packet went to.
        pub member: u16,
        /// VIP.
        pub vip: u16,
        /// Lower half of the flow's hash: says under which masks it is sampled.
        pub hash: u32,
    }
}

/// Flows sampled at a time.
pub const MAX_SAMPLES: u32 = 4096;

/// Flows that a CPU may add to the table in a second: half a microsecond to one each, a thousandth of its time.
pub const MAX_BEGUN_PER_S: u64 = 1024;
