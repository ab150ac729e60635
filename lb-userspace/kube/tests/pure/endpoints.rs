//! Backends by EndpointSlices and nodes.

use k8s_openapi::api::core::v1::Node;
use lb_api::{MemberIntent, NewMember};
use lb_kube::{members::members, service::Family};
use serde_json::json;

use super::*;

fn node(name: &str, address: &str, change: impl FnOnce(&mut Value)) -> Arc<Node> {
    let mut object = json!({
        "metadata": { "name": name, "labels": {} },
        "spec": {},
        "status": {
            "addresses": [
                { "type": "ExternalIP", "address": "198.51.100.1" },
                { "type": "InternalIP", "address": address },
            ],
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    });
    change(&mut object);
    Arc::new(serde_json::from_value(object).unwrap())
}

/// `address:port weight state` of each backend.
fn of(
    service: &Service,
    family: Family,
    slices: &[Arc<EndpointSlice>],
    nodes: &[Arc<Node>],
) -> Option<Vec<String>> {
    let wanted = wanted(service);
    let members = members(&wanted, &wanted.ports[0], family, slices, nodes)?;
    let words = |member: &NewMember| {
        let state = match member.state {
            MemberIntent::Up => "up",
            MemberIntent::Drain => "drain",
            MemberIntent::Disabled => "disabled",
        };
        let port = member
            .port
            .map_or_else(String::new, |port| format!(":{port}"));
        let weight = member
            .weight
            .map_or_else(String::new, |weight| format!(" {weight}"));
        format!("{}{port}{weight} {state}", member.address)
    };
    Some(members.iter().map(words).collect())
}

#[test]
fn conditions_decide_what_a_pod_gets() {
    let web = service("web", |_| {});
    for (conditions, expected) in [
        (json!({}), "up"),
        (json!({ "ready": true }), "up"),
        (json!({ "ready": false }), ""),
        (json!({ "ready": false, "serving": true }), "up"),
        (
            json!({ "ready": false, "serving": true, "terminating": true }),
            "drain",
        ),
        (
            json!({ "ready": false, "serving": false, "terminating": true }),
            "",
        ),
        // publishNotReadyAddresses
        (
            json!({ "ready": true, "serving": false, "terminating": true }),
            "drain",
        ),
        (json!({ "ready": true, "serving": false }), "up"),
    ] {
        let endpoint = json!([{ "addresses": ["10.0.0.7"], "conditions": conditions }]);
        let found = of(&web, Family::V4, &[slice("IPv4", &endpoint)], &[]).unwrap();
        let expected = match expected {
            "" => Vec::new(),
            state => vec![format!("10.0.0.7:8080 {state}")],
        };
        assert_eq!(found, expected, "{conditions}");
    }
}

#[test]
fn slices_are_put_together() {
    let web = service("web", |_| {});
    let up = |address: &str| json!({ "addresses": [address], "conditions": { "ready": true } });
    let goes = json!({ "addresses": ["10.0.0.8"],
        "conditions": { "ready": false, "serving": true, "terminating": true } });
    let slices = [
        slice("IPv4", &json!([up("10.0.0.7"), goes])),
        // A pod moves from one slice to another, and is in both for a while.
        slice(
            "IPv4",
            &json!([up("10.0.0.7"), up("10.0.0.9"), up("nonsense")]),
        ),
        slice("IPv6", &json!([up("fd00::7")])),
    ];
    let found = of(&web, Family::V4, &slices, &[]).unwrap();
    assert_eq!(
        found,
        [
            "10.0.0.7:8080 up",
            "10.0.0.8:8080 drain",
            "10.0.0.9:8080 up"
        ]
    );
    let found = of(&web, Family::V6, &slices, &[]).unwrap();
    assert_eq!(found, ["fd00::7:8080 up"]);
    // Nothing is known, or nobody serves.
    assert_eq!(of(&web, Family::V4, &[], &[]), None);
    let empty = slice("IPv4", &json!([]));
    let one = std::slice::from_ref(&empty);
    assert_eq!(of(&web, Family::V4, one, &[]), Some(Vec::new()));
    assert_eq!(of(&web, Family::V6, one, &[]), None);
    // A port is renamed in the Service first, then in the slices.
    let renamed = service("web", |object| {
        object["spec"]["ports"][0]["name"] = json!("web");
    });
    assert_eq!(of(&renamed, Family::V4, &slices, &[]), None);
    assert_eq!(of(&renamed, Family::V4, one, &[]), Some(Vec::new()));
}

#[test]
fn a_local_service_has_the_nodes_with_endpoints_by_their_number() {
    let web = service("web", |object| {
        object["metadata"]["annotations"] = json!({ "evenkeel.example/forward": "ipip" });
        object["spec"]["externalTrafficPolicy"] = json!("Local");
    });
    let on = |node: &str, address: &str, ready: bool| {
        json!({ "addresses": [address], "nodeName": node,
            "conditions": { "ready": ready, "serving": true, "terminating": !ready } })
    };
    let slices = [
        slice(
            "IPv4",
            &json!([
                on("a", "10.1.0.1", true),
                on("a", "10.1.0.2", true),
                on("a", "10.1.0.3", false),
                on("b", "10.1.1.1", false),
                on("c", "10.1.2.1", true),
            ]),
        ),
        slice("IPv6", &json!([on("a", "fd00::1", true)])),
    ];
    let nodes = [
        node("a", "10.0.0.1", |_| {}),
        node("b", "10.0.0.2", |_| {}),
        node("c", "10.0.0.3", |object| {
            object["spec"]["unschedulable"] = json!(true);
        }),
        node("d", "10.0.0.4", |_| {}),
    ];
    assert_eq!(
        of(&web, Family::V4, &slices, &nodes).unwrap(),
        ["10.0.0.1 2 up", "10.0.0.2 1 drain", "10.0.0.3 1 drain"]
    );
}

#[test]
fn other_services_have_all_nodes_that_may_be_used() {
    let web = annotated("web", "forward", "l2");
    let slices = [slice("IPv4", &json!([]))];
    let nodes = [
        node("a", "10.0.0.1", |_| {}),
        node("b", "10.0.0.2", |object| {
            object["status"]["conditions"][0]["status"] = json!("Unknown");
        }),
        node("c", "10.0.0.3", |object| {
            object["spec"]["taints"] =
                json!([{ "key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule" }]);
        }),
        node("d", "10.0.0.4", |object| {
            object["metadata"]["labels"] =
                json!({ "node.kubernetes.io/exclude-from-external-load-balancers": "" });
        }),
        node("e", "fd00::5", |_| {}),
    ];
    let found = of(&web, Family::V4, &slices, &nodes).unwrap();
    assert_eq!(found, ["10.0.0.1 up", "10.0.0.2 drain", "10.0.0.3 drain"]);
    // No node is seen, or all are cordoned: all but those that go are used.
    let blind: Vec<Arc<Node>> = nodes[1..4].to_vec();
    let found = of(&web, Family::V4, &slices, &blind).unwrap();
    assert_eq!(found, ["10.0.0.2 up", "10.0.0.3 drain"]);
    assert_eq!(of(&web, Family::V4, &slices, &[]), None);
    let tunnel = annotated("web", "forward", "ipip");
    let found = of(&tunnel, Family::V4, &slices, &nodes).unwrap();
    assert!(found.contains(&"fd00::5 up".to_owned()), "{found:?}");
}
