//! UPDATEs that we send. Each carries as many prefixes as fit.

use std::{iter::Peekable, net::IpAddr};

use super::{
    Family, HEADER, LONGEST, UPDATE,
    attributes::{EXTENDED_LENGTH, MP_REACH, MP_UNREACH, OPTIONAL, PathContext},
    message,
};
use crate::routes::Attributes;

/// Withdrawn Routes Length and Total Path Attribute Length.
const LENGTHS: usize = 4;
/// Flags, code and length of an attribute with a two-byte length.
const ATTRIBUTE_HEADER: usize = 4;
/// AFI, SAFI.
const MP_FAMILY: usize = 3;
/// Length and bytes of an IPv6 next hop, reserved byte.
const MP_NEXT_HOP: usize = 1 + 16 + 1;

/// Returns an UPDATE that withdraws host routes. Takes only as many addresses as fit; all must be of
/// `family`.
pub(crate) fn withdraw(
    family: Family,
    addresses: &mut Peekable<impl Iterator<Item = IpAddr>>,
) -> Vec<u8> {
    let room = LONGEST - HEADER - LENGTHS;
    match family {
        Family::V4 => body(&prefixes(room, addresses), &[], &[]),
        Family::V6 => {
            let room = room - ATTRIBUTE_HEADER - MP_FAMILY;
            body(&[], &mp_unreach(family, &prefixes(room, addresses)), &[])
        }
    }
}

/// Returns an UPDATE that announces host routes with these attributes. Takes only as many addresses as
/// fit; all must be of `family`, for which there must be a next hop.
pub(crate) fn announce(
    family: Family,
    path: &PathContext,
    route: &Attributes,
    addresses: &mut Peekable<impl Iterator<Item = IpAddr>>,
) -> Vec<u8> {
    let common = path.encode(family, route);
    let room = LONGEST - HEADER - LENGTHS - common.len();
    match family {
        Family::V4 => body(&[], &common, &prefixes(room, addresses)),
        Family::V6 => {
            let next_hop = path.next_hops.v6.unwrap_or(std::net::Ipv6Addr::UNSPECIFIED);
            let room = room - ATTRIBUTE_HEADER - MP_FAMILY - MP_NEXT_HOP;
            let mut value = vec![0, 2, 1, 16];
            value.extend(next_hop.octets());
            value.push(0);
            value.extend(prefixes(room, addresses));
            // First, so that even a broken attribute after it does not hide it (RFC 7606, 5.1).
            let mut attributes = long_attribute(MP_REACH, &value);
            attributes.extend(common);
            body(&[], &attributes, &[])
        }
    }
}

/// Returns the End-of-RIB marker of a family (RFC 4724, section 2).
pub(crate) fn end_of_rib(family: Family) -> Vec<u8> {
    match family {
        Family::V4 => body(&[], &[], &[]),
        Family::V6 => body(&[], &mp_unreach(family, &[]), &[]),
    }
}

fn mp_unreach(family: Family, prefixes: &[u8]) -> Vec<u8> {
    let [high, low, _, safi] = family.afi_safi();
    let mut value = vec![high, low, safi];
    value.extend(prefixes);
    long_attribute(MP_UNREACH, &value)
}

fn long_attribute(code: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![OPTIONAL | EXTENDED_LENGTH, code];
    bytes.extend((value.len() as u16).to_be_bytes());
    bytes.extend(value);
    bytes
}

/// Encodes host prefixes until `room` bytes are full.
fn prefixes(room: usize, addresses: &mut Peekable<impl Iterator<Item = IpAddr>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(address) = addresses.next_if(|address| bytes.len() + encoded(*address) <= room) {
        match address {
            IpAddr::V4(v4) => {
                bytes.push(32);
                bytes.extend(v4.octets());
            }
            IpAddr::V6(v6) => {
                bytes.push(128);
                bytes.extend(v6.octets());
            }
        }
    }
    bytes
}

/// Bytes of an encoded host prefix.
fn encoded(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(_) => 5,
        IpAddr::V6(_) => 17,
    }
}

fn body(withdrawn: &[u8], attributes: &[u8], reachable: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(LENGTHS + withdrawn.len() + attributes.len());
    bytes.extend((withdrawn.len() as u16).to_be_bytes());
    bytes.extend(withdrawn);
    bytes.extend((attributes.len() as u16).to_be_bytes());
    bytes.extend(attributes);
    bytes.extend(reachable);
    message(UPDATE, &bytes)
}
