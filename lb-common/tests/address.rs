//! Addresses: conversion, and which can belong to a single host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::{address_of, family, ip_of, is_host};

fn is(address: IpAddr) -> bool {
    let (address, family) = address_of(address);
    is_host(&address, family)
}

#[test]
fn addresses_convert_to_map_addresses_and_back() {
    for (text, expected) in [("192.0.2.7", family::V4), ("2001:db8::7", family::V6)] {
        let ip: IpAddr = text.parse().unwrap();
        let (address, family) = address_of(ip);
        assert_eq!(family, expected);
        assert_eq!(ip_of(&address, family), ip);
    }
}

#[test]
fn rejects_ipv4_addresses_that_are_no_host() {
    for first in 0..=255 {
        for rest in [[0, 0, 0], [0, 0, 1], [255, 255, 255]] {
            let [b, c, d] = rest;
            let address = Ipv4Addr::new(first, b, c, d);
            let hosts = (1..=126).contains(&first) || (128..=223).contains(&first);
            assert_eq!(is(address.into()), hosts, "{address}");
        }
    }
}

#[test]
fn rejects_ipv6_addresses_that_are_no_host() {
    for (text, host) in [
        ("::", false),
        ("::1", false),
        ("::2", true),
        ("::1:0", true),
        ("::1:0:0:0:0", true),
        ("1::", true),
        ("1::1", true),
        ("2001:db8::7f00:0", true),
        ("fe80::1", true),
        ("fd00::", true),
        ("feff::1", true),
        ("ff00::", false),
        ("ff02::1", false),
        ("ff0e::1", false),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", false),
    ] {
        let address: Ipv6Addr = text.parse().unwrap();
        assert_eq!(is(address.into()), host, "{address}");
    }
}
