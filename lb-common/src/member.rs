//! The member table: where packets for a member go, and how.
//!
//! The table is mapped into the controller's memory. What may change while packets flow are single
//! words, stored in one step; everything else is written before a ring first names the member, and
//! an index is used again only when no ring and no tracked flow names it any more.

use crate::{Address, map_type};

map_type! {
    /// One member: a backend of a VIP. 64 bytes: one cache line holds all that forwarding needs.
    pub struct Member [64] {
        /// State, see [`control`]; stored in one step.
        pub control: u64,
        /// Next hop, see [`NextHop`]; stored in one step. 0: not known.
        pub next_hop: u64,
        /// `ipip`: source of the outer header. `nat`: source that the backend sees.
        pub source: Address,
        /// Address of the backend: the outer destination, or the new destination for `nat`.
        pub address: Address,
        /// `ipip`: the bits of the last word of `source` that vary with the flow (packet order).
        pub vary_mask: u32,
        /// `ipip` over IPv4: sum of the outer header's words that are the same for every packet.
        pub outer_sum: u32,
        /// Port of the backend (packet order); the data path uses it for `nat`.
        pub port_be: u16,
        /// VIP that the member belongs to.
        pub vip: u16,
        /// `nat`: index of the source address in [`crate::nat::NatSource`]s.
        pub nat_source: u16,
        /// Unused.
        pub _pad: u16,
    }
}

/// The control word of a member: state in bits 0–7, family of the backend's address in bits 8–15,
/// generation in bits 32–63.
pub mod control {
    /// No member has this index.
    pub const ABSENT: u8 = 0;
    /// Takes the packets of its flows (up or draining).
    pub const SERVING: u8 = 1;
    /// Takes no packets.
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

    /// Family of the backend's address.
    #[inline(always)]
    #[must_use]
    pub const fn family(control: u64) -> u8 {
        (control >> 8) as u8
    }

    /// Generation: changes when an index is given to another member.
    #[inline(always)]
    #[must_use]
    pub const fn generation(control: u64) -> u32 {
        (control >> 32) as u32
    }
}

/// A next hop as one word: MAC address in bytes 0–5 (packet order), index of the [`Egress`] in 6–7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// MAC address that frames go to.
    pub mac: [u8; 6],
    /// Index in the egress table, from 1; 0 is no egress.
    pub egress: u16,
}

impl NextHop {
    /// The word that the member table holds.
    #[must_use]
    pub const fn pack(self) -> u64 {
        let [a, b, c, d, e, f] = self.mac;
        let [x, y] = self.egress.to_le_bytes();
        u64::from_le_bytes([a, b, c, d, e, f, x, y])
    }

    /// Reads a word of the member table; `None` when no next hop is known.
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
    /// An interface that frames leave through.
    pub struct Egress [16] {
        /// Interface index; 0 in unused entries.
        pub ifindex: u32,
        /// Largest IP packet, bytes; 0 in unused entries, so that nothing fits.
        pub mtu: u32,
        /// Unused. In front of the address, so that the two words are what a frame has from its fourth byte on, but for the
        /// end of the destination.
        pub _pad: u16,
        /// The interface's own MAC address.
        pub mac: [u8; 6],
    }
}

/// Entries of the egress table. Entry 0 is never used.
pub const MAX_EGRESS: u32 = 64;
