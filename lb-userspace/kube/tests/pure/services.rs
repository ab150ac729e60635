//! What Services ask for.

use std::collections::BTreeSet;

use lb_kube::service::{Forward, Health, ServiceKey, is_ours, read};
use serde_json::json;

use super::*;

#[test]
fn annotations_and_fields_are_read() {
    let plain = wanted(&service("web", |_| {}));
    assert_eq!((plain.forward, plain.by_source), (Forward::Nat, false));
    assert_eq!(plain.health, Health::Tcp);
    let other = wanted(&service("web", |object| {
        object["spec"]["sessionAffinity"] = json!("ClientIP");
        object["spec"]["externalTrafficPolicy"] = json!("Local");
        object["spec"]["healthCheckNodePort"] = json!(32000);
        object["metadata"]["annotations"] = json!({ "evenkeel.example/forward": "ipip" });
    }));
    assert!(other.by_source && other.local);
    assert_eq!(other.health, Health::Http("/healthz".into(), Some(32000)));
    for (text, health) in [
        ("none", Health::None),
        ("tcp", Health::Tcp),
        ("http:/a?b=c", Health::Http("/a?b=c".into(), None)),
        ("http:8081/", Health::Http("/".into(), Some(8081))),
    ] {
        assert_eq!(wanted(&annotated("web", "health", text)).health, health);
    }
    let udp = wanted(&service("dns", |object| {
        object["spec"]["ports"] = json!([
            { "name": "a", "port": 53, "protocol": "UDP" },
            { "name": "b", "port": 53, "protocol": "TCP" },
        ]);
    }));
    assert_eq!(udp.health, Health::None);
}

#[test]
fn what_is_wrong_is_said_with_what_is_right() {
    for (annotation, value, says) in [
        ("forward", "dsr", "nat, ipip or l2"),
        ("affinity", "cookie", "flow or source"),
        ("health", "exec", "http:/PATH"),
        ("health", "http:/a\"b", "http:/PATH"),
        ("health", "http:/a b", "http:/PATH"),
        ("health", "http:0/", "http:/PATH"),
        ("health", "http:70000/", "http:/PATH"),
        ("health", "http:/0123456789abcdef01234567", "http:/PATH"),
        ("address", "192.0.2.1,192.0.2.2", "one of each family"),
        ("address", "192.0.2.300", "an address"),
        ("address", "fd00::1", "ipFamilies IPv4"),
    ] {
        let error = read(&annotated("web", annotation, value), Forward::Nat).unwrap_err();
        assert!(error.contains(says), "{annotation} {value}: {error}");
    }
    let long = format!("http:/{}", "x".repeat(300));
    let error = read(&annotated("web", "health", &long), Forward::Nat).unwrap_err();
    assert!(error.len() < 300, "{error}");
    let secret = service("a0123456789abcdef01234567", |_| {});
    let error = read(&secret, Forward::Nat).unwrap_err();
    assert!(error.contains("secret"), "{error}");
    for (ports, says) in [
        (json!([]), "no ports"),
        (json!([{ "port": 80, "protocol": "SCTP" }]), "SCTP"),
        (json!([{ "port": 0 }]), "1 and 65535"),
    ] {
        let service = service("web", |object| object["spec"]["ports"] = ports);
        let error = read(&service, Forward::Nat).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn services_of_other_classes_and_types_are_not_ours() {
    assert!(is_ours(&service("web", |_| {}), CLASS));
    let mut others = vec![service("web", |object| {
        object["spec"]["type"] = json!("ClusterIP");
    })];
    for class in [json!("other"), json!(null)] {
        let change = |object: &mut Value| object["spec"]["loadBalancerClass"] = class;
        others.push(service("web", change));
    }
    assert!(others.iter().all(|service| !is_ours(service, CLASS)));
}

#[test]
fn prefixes_are_short_and_differ() {
    let key = |namespace: &str, name: &str| ServiceKey {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    let long = "a".repeat(63);
    let keys = [
        key("default", "web"),
        key("default-web", "x"),
        key("default", "web-x"),
        key(&long, "web"),
        key(&long, "wec"),
        key(&long, &long),
        key(&"a".repeat(62), &long),
        // As long as those that are cut.
        key("default", &"b".repeat(33)),
    ];
    let prefixes: BTreeSet<String> = keys.iter().map(|key| key.prefix("k8s")).collect();
    assert_eq!(prefixes.len(), keys.len());
    assert!(
        prefixes.iter().all(|prefix| prefix.len() <= 45),
        "{prefixes:?}"
    );
    assert!(prefixes.contains("k8s.default.web"));
}
