//! The member table: where packets for a member are sent, and how.
//!
//! The table is mapped into the controller's memory. Fields that change while packets flow are
//! single words, stored atomically. Everything else is written before a ring first refers to the
//! member, and an index is reused only after no ring and no tracked flow refers to it.

use crate::{Address, map_type};

map_type! {
    /// One member: a backend of a VIP. One cache line (64 bytes) holds all that forwarding needs.
    pub struct Member [64] {
        /// State, see [`control`]; stored atomically.
        pub control: u64,
        /// Next hop, see [`NextHop`]; stored atomically. 0: unknown.
        pub next_hop: u64,
        /// `ipip`: source of the outer header. `nat`: address of the VIP.
        pub source: Address,
        /// Address of the backend: outer destination for `ipip`, new destination for `nat`.
        pub address: Address,
        /// `ipip`: bits of the last word of `source` that vary per flow (packet order).
        pub vary_mask: u32,
        /// `ipip` over IPv4: sum of the outer header words that are the same for every packet.
        pub outer_sum: u32,
        /// Port of the backend (packet order), used for `nat`. 0: the VIP's port.
        pub port_be: u16,
        /// Index of the VIP.
        pub vip: u16,
        /// `nat`: index of the [`crate::nat::NatSource`].
        pub nat_source: u16,
        /// Padding.
        pub _pad: u16,
    }
}

/// The control word of a member: state in bits 0–7, address family of the backend in bits 8–15,
/// generation in bits 32–63.
pub mod control {
    /// No member has this index.
    pub const ABSENT: u8 = 0;
    /// Receives the packets of its flows (up or draining).
    pub const SERVING: u8 = 1;
    /// Receives no packets.
    pub const DOWN: u8 = 2;

    /// Builds a control word.
    #[must_use]
    pub const fn pack(state: u8, family: u8, generation: u32) -> u64 {
        state as u64 | (family as u64) << 8 | (generation as u64) << 32
    }

    /// State of the member.
    #[inline(always)]
    #[must_use]
    pub const fn state(control: u64) -> u8 {
        control as u8
    }

    /// Address family of the backend.
    #[inline(always)]
    #[must_use]
    pub const fn family(control: u64) -> u8 {
        (control >> 8) as u8
    }

    /// Generation: changes when the index is reused for another member.
    #[inline(always)]
    #[must_use]
    pub const fn generation(control: u64) -> u32 {
        (control >> 32) as u32
    }
}

/// A next hop, packed into one word: MAC address in bytes 0–5 (packet order), index of the
/// [`Egress`] in bytes 6–7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Destination MAC address.
    pub mac: [u8; 6],
    /// Index in the egress table, from 1; 0 is invalid.
    pub egress: u16,
}

impl NextHop {
    /// Packs the next hop for the member table.
    #[must_use]
    pub const fn pack(self) -> u64 {
        let [a, b, c, d, e, f] = self.mac;
        let [x, y] = self.egress.to_le_bytes();
        u64::from_le_bytes([a, b, c, d, e, f, x, y])
    }

    /// Unpacks a word of the member table; `None` if no next hop is known.
    #[must_use]
    pub const fn unpack(word: u64) -> Option<Self> {
        if word == 0 {
            return None;
        }
        let [a, b, c, d, e, f, x, y] = word.to_le_bytes();
        Some(Self {
            mac: [a, b, c, d, e, f],
            egress: u16::from_le_bytes([x, y]),
        })
    }
}

map_type! {
    /// An egress interface.
    pub struct Egress [16] {
        /// Interface index; 0 in unused entries.
        pub ifindex: u32,
        /// Largest IP packet in bytes; 0 in unused entries, so that no packet fits.
        pub mtu: u32,
        /// Padding, 0. It precedes the address so that two aligned words hold bytes 4–11 of a
        /// frame, except for the end of the destination address.
        pub _pad: u16,
        /// MAC address of the interface.
        pub mac: [u8; 6],
    }
}

/// Entries of the egress table; entry 0 is never used.
pub const MAX_EGRESS: u32 = 64;
