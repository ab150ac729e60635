//! Path attributes of the routes that we send.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Family;
use crate::routes::Attributes;

pub(super) const ORIGIN: u8 = 1;
pub(super) const AS_PATH: u8 = 2;
pub(super) const NEXT_HOP: u8 = 3;
pub(super) const MED: u8 = 4;
pub(super) const LOCAL_PREF: u8 = 5;
pub(super) const COMMUNITIES: u8 = 8;
pub(super) const MP_REACH: u8 = 14;
pub(super) const MP_UNREACH: u8 = 15;
pub(super) const LARGE_COMMUNITIES: u8 = 32;

pub(super) const OPTIONAL: u8 = 0x80;
pub(super) const TRANSITIVE: u8 = 0x40;
/// The length has two bytes.
pub(super) const EXTENDED_LENGTH: u8 = 0x10;

const AS_SEQUENCE: u8 = 2;
const ORIGIN_IGP: u8 = 0;
/// What routers assume without the attribute; internal peers must get one.
const DEFAULT_LOCAL_PREF: u32 = 100;

/// What path attributes depend on besides the route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PathContext {
    pub(crate) local_as: u32,
    /// Whether the peer is in the same AS.
    pub(crate) internal: bool,
    pub(crate) next_hops: NextHops,
}

/// Next hops of our routes; routes of a family without one can't be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NextHops {
    pub(crate) v4: Option<Ipv4Addr>,
    pub(crate) v6: Option<Ipv6Addr>,
}

impl NextHops {
    pub(crate) fn has(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4.is_some(),
            Family::V6 => self.v6.is_some(),
        }
    }
}

impl PathContext {
    /// Encodes the attributes in the order of their codes. NEXT_HOP is for IPv4 only; the next hop of
    /// IPv6 routes is in MP_REACH_NLRI.
    pub(super) fn encode(&self, family: Family, route: &Attributes) -> Vec<u8> {
        let mut bytes = Vec::new();
        push(&mut bytes, TRANSITIVE, ORIGIN, &[ORIGIN_IGP]);
        push(&mut bytes, TRANSITIVE, AS_PATH, &self.as_path(route));
        if let (Family::V4, Some(next_hop)) = (family, self.next_hops.v4) {
            push(&mut bytes, TRANSITIVE, NEXT_HOP, &next_hop.octets());
        }
        if let Some(med) = route.med {
            push(&mut bytes, OPTIONAL, MED, &med.to_be_bytes());
        }
        if self.internal {
            let preference = route.local_pref.unwrap_or(DEFAULT_LOCAL_PREF);
            push(
                &mut bytes,
                TRANSITIVE,
                LOCAL_PREF,
                &preference.to_be_bytes(),
            );
        }
        let most = Attributes::MOST_COMMUNITIES;
        let communities = route.communities.iter().take(most);
        let communities: Vec<u8> = communities.flat_map(|one| one.0.to_be_bytes()).collect();
        let large = route.large_communities.iter().take(most);
        let large: Vec<u8> = large
            .flat_map(|one| [one.global, one.local[0], one.local[1]])
            .flat_map(u32::to_be_bytes)
            .collect();
        for (code, value) in [(COMMUNITIES, communities), (LARGE_COMMUNITIES, large)] {
            if !value.is_empty() {
                push(&mut bytes, OPTIONAL | TRANSITIVE, code, &value);
            }
        }
        bytes
    }

    /// Own AS, once and as often as it is prepended, as four-octet numbers; empty for internal peers.
    fn as_path(&self, route: &Attributes) -> Vec<u8> {
        if self.internal {
            return Vec::new();
        }
        let mut left = 1 + usize::from(route.prepend);
        let mut bytes = Vec::new();
        while left > 0 {
            // The count of a segment is one byte.
            let count = left.min(255);
            bytes.extend([AS_SEQUENCE, count as u8]);
            bytes.extend(std::iter::repeat_n(self.local_as.to_be_bytes(), count).flatten());
            left -= count;
        }
        bytes
    }
}

/// Appends an attribute. The length has two bytes only if it must.
pub(super) fn push(bytes: &mut Vec<u8>, flags: u8, code: u8, value: &[u8]) {
    match u8::try_from(value.len()) {
        Ok(length) => bytes.extend([flags, code, length]),
        Err(_) => {
            bytes.extend([flags | EXTENDED_LENGTH, code]);
            bytes.extend((value.len() as u16).to_be_bytes());
        }
    }
    bytes.extend(value);
}
