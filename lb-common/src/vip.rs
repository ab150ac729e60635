//! The VIP table: which packets are for a VIP, and what is done with them.
//!
//! A hash map lookup is a helper call of 35–47 ns. The controller knows all VIPs, so it lays out a
//! probe table in an array (linear probing, at most [`MAX_PROBES`] steps, a quarter full at most),
//! which the data path reads with inlined loads.

use crate::{Address, hash::HashKey, map_type};

map_type! {
    /// What a table entry stands for. `service` is never 0 in a valid key.
    pub struct VipKey [24] {
        /// First half of the address (packet order).
        pub high: u64,
        /// Second half of the address.
        pub low: u64,
        /// Port (packet order) in bits 0–15, protocol in 16–23, family in 24–31.
        pub service: u64,
    }
}

impl VipKey {
    /// Key of a service: an address, a port and a protocol.
    ///
    /// `port_be` 0 stands for any port. Protocol 0 and port 0 stand for the address itself: that
    /// entry is there for every address that has a service.
    #[inline(always)]
    #[must_use]
    pub const fn new(address: &Address, family: u8, protocol: u8, port_be: u16) -> Self {
        Self {
            high: address[0],
            low: address[1],
            service: port_be as u64 | (protocol as u64) << 16 | (family as u64) << 24,
        }
    }

    /// The same address and protocol with another port.
    #[inline(always)]
    #[must_use]
    pub const fn with_port(self, port_be: u16) -> Self {
        Self {
            service: self.service & !0xffff | port_be as u64,
            ..self
        }
    }

    /// The table position where the search for this key starts.
    ///
    /// Not keyed: only the operator chooses what is in the table.
    #[inline(always)]
    #[must_use]
    pub const fn home(&self) -> u32 {
        // One multiplication: its upper bits depend on all bits of an IPv4 service.
        let x = self.high ^ self.low.rotate_left(23) ^ self.service << 32;
        let x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (x >> (u64::BITS - VIP_TABLE_SIZE.trailing_zeros())) as u32
    }
}

map_type! {
    /// An entry of the VIP table.
    ///
    /// Written `address`, `target`, then `service`: an entry is valid once its service is there.
    pub struct VipEntry [32] {
        /// The key. `service` 0: free, the search ends here. [`REMOVED`]: free, it goes on.
        pub key: VipKey,
        /// [`target`]: what a match means.
        pub target: u64,
    }
}

/// `service` of an entry that was removed.
pub const REMOVED: u64 = u64::MAX;

/// Entries of the VIP table; a power of two.
pub const VIP_TABLE_SIZE: u32 = 8192;

/// Steps that a search takes at most.
pub const MAX_PROBES: u32 = 8;

/// VIPs that a node can have.
pub const MAX_VIPS: u32 = 1024;

/// What a match in the VIP table means: the kind in bits 0–7, one of them set, so that the data path tests a bit; an index in
/// bits 16–31.
pub mod target {
    use crate::proto;

    /// A VIP; the index is its place in the VIP array.
    pub const VIP: u8 = 1;
    /// An address that has a VIP: echo is answered, errors are forwarded. The index has a bit for each protocol that VIPs of the
    /// address have ([`protocol_bit`]).
    pub const ADDRESS: u8 = 2;
    /// A source address of `nat`: packets to it may be replies. The index is that of the source.
    pub const NAT_SOURCE: u8 = 4;

    /// The bit of a protocol that VIPs can have; 0 for others.
    #[inline(always)]
    #[must_use]
    pub const fn protocol_bit(protocol: u8) -> u16 {
        match protocol {
            proto::TCP => 1,
            proto::UDP => 2,
            _ => 0,
        }
    }

    /// Whether a packet of this protocol to the address that `target` is of may be for a service. Without a look at its ports, which
    /// not every packet has.
    #[inline(always)]
    #[must_use]
    pub const fn may_serve(target: u64, protocol: u8) -> bool {
        let bit = protocol_bit(protocol);
        bit != 0 && (kind(target) != ADDRESS || index(target) & bit != 0)
    }

    /// Builds a target.
    #[must_use]
    pub const fn pack(kind: u8, index: u16) -> u64 {
        kind as u64 | (index as u64) << 16
    }

    /// Kind of the target; 0 for none.
    #[inline(always)]
    #[must_use]
    pub const fn kind(target: u64) -> u8 {
        target as u8
    }

    /// Index of the target.
    #[inline(always)]
    #[must_use]
    pub const fn index(target: u64) -> u16 {
        (target >> 16) as u16
    }
}

map_type! {
    /// A VIP.
    pub struct Vip [64] {
        /// Ring image in bits 0–31, ring size in bits 32–63; stored in one step. Size 0: no ring.
        pub ring: u64,
        /// Key of the flow hash.
        pub hash_key: HashKey,
        /// [`forward`].
        pub forward: u8,
        /// [`affinity`].
        pub affinity: u8,
        /// [`track`].
        pub track: u8,
        /// Family of the VIP's address.
        pub family: u8,
        /// Port (packet order); 0 for any.
        pub port_be: u16,
        /// Protocol.
        pub protocol: u8,
        /// Unused.
        pub _pad: [u8; 9],
        /// A flow is sampled when its hash has none of these bits (the lower 32 count); a power of two minus
        /// one, stored in one step. 0: every flow. See [`crate::sample`].
        pub sample_mask: u64,
    }
}

impl Vip {
    /// Builds the ring word.
    #[must_use]
    pub const fn pack_ring(image: u32, size: u32) -> u64 {
        image as u64 | (size as u64) << 32
    }
}

/// How packets get to the backend.
pub mod forward {
    /// The destination MAC address is rewritten.
    pub const L2: u8 = 1;
    /// An outer IP header is put in front.
    pub const IPIP: u8 = 2;
    /// Source and destination are rewritten.
    pub const NAT: u8 = 3;
}

/// What the ring is asked with.
pub mod affinity {
    /// The whole flow.
    pub const FLOW: u8 = 0;
    /// The source address alone.
    pub const SOURCE: u8 = 1;
}

/// When flows are entered into the tracking table.
pub mod track {
    /// Never: the ring alone decides.
    pub const NEVER: u8 = 0;
    /// In slots that changed.
    pub const ON_CHANGE: u8 = 1;
    /// Every flow.
    pub const ALWAYS: u8 = 2;
}
