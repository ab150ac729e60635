//! The VIP table: which packets belong to a VIP, and how they are handled.
//!
//! A hash map lookup is a helper call of 35–47 ns. The controller knows all VIPs, so it lays out an
//! open-addressing table in an array (linear probing, at most [`MAX_PROBES`] steps, at most a
//! quarter full) that the data path reads with inlined loads.

use crate::{Address, hash::HashKey, map_type};

map_type! {
    /// Key of a table entry. `service` is never 0 in a valid key.
    pub struct VipKey [24] {
        /// First half of the address (packet order).
        pub high: u64,
        /// Second half of the address.
        pub low: u64,
        /// Port (packet order) in bits 0–15, protocol in bits 16–23, address family in bits 24–31.
        pub service: u64,
    }
}

impl VipKey {
    /// Key of a service: address, port and protocol.
    ///
    /// `port_be` 0 means any port. Protocol 0 with port 0 means the address itself; every address
    /// that has a service has that entry.
    #[inline(always)]
    #[must_use]
    pub const fn new(address: &Address, family: u8, protocol: u8, port_be: u16) -> Self {
        Self {
            high: address[0],
            low: address[1],
            service: port_be as u64 | (protocol as u64) << 16 | (family as u64) << 24,
        }
    }

    /// Returns the key of the same address and protocol with another port.
    #[inline(always)]
    #[must_use]
    pub const fn with_port(self, port_be: u16) -> Self {
        Self {
            service: self.service & !0xffff | port_be as u64,
            ..self
        }
    }

    /// Returns the table position where the search for this key starts.
    ///
    /// Not keyed: only the operator controls the contents of the table.
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
    /// Entry of the VIP table. The controller writes address, target, then service: the entry is
    /// valid once its service is there.
    pub struct VipEntry [32] {
        /// The key. `service` 0: free, the search ends. [`REMOVED`]: free, the search continues.
        pub key: VipKey,
        /// What the entry stands for, see [`target`].
        pub target: u64,
    }
}

/// [`VipKey::service`] of a removed entry.
pub const REMOVED: u64 = u64::MAX;

/// Entries of the VIP table; a power of two.
pub const VIP_TABLE_SIZE: u32 = 8192;

/// Maximum number of steps of a search.
pub const MAX_PROBES: u32 = 8;

/// Maximum number of VIPs of a node.
pub const MAX_VIPS: u32 = 1024;

/// Meaning of a match in the VIP table: the kind in bits 0–7, an index in bits 16–31. Each kind is
/// a bit of its own, so that the data path tests one bit.
pub mod target {
    use crate::proto;

    /// A VIP; the index is the VIP's.
    pub const VIP: u8 = 1;
    /// An address that has a VIP: echo requests are answered, ICMP errors are forwarded. The index
    /// is a bit mask of the protocols that VIPs of the address have ([`protocol_bit`]).
    pub const ADDRESS: u8 = 2;
    /// A source address of `nat`: packets to it may be replies. The index is that of the NAT
    /// source.
    pub const NAT_SOURCE: u8 = 4;

    /// Returns the bit of a protocol that VIPs can have; 0 for other protocols.
    #[inline(always)]
    #[must_use]
    pub const fn protocol_bit(protocol: u8) -> u16 {
        match protocol {
            proto::TCP => 1,
            proto::UDP => 2,
            _ => 0,
        }
    }

    /// Whether a packet of this protocol to the address of `target` may belong to a service. The
    /// ports, which not every packet has, are ignored.
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

    /// Index of the target; its meaning depends on the kind.
    #[inline(always)]
    #[must_use]
    pub const fn index(target: u64) -> u16 {
        (target >> 16) as u16
    }
}

map_type! {
    /// Properties of a VIP.
    pub struct Vip [64] {
        /// Ring image in bits 0–31, ring size in bits 32–63; stored atomically. Size 0: no ring.
        pub ring: u64,
        /// Key of the flow hash.
        pub hash_key: HashKey,
        /// [`forward`], and in the bits of [`limited`] which limits the VIP has. Changes with the words
        /// around it.
        pub forward: u8,
        /// [`affinity`].
        pub affinity: u8,
        /// [`track`].
        pub track: u8,
        /// Address family of the VIP.
        pub family: u8,
        /// Port (packet order); 0 for any.
        pub port_be: u16,
        /// Protocol.
        pub protocol: u8,
        /// Padding.
        pub _pad: [u8; 9],
        /// A flow is sampled if the lower half of its hash has none of these bits; a power of two
        /// minus one, stored atomically. 0: every flow is sampled. See [`crate::sample`].
        pub sample_mask: u64,
    }
}

impl Vip {
    /// Packs the ring word.
    #[must_use]
    pub const fn pack_ring(image: u32, size: u32) -> u64 {
        image as u64 | (size as u64) << 32
    }

    /// The forwarding mode ([`forward`]).
    #[inline(always)]
    #[must_use]
    pub const fn mode(&self) -> u8 {
        self.forward & !limited::ALL
    }

    /// Whether it has one of these limits ([`limited`]).
    #[inline(always)]
    #[must_use]
    pub const fn is_limited(&self, limits: u8) -> bool {
        self.forward & limits != 0
    }
}

/// [`Vip::forward`]: which limits a VIP has ([`crate::limit`]). They share a byte with the forwarding
/// mode, so that one comparison tells the data path that a VIP is neither `nat` nor limited.
pub mod limited {
    /// Limits of new flows.
    pub const FLOWS: u8 = 1 << 4;
    /// Limits of packets.
    pub const PACKETS: u8 = 1 << 5;
    /// Denied sources.
    pub const DENY: u8 = 1 << 6;
    /// The load of members is bounded ([`crate::bound`]).
    pub const BOUND: u8 = 1 << 7;
    /// All of them.
    pub const ALL: u8 = FLOWS | PACKETS | DENY | BOUND;
}

/// Forwarding modes.
pub mod forward {
    /// Rewrite the destination MAC address.
    pub const L2: u8 = 1;
    /// Encapsulate in an outer IP header. The only one besides [`NAT`] with this bit.
    pub const IPIP: u8 = 2;
    /// Rewrite source and destination. The highest.
    pub const NAT: u8 = 3;
}

/// Input of the ring lookup.
pub mod affinity {
    /// The whole flow.
    pub const FLOW: u8 = 0;
    /// The source address alone.
    pub const SOURCE: u8 = 1;
}

/// Which flows are entered into the tracking table.
pub mod track {
    /// None: the ring alone decides.
    pub const NEVER: u8 = 0;
    /// Flows in slots that changed.
    pub const ON_CHANGE: u8 = 1;
    /// Every flow.
    pub const ALWAYS: u8 = 2;
    /// Flows in slots that changed, and spilled ones ([`crate::bound`]).
    pub const ON_SPILL: u8 = 3;
}
