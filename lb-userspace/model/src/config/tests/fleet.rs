//! `[fleet]`: values and errors.

use std::time::Duration;

use super::*;

const FLEET: &str = "[fleet]
node = \"lb-1\"
endpoints = [\"https://10.0.0.1:2379\"]
ca_file = \"/etc/ca.pem\"
cert_file = \"/etc/etcd.pem\"
key_file = \"/etc/etcd-key.pem\"
";

fn with_fleet(fleet: &str) -> String {
    format!("{LEAST}\n{fleet}")
}

#[test]
fn a_fleet_gets_its_defaults() {
    let fleet = parse("f", &with_fleet(FLEET)).unwrap().fleet.unwrap();
    assert_eq!((&*fleet.name, fleet.rack), ("main", None));
    assert_eq!(fleet.confirm, Duration::from_secs(60));
    assert_eq!(parse("f", LEAST).unwrap().fleet, None);
}

#[test]
fn a_node_of_a_fleet_needs_no_vips() {
    let vip = LEAST.find("[[vip]]").unwrap();
    let text = format!("{}{FLEET}", &LEAST[..vip]);
    assert!(parse("f", &text).unwrap().vips.is_empty());
}

#[test]
#[rustfmt::skip]
fn errors_in_the_fleet() {
    let url = "\"https://10.0.0.1:2379\"";
    for (from, to, has) in [
        ("node = \"lb-1\"\n", "", "`fleet.node` is missing"),
        ("ca_file = \"/etc/ca.pem\"\n", "", "`fleet.ca_file` is missing"),
        ("\"/etc/ca.pem\"", "\"ca.pem\"", "not an absolute path"),
        (url, "\"http://10.0.0.1:2379\"", "etcd is only used over TLS"),
        (url, "\"10.0.0.1:2379\"", "not an HTTP URL"),
        (url, "\"https://u:p@10.0.0.1\"", "the URL has a user or a password"),
        (url, "\"https://10.0.0.1/v3\"", "more than a host and a port"),
        (url, "\"https://a\", \"https://a/\"", "duplicate endpoint"),
        (url, "", "`fleet.endpoints` is empty"),
        ("[fleet]", "[fleet]\nexchange = \"0.0.0.0:7946\"", "other nodes can't reach"),
        ("[fleet]", "[fleet]\nexchange = \"10.0.0.1:0\"", "other nodes can't reach"),
        ("[fleet]", "[fleet]\nexchange = \"10.0.0.1\"", "exchange"),
        ("[fleet]", "[fleet]\nconfirm = \"1s\"", "must be between 10s and 1h"),
        ("[fleet]", "[fleet]\nname = \"a/b\"", "'/' is not allowed in a name"),
    ] {
        assert!(FLEET.contains(from), "{from}");
        let errors = parse("f", &with_fleet(&FLEET.replacen(from, to, 1))).unwrap_err();
        assert_eq!(errors.len(), 1, "{to}: {errors}");
        assert!(errors.to_string().contains(has), "{to}: {errors}");
    }
}
