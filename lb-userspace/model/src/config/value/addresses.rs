//! Addresses and prefixes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use toml::de::DeValue;

use super::{Parsed, string, wrong, wrong_type};
use crate::config::model::Prefix;

/// The address of one host.
pub(in crate::config) fn address(value: &DeValue<'_>) -> Parsed<IpAddr> {
    const HELP: &str = "must be the address of one host, as in \"10.0.1.11\" or \"2001:db8::11\"";
    let Some(text) = value.as_str() else {
        return wrong_type(value, "an address in quotes", "\"10.0.1.11\"");
    };
    let Ok(address) = text.parse::<IpAddr>() else {
        return wrong(
            "not an IPv4 or IPv6 address",
            format!("{HELP}; no port, no prefix length"),
        );
    };
    match address_problem(address) {
        None => Ok(address),
        Some((label, None)) => wrong(label, HELP),
        Some((label, Some(v4))) => wrong(label, format!("write \"{v4}\"")),
    }
}

/// What an address is that can't be that of a host, and how it is to be written if that is all.
pub(crate) fn address_problem(address: IpAddr) -> Option<(String, Option<Ipv4Addr>)> {
    let kind = match address {
        _ if address.is_unspecified() => "the unspecified address",
        _ if address.is_multicast() => "a multicast address",
        _ if address.is_loopback() => "a loopback address",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        IpAddr::V4(v4) if v4.octets()[0] == 0 => "an address of \"this network\" (0.0.0.0/8)",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "a link-local address",
        IpAddr::V6(v6) => {
            let v4 = v6.to_ipv4_mapped()?;
            return Some(("an IPv4 address written as IPv6".to_owned(), Some(v4)));
        }
        IpAddr::V4(_) => return None,
    };
    Some((format!("this is {kind}"), None))
}

/// The IPv4 address of one host.
pub(in crate::config) fn address_v4(value: &DeValue<'_>) -> Parsed<Ipv4Addr> {
    match address(value)? {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(_) => wrong("an IPv6 address", "must be an IPv4 address"),
    }
}

/// The IPv6 address of one host.
pub(in crate::config) fn address_v6(value: &DeValue<'_>) -> Parsed<Ipv6Addr> {
    match address(value)? {
        IpAddr::V6(address) => Ok(address),
        IpAddr::V4(_) => wrong("an IPv4 address", "must be an IPv6 address"),
    }
}

/// A prefix such as `10.200.0.0/16`, without bits beyond its length.
pub(in crate::config) fn prefix(value: &DeValue<'_>) -> Parsed<Prefix> {
    const HELP: &str =
        "must be an address and a prefix length, as in \"10.200.0.0/16\" or \"fd00:1::/64\"";
    let prefix = parse_prefix(&string(value)?, HELP)?;
    match prefix.address() {
        first if first.is_loopback() || first.is_multicast() || first.is_unspecified() => {
            wrong("not a prefix of host addresses", HELP)
        }
        IpAddr::V6(first) if first.to_ipv4_mapped().is_some() => {
            wrong("IPv4 addresses written as IPv6", HELP)
        }
        IpAddr::V6(first) if first.is_unicast_link_local() => wrong(
            "routers don't forward packets from link-local addresses",
            HELP,
        ),
        _ => Ok(prefix),
    }
}

/// A prefix, or an address, which is a prefix of all its bits.
pub(in crate::config) fn source_prefix(value: &DeValue<'_>) -> Parsed<Prefix> {
    parse_source_prefix(&string(value)?)
}

/// The same as text, as files of prefixes have it.
pub(in crate::config) fn parse_source_prefix(text: &str) -> Parsed<Prefix> {
    const HELP: &str = "must be an address, or an address and a prefix length, as in \"192.0.2.7\" or \
                        \"2001:db8::/32\"";
    let prefix = match text.parse::<IpAddr>() {
        Ok(address) => Prefix::containing(address, u8::MAX),
        Err(_) => parse_prefix(text, HELP)?,
    };
    match prefix.address() {
        IpAddr::V6(first) if first.to_ipv4_mapped().is_some() && prefix.length() >= 96 => {
            wrong("IPv4 addresses written as IPv6", HELP)
        }
        _ => Ok(prefix),
    }
}

fn parse_prefix(text: &str, help: &str) -> Parsed<Prefix> {
    let parts = text.split_once('/').and_then(|(address, length)| {
        // A number may have a sign, a length not.
        let is_number = length.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then_some(())?;
        Some((address.parse::<IpAddr>().ok()?, length.parse::<u8>().ok()?))
    });
    let Some((address, length)) = parts else {
        return wrong("not a prefix", help);
    };
    let bits = if address.is_ipv4() { 32 } else { 128 };
    if length > bits {
        return wrong(
            format!("/{length} is too long"),
            format!("must be between /0 and /{bits}"),
        );
    }
    let prefix = Prefix::containing(address, length);
    if prefix.address() != address {
        return wrong(
            format!("bits beyond /{length} are set"),
            format!("write \"{prefix}\""),
        );
    }
    Ok(prefix)
}

pub(in crate::config) fn socket_address(value: &DeValue<'_>) -> Parsed<SocketAddr> {
    match string(value)?.parse() {
        Ok(address) => Ok(address),
        Err(_) => wrong(
            "not an address with a port",
            "must be as in \"127.0.0.1:9477\" or \"[::1]:9477\"; names are not resolved",
        ),
    }
}
