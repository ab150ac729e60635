//! Which ports a new session may use.

use super::NatSource;
use crate::{Address, hash, vip::Vip};

/// The ports of a [`NatSource`] that are tried for a new session, in this order.
///
/// Ports are limited per source of packets without a count that every end of a session would have to
/// correct: a source may use only ports that are drawn for it, [`NatSource::draws`] times and with
/// repetition, by a hash under the VIP's key. Whoever completes as many handshakes as it can holds these
/// ports. Any other source has others drawn, of which most are free, and nobody outside can find an address
/// that has the same.
///
/// A source is an IPv4 address, or an IPv6 prefix of 64 bits: whoever has one address of that has all.
#[derive(Clone, Copy, Debug)]
pub struct PortChoice {
    first: u32,
    stride: u32,
    ports: u32,
    draws: u32,
    source: u64,
}

impl PortChoice {
    /// The choice for a flow with this hash of a client.
    #[inline(always)]
    #[must_use]
    pub const fn new(from: &NatSource, vip: &Vip, client: &Address, flow_hash: u64) -> Self {
        Self {
            first: flow_hash as u32 >> 8,
            stride: (flow_hash >> 48) as u32 | 1,
            ports: from.ports as u32,
            draws: from.draws,
            source: hash::hash_word(&vip.hash_key, client[0]),
        }
    }

    /// Returns the port to try in this attempt, counted from the first port of the [`NatSource`]; it must have ports.
    #[inline(always)]
    #[must_use]
    pub const fn nth(&self, attempt: u32) -> u16 {
        let at = self.first.wrapping_add(attempt.wrapping_mul(self.stride));
        if self.draws == 0 {
            return (at % self.ports) as u16;
        }
        let drawn = mix(self.source ^ (at % self.draws) as u64) as u32;
        ((drawn as u64 * self.ports as u64) >> 32) as u16
    }
}

/// The finaliser of MurmurHash3 (Appleby), without its last step: the lower half is not as good as the
/// upper one, which is returned as the lower.
#[inline(always)]
const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let word = (word ^ (word >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word >> 32
}
