//! Pools of addresses.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use crate::service::Family;

/// A pool: `[NAME=]CIDR` or `[NAME=]FIRST-LAST`. Parts with the same name are one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name; `default` if none is given.
    pub name: String,
    /// Its family.
    pub family: Family,
    first: u128,
    last: u128,
}

impl FromStr for Pool {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, range) = text.split_once('=').unwrap_or(("default", text));
        let help = "must be [NAME=]CIDR or [NAME=]FIRST-LAST";
        let malformed = |_| format!("{range:?} {help}");
        let (family, first, last) = if let Some((network, length)) = range.split_once('/') {
            let network: IpAddr = network
                .parse()
                .map_err(|_| format!("{network:?} is no address; {help}"))?;
            let (family, bits) = (
                Family::of(&network),
                if network.is_ipv4() { 32 } else { 128 },
            );
            let length: u32 = length.parse().map_err(malformed)?;
            let host = bits - length.min(bits);
            let mask = u128::MAX.checked_shl(host).unwrap_or(0);
            let first = number(&network);
            if length > bits || first & !mask != 0 {
                return Err(format!("{range:?} is no network; {help}"));
            }
            (family, first, first | !mask)
        } else {
            let (first, last) = range
                .split_once('-')
                .ok_or_else(|| format!("{range:?} {help}"))?;
            let parse = |text: &str| {
                let parsed: Result<IpAddr, _> = text.trim().parse();
                parsed.map_err(|_| format!("{text:?} is no address; {help}"))
            };
            let (first, last) = (parse(first)?, parse(last)?);
            if first.is_ipv4() != last.is_ipv4() || first > last {
                return Err(format!("{range:?} is no range; {help}"));
            }
            (Family::of(&first), number(&first), number(&last))
        };
        if name.is_empty() {
            return Err(format!("the pool {text:?} has an empty name; {help}"));
        }
        Ok(Self {
            name: name.to_owned(),
            family,
            first,
            last,
        })
    }
}

fn number(address: &IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(*address).into(),
        IpAddr::V6(address) => (*address).into(),
    }
}

impl Pool {
    /// Whether an address is of the pool.
    #[must_use]
    pub fn has(&self, address: &IpAddr) -> bool {
        Family::of(address) == self.family && (self.first..=self.last).contains(&number(address))
    }

    /// The first address that is not taken.
    #[must_use]
    pub fn free(&self, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        // No more than all of the taken ones can be in the way.
        let numbers = (self.first..=self.last).take(taken.len() + 1);
        let mut addresses = numbers.map(|number| self.address(number));
        addresses.find(|address| !taken.contains(address))
    }

    fn address(&self, number: u128) -> IpAddr {
        match self.family {
            // A pool of IPv4 has numbers of 32 bits.
            Family::V4 => Ipv4Addr::from(number as u32).into(),
            Family::V6 => Ipv6Addr::from(number).into(),
        }
    }
}
