//! Conversions between the addresses of the standard library and those of the maps.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Address, address_v4, address_v6, family};

/// Returns an address as the maps hold it, with its family.
#[must_use]
pub const fn address_of(ip: IpAddr) -> (Address, u8) {
    let address = match ip {
        IpAddr::V4(ip) => address_v4(u32::from_ne_bytes(ip.octets())),
        IpAddr::V6(ip) => address_v6(ip.octets()),
    };
    (address, family_of(ip))
}

/// Returns the family of an address ([`family`]).
#[must_use]
pub const fn family_of(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => family::V4,
        IpAddr::V6(_) => family::V6,
    }
}

/// Returns the address that a map holds. Any family but IPv4 is read as IPv6.
#[must_use]
pub fn ip_of(address: &Address, family: u8) -> IpAddr {
    let [high, low] = address.map(u64::to_ne_bytes);
    let [a, b, c, d, e, f, g, h] = high;
    if family == family::V4 {
        return Ipv4Addr::new(a, b, c, d).into();
    }
    let [i, j, k, l, m, n, o, p] = low;
    Ipv6Addr::from([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]).into()
}
