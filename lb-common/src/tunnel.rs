//! Path MTUs that routers between the node and the backends of `ipip` have reported (RFC 2003 §5.1,
//! RFC 2473 §7.1).
//!
//! A report reaches the node and not the client, because the node is the sender of the outer packet.
//! The data path keeps the MTU for the member; larger packets to it are answered with "fragmentation
//! needed" or "packet too big", until the entry expires.

use crate::member::control;

/// Seconds after which a larger MTU is tried again (RFC 1191 §6.3).
pub const LIFETIME_S: u32 = 600;

/// Smallest outer MTU that is accepted, in bytes: every IPv4 host must accept packets of this size
/// (RFC 791). A forged report can lower an MTU no further.
pub const MIN_MTU_V4: u32 = 576;

/// The same for an IPv6 outer header (RFC 8200).
pub const MIN_MTU_V6: u32 = 1280;

/// Packets of at most this many bytes fit every path, outer header included.
pub const ALWAYS_FITS: u32 = MIN_MTU_V4 - 20;

/// A path MTU, as the data path stores it for each member: MTU in bits 0–15, lower half of the
/// member's generation in bits 16–31, time in [`crate::node::seconds`] in bits 32–63. 0: none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathMtu {
    /// Largest outer packet in bytes.
    pub mtu: u16,
    /// Lower half of the member's generation: the index may have been reused.
    pub generation: u16,
    /// When it was reported.
    pub at_s: u32,
}

impl PathMtu {
    /// Packs the MTU into a word of the table.
    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> u64 {
        self.mtu as u64 | (self.generation as u64) << 16 | (self.at_s as u64) << 32
    }

    /// Unpacks a word of the table.
    #[inline(always)]
    #[must_use]
    pub const fn unpack(word: u64) -> Self {
        Self {
            mtu: word as u16,
            generation: (word >> 16) as u16,
            at_s: (word >> 32) as u32,
        }
    }

    /// Whether the MTU is valid for the member with this control word.
    #[inline(always)]
    #[must_use]
    pub const fn is_valid(self, control: u64, now_s: u32) -> bool {
        self.mtu != 0
            && self.generation == control::generation(control) as u16
            && now_s.wrapping_sub(self.at_s) < LIFETIME_S
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expires_and_belongs_to_one_generation() {
        let control = control::pack(control::SERVING, 4, 0x0007_0009);
        let mtu = PathMtu {
            mtu: 1400,
            generation: 9,
            at_s: u32::MAX - 5,
        };
        assert_eq!(PathMtu::unpack(mtu.pack()), mtu);
        for (now_s, valid) in [
            (mtu.at_s, true),
            (mtu.at_s.wrapping_add(LIFETIME_S - 1), true),
            (mtu.at_s.wrapping_add(LIFETIME_S), false),
        ] {
            assert_eq!(mtu.is_valid(control, now_s), valid, "{now_s}");
        }
        let reused = control::pack(control::SERVING, 4, 10);
        assert!(!mtu.is_valid(reused, mtu.at_s));
        assert!(!PathMtu::unpack(0).is_valid(control::pack(0, 0, 0), 0));
    }
}
