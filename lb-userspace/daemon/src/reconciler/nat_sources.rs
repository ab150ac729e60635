//! Checks the source addresses of `nat` against the host's addresses.

use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;

use lb_model::config::{Config, Forward};

/// Addresses of `node.nat_source` that are used but not among the host's `own` addresses. Not an error:
/// the network may route them here.
#[must_use]
pub fn foreign_sources(config: &Config, own: &[IpAddr]) -> Vec<IpAddr> {
    let nat = config.vips.iter().filter(|vip| vip.forward == Forward::Nat);
    let backends: Vec<IpAddr> = nat
        .flat_map(|vip| &vip.backends)
        .map(|backend| backend.address)
        .collect();
    let is_used = |source: &IpAddr| backends.iter().any(|b| b.is_ipv4() == source.is_ipv4());
    let sources = config.node.nat_source.iter().copied();
    sources
        .filter(|source| is_used(source) && !own.contains(source))
        .collect()
}

#[must_use]
pub fn describe(address: IpAddr) -> String {
    let resolution = if address.is_ipv4() { "ARP" } else { "ND" };
    format!(
        "nat_source {address} is not an address of this host: {resolution} for it goes unanswered and \
         replies of backends are lost, unless it is routed here"
    )
}

/// Warnings about a configuration, in the network namespace of the calling thread.
#[must_use]
pub fn warnings(config: &Config) -> Vec<String> {
    // Whatever prevents listing the addresses is reported elsewhere.
    let Ok(interfaces) = getifaddrs() else {
        return Vec::new();
    };
    let own: Vec<IpAddr> = interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .collect();
    foreign_sources(config, &own)
        .into_iter()
        .map(describe)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(forward: &str, source: &str) -> Config {
        let text = format!(
            "[node]\ninterfaces = [\"eth0\"]\nhash_seed = \"000102030405060708090a0b0c0d0e0f\"\n\
             nat_source = [\"{source}\"]\n[[vip]]\nname = \"web\"\naddress = \"203.0.113.1\"\n\
             port = 80\nprotocol = \"tcp\"\nforward = \"{forward}\"\n\
             [[vip.backend]]\nname = \"one\"\naddress = \"10.0.1.11\"\n"
        );
        lb_model::config::parse("test.toml", &text).unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn reports_used_sources_that_the_host_does_not_have() {
        let own = [IpAddr::from([10, 0, 1, 2])];
        let found = |forward, source| foreign_sources(&config(forward, source), &own);
        assert_eq!(found("nat", "10.0.1.200"), [IpAddr::from([10, 0, 1, 200])]);
        assert!(found("nat", "10.0.1.2").is_empty());
        assert!(found("ipip", "10.0.1.200").is_empty());
        assert!(
            found("nat", "fd00::200").is_empty(),
            "of no backend's family"
        );
    }

    #[test]
    fn accepts_the_addresses_of_this_host() {
        let found = warnings(&config("nat", "198.51.100.77"));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("nat_source 198.51.100.77 is not an address of this host"));
        let mut own = config("nat", "198.51.100.77");
        own.node.nat_source = vec![[127, 0, 0, 1].into()];
        assert!(warnings(&own).is_empty());
    }
}
