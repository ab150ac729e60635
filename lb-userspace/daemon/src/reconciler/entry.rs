//! Computes the table entries of members and VIPs.

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::{
    address_of, checksum, family_of,
    member::{Member, NextHop, control},
    vip::{self, limited},
};

use super::limits;
use lb_model::{
    config::{self, Forward, HashSeed, Prefix},
    ring::Identity,
};

/// The route to a backend, as needed for its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// MAC address and egress.
    pub next_hop: NextHop,
    /// Whether the next hop is the backend itself, not a gateway: required by `l2`.
    pub on_link: bool,
    /// Whether the program sees the backend's replies: required by `nat`.
    pub replies_seen: bool,
    /// This host's source address for packets to the backend.
    pub source: Option<IpAddr>,
}

/// Routes by backend. `None`: there is no route. Absent: not known yet, and the entry stays as it is
/// (after a restart, a neighbour that served until now may take a moment to answer).
pub type Routes = BTreeMap<IpAddr, Option<Route>>;

/// "Don't fragment" in the byte order of an IPv4 header; the data path writes the same word.
const DONT_FRAGMENT: u32 = 0x0040 << 16;

/// The source address of packets to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// `l2`: unchanged.
    None,
    /// `ipip`: any address of a prefix.
    Encap(Prefix),
    /// `nat`: the index of an address of the node. The data path needs the address of the VIP in
    /// the entry.
    Nat { vip: IpAddr, index: u16 },
    /// Not known yet: packets can't be forwarded.
    Unknown,
}

/// The host bits of a prefix in the last four address bytes, in network order.
fn vary_mask(prefix: Prefix) -> u32 {
    let width = if prefix.address().is_ipv4() { 32 } else { 128 };
    let host_bits = width - u32::from(prefix.length());
    u32::MAX
        .checked_shr(32 - host_bits.min(32))
        .unwrap_or(0)
        .to_be()
}

/// Index of a NAT source that never has ports, for members without a known source.
pub(super) const NO_NAT_SOURCE: u16 = lb_common::nat::MAX_NAT_SOURCES as u16 - 1;

pub(super) fn member(
    vip: u16,
    identity: &Identity,
    control: u64,
    source: Source,
    next_hop: u64,
) -> Member {
    let mut entry = Member {
        control,
        next_hop,
        source: [0; 2],
        address: address_of(identity.address).0,
        vary_mask: 0,
        outer_sum: 0,
        port_be: identity.port.to_be(),
        vip,
        nat_source: 0,
        _pad: 0,
    };
    match source {
        Source::None => {}
        Source::Encap(prefix) => {
            entry.source = address_of(prefix.address()).0;
            entry.vary_mask = vary_mask(prefix);
            if identity.address.is_ipv4() {
                entry.outer_sum = outer_sum(entry.source[0] as u32, entry.address[0] as u32);
            }
        }
        Source::Nat { vip, index } => {
            entry.source = address_of(vip).0;
            entry.nat_source = index;
        }
        Source::Unknown => {
            entry.next_hop = 0;
            entry.nat_source = NO_NAT_SOURCE;
        }
    }
    entry
}

/// Checksum part of the words of an outer IPv4 header that are the same in every packet.
fn outer_sum(source: u32, dest: u32) -> u32 {
    let sum = u64::from(source) + u64::from(dest) + u64::from(DONT_FRAGMENT);
    checksum::fold(sum).into()
}

/// A member's control word with another state.
pub(super) const fn with_state(word: u64, state: u8) -> u64 {
    control::pack(state, control::family(word), control::generation(word))
}

/// The entry of a VIP, without a ring.
pub(super) fn vip(vip: &config::Vip, seed: &HashSeed) -> vip::Vip {
    vip::Vip {
        ring: 0,
        hash_key: vip.hash_key(seed),
        forward: vip.forward.code() | limits::kinds(&vip.limit) | bounded(vip),
        affinity: vip.affinity.code(),
        track: track(vip),
        family: family_of(vip.address),
        port_be: vip.port.to_be(),
        protocol: vip.protocol.number(),
        _pad: [0; 9],
        sample_mask: 0,
    }
}

