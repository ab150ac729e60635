//! Which ports a new session may use.

use super::{NatSource, PORT_TRIES};
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
    jitter: u32,
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
            first: flow_hash as u32,
            jitter: (flow_hash >> 32) as u32,
            ports: from.ports as u32,
            draws: from.draws,
            source: hash::hash_word(&vip.hash_key, client[0]),
        }
    }

    /// Returns the port to try in this attempt, counted from the first port of the [`NatSource`].
    ///
    /// The ports, or draws, form a circle of [`PORT_TRIES`] equal parts. It starts at a place that depends
    /// on the flow, and each attempt selects one of the next part. So attempts rarely repeat
    /// each other, and up to half as many draws as attempts are all tried.
    #[inline(always)]
    #[must_use]
    pub const fn nth(&self, attempt: u32) -> u16 {
        const PART: u32 = u32::MAX / PORT_TRIES + 1;
        let within = self.jitter.wrapping_mul(attempt) / PORT_TRIES;
        let start = self.first.wrapping_add(attempt.wrapping_mul(PART));
        let at = start.wrapping_add(within);
        if self.draws == 0 {
            return scale(at, self.ports) as u16;
        }
        let drawn = mix(self.source ^ scale(at, self.draws) as u64) as u32;
        scale(drawn, self.ports) as u16
    }
}

/// Scales a number of 32 bits to one below `len`.
#[inline(always)]
const fn scale(number: u32, len: u32) -> u32 {
    ((number as u64 * len as u64) >> 32) as u32
}

/// The finaliser of MurmurHash3 (Appleby), without its last step: the lower half is not as good as the
/// upper one, which is returned as the lower.
#[inline(always)]
const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let word = (word ^ (word >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word >> 32
}
