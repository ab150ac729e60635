//! Pools.

use std::{collections::BTreeSet, net::IpAddr};

use lb_kube::pool::Pool;

fn all(pool: &str) -> Vec<String> {
    let pool: Pool = pool.parse().unwrap();
    let mut taken: BTreeSet<IpAddr> = BTreeSet::new();
    let mut found = Vec::new();
    while let Some(address) = pool.free(&taken) {
        assert!(pool.has(&address));
        taken.insert(address);
        found.push(address.to_string());
        if found.len() == 5 {
            break;
        }
    }
    found
}

#[test]
fn a_pool_has_its_addresses_and_no_others() {
    assert_eq!(all("192.0.2.8/31"), ["192.0.2.8", "192.0.2.9"]);
    assert_eq!(all("192.0.2.8/32"), ["192.0.2.8"]);
    assert_eq!(all("255.255.255.254-255.255.255.255").len(), 2);
    assert_eq!(all("fd00::ffff-fd00::1:0"), ["fd00::ffff", "fd00::1:0"]);
    assert_eq!(all("::/0")[..2], ["::", "::1"]);
    assert_eq!(all("0.0.0.0/0")[..2], ["0.0.0.0", "0.0.0.1"]);
    let last = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128";
    assert_eq!(all(last).len(), 1);
    let pool: Pool = "web=192.0.2.0/24".parse().unwrap();
    assert_eq!(pool.name, "web");
    for (address, is_in) in [
        ("192.0.2.255", true),
        ("192.0.3.0", false),
        ("::c000:200", false),
        ("::ffff:192.0.2.1", false),
    ] {
        assert_eq!(pool.has(&address.parse().unwrap()), is_in, "{address}");
    }
}

#[test]
fn a_malformed_pool_is_refused_with_its_part() {
    for (text, part) in [
        ("192.0.2.1/24", "192.0.2.1/24"),
        ("192.0.2.0/33", "192.0.2.0/33"),
        ("192.0.2.0/x", "192.0.2.0/x"),
        ("192.0.2/24", "\"192.0.2\""),
        ("192.0.2.9-192.0.2.8", "192.0.2.9-192.0.2.8"),
        ("192.0.2.9-fd00::1", "no range"),
        ("192.0.2.9", "192.0.2.9"),
        ("=192.0.2.0/24", "empty name"),
        ("", "CIDR"),
    ] {
        let error = text.parse::<Pool>().unwrap_err();
        assert!(
            error.contains(part) && error.contains("must be"),
            "{text}: {error}"
        );
    }
}