fn bounded(vip: &config::Vip) -> u8 {
    if vip.bound.is_set() {
        limited::BOUND
    } else {
        0
    }
}

/// Which flows are tracked: spilled ones too, unless all flows or sessions are.
fn track(vip: &config::Vip) -> u8 {
    let track = vip.track.code();
    if vip.bound.is_set() && vip.forward != Forward::Nat && track == vip::track::ON_CHANGE {
        vip::track::ON_SPILL
    } else {
        track
    }
}

/// The configuration's name of a forwarding mode.
pub(super) const fn forward_name(code: u8) -> &'static str {
    if code == Forward::L2.code() {
        "l2"
    } else if code == Forward::Ipip.code() {
        "ipip"
    } else {
        "nat"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(address: &str) -> Identity {
        Identity {
            address: address.parse().unwrap(),
            port: 443,
        }
    }

    fn prefix(address: &str, length: u8) -> Source {
        Source::Encap(Prefix::containing(address.parse().unwrap(), length))
    }

    const NEXT_HOP: u64 = 7;

    #[test]
    fn varies_the_host_bits_of_an_ipv4_prefix() {
        let entry = member(
            3,
            &identity("10.0.0.2"),
            1,
            prefix("10.9.8.7", 24),
            NEXT_HOP,
        );
        assert_eq!(entry.source, address_of("10.9.8.0".parse().unwrap()).0);
        assert_eq!(entry.vary_mask.to_ne_bytes(), [0, 0, 0, 255]);
        let entry = member(
            3,
            &identity("10.0.0.2"),
            1,
            prefix("10.9.8.7", 32),
            NEXT_HOP,
        );
        assert_eq!(
            (entry.vary_mask, entry.vip, entry.port_be),
            (0, 3, 443u16.to_be())
        );
    }

    #[test]
    fn varies_at_most_the_last_four_bytes_of_an_ipv6_prefix() {
        let entry = member(0, &identity("fd00::2"), 1, prefix("100::", 64), NEXT_HOP);
        assert_eq!((entry.vary_mask, entry.outer_sum), (u32::MAX, 0));
        let entry = member(0, &identity("fd00::2"), 1, prefix("100::", 120), NEXT_HOP);
        assert_eq!(entry.vary_mask.to_ne_bytes(), [0, 0, 0, 255]);
        let entry = member(0, &identity("fd00::2"), 1, prefix("100::1", 128), NEXT_HOP);
        assert_eq!(entry.vary_mask, 0);
    }

    #[test]
    fn outer_sum_completes_to_a_valid_header_checksum() {
        let entry = member(
            0,
            &identity("10.0.0.2"),
            1,
            prefix("192.0.2.0", 24),
            NEXT_HOP,
        );
        let mut header = [
            0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 4, 0, 0, 192, 0, 2, 0, 10, 0, 0, 2,
        ];
        let word = |at: usize, header: &[u8; 20]| {
            u64::from(u32::from_ne_bytes(header[at..at + 4].try_into().unwrap()))
        };
        let sum = u64::from(entry.outer_sum) + word(0, &header) + word(8, &header);
        header[10..12].copy_from_slice(&checksum::finish(sum).to_ne_bytes());
        let all: u64 = (0..5).map(|i| word(4 * i, &header)).sum();
        assert_eq!(checksum::fold(all), 0xffff);
    }

    #[test]
    fn has_no_next_hop_without_a_source() {
        let entry = member(0, &identity("10.0.0.2"), 1, Source::Unknown, NEXT_HOP);
        assert_eq!((entry.next_hop, entry.nat_source), (0, NO_NAT_SOURCE));
    }
}
