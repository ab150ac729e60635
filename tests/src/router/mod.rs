//! Routers with BGP and BFD: [`bird`] and [`frr`].

pub mod bird;
pub mod frr;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use crate::host::Host;
use crate::link::ip_output;

const START_LIMIT: Duration = Duration::from_secs(20);

/// Returns the next hops of a router's kernel route to an address; empty without a route.
pub fn next_hops(host: &Host, address: IpAddr) -> Result<BTreeSet<IpAddr>> {
    let family = if address.is_ipv4() { "-4" } else { "-6" };
    let text = ip_output(&host.ns, &format!("{family} -json route show {address}"))?;
    let routes: Value = serde_json::from_str(&text)?;
    let mut found = BTreeSet::new();
    for route in routes.as_array().into_iter().flatten() {
        let several = route["nexthops"].as_array().into_iter().flatten();
        for hop in several.chain([route]) {
            if let Some(gateway) = hop["gateway"].as_str() {
                found.insert(gateway.parse()?);
            }
        }
    }
    Ok(found)
}
