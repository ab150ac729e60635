//! The VIPs of a configuration.

use lb_kube::{
    plan::{Outcome, decide},
    service::ServiceKey,
    text::Tables,
};
use serde_json::json;

use super::*;

const OTHERS: &str = r#"# By hand.
[[vip]]
name = "mail"
address = "192.0.2.25"
port = 25
protocol = "tcp"
forward = "l2"

[[vip.backend]]
name = "a"
address = "10.0.0.1"
"#;

/// Applies what is decided for all Services.
fn apply(settings: &Settings, services: &[Arc<Service>], tables: &Tables) -> Tables {
    let decision = decide(settings, services, tables, &|_| true);
    let mut new = tables.clone();
    for key in decision.services.keys() {
        decision.apply(&mut new, "k8s", key);
    }
    new
}

fn problem(settings: &Settings, services: &[Arc<Service>], tables: &Tables, of: &str) -> String {
    let decision = decide(settings, services, tables, &|_| true);
    let mut all = decision.services.iter();
    match all.find(|(key, _)| key.name == of).unwrap() {
        (_, Outcome::Unchanged(problem)) => problem.clone(),
        other => panic!("{other:?}"),
    }
}

fn addresses(tables: &Tables) -> Vec<String> {
    let words = |(name, address)| format!("{name} {address}");
    tables.addresses().map(words).collect()
}

#[test]
fn vips_are_added_changed_and_removed_and_others_stay() {
    let settings = settings(&["192.0.2.24/29", "fd00:1::/64"]);
    let empty = Tables::read(OTHERS).unwrap();
    let web = service("web", |object| {
        object["spec"]["ipFamilies"] = json!(["IPv4", "IPv6"]);
    });
    let added = apply(&settings, std::slice::from_ref(&web), &empty);
    assert!(added.text().starts_with(OTHERS), "{}", added.text());
    assert_eq!(
        addresses(&added),
        [
            "mail 192.0.2.25",
            "k8s.default.web.tcp-80 192.0.2.24",
            "k8s.default.web.tcp-80-v6 fd00:1::"
        ]
    );
    for line in [
        "forward = \"nat\"",
        "backends_from = \"api:k8s.default.web.tcp-80.nat\"",
        "[vip.health]\nkind = \"tcp\"",
    ] {
        assert!(added.text().contains(line), "{}", added.text());
    }
    // Again: nothing changes. What an operator adds stays.
    let edited = format!(
        "{}\n[vip.guard]\nmax_moved = 0.5\n",
        added.text().trim_end()
    );
    let edited = edited.replace("kind = \"tcp\"", "kind = \"tcp\"\ninterval = \"2s\"");
    let edited = Tables::read(&edited).unwrap();
    let again = apply(&settings, std::slice::from_ref(&web), &edited);
    assert_eq!(again.text(), edited.text());
    let checked = service("web", |object| {
        object["spec"]["ipFamilies"] = json!(["IPv4", "IPv6"]);
        object["metadata"]["annotations"] = json!({ "evenkeel.example/health": "http:/up" });
    });
    let changed = apply(&settings, &[checked], &edited).text();
    assert!(
        changed.contains("path = \"/up\"") && changed.contains("interval = \"2s\""),
        "{changed}"
    );
    assert!(changed.contains("max_moved"), "{changed}");
    // One family, then none.
    let single = service("web", |_| {});
    let fewer = apply(&settings, &[single], &added);
    assert_eq!(addresses(&fewer).len(), 2);
    let deleted = service("web", |object| {
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    let gone = apply(&settings, &[deleted], &added);
    assert_eq!(gone.text(), OTHERS);
}

#[test]
fn addresses_are_of_pools_and_nobody_elses() {
    let settings = settings(&["192.0.2.24/30", "web=203.0.113.5-203.0.113.5"]);
    let tables = Tables::read(OTHERS).unwrap();
    let says = |service: Arc<Service>, part: &str| {
        let found = problem(&settings, &[service], &tables, "web");
        assert!(found.contains(part), "{found}");
    };
    says(
        annotated("web", "address", "192.0.2.25"),
        "another VIP has it",
    );
    says(annotated("web", "address", "198.51.100.1"), "of no pool");
    says(annotated("web", "pool", "mail"), "the pool \"mail\"");
    let of_pool = apply(&settings, &[annotated("web", "pool", "web")], &tables);
    assert_eq!(addresses(&of_pool)[1], "k8s.default.web.tcp-80 203.0.113.5");
    let wanted = apply(
        &settings,
        &[annotated("web", "address", "192.0.2.27")],
        &tables,
    );
    assert_eq!(addresses(&wanted)[1], "k8s.default.web.tcp-80 192.0.2.27");
    // Three are free, and the pool "web" is for whoever does not mind, too.
    let many: Vec<_> = (0..6).map(|n| service(&format!("s{n}"), |_| {})).collect();
    let found = problem(&settings, &many, &tables, "s4");
    assert!(found.contains("no pool has a free IPv4 address"), "{found}");
    let dual = service("web", |object| {
        object["spec"]["ipFamilies"] = json!(["IPv4", "IPv6"]);
        object["spec"]["ipFamilyPolicy"] = json!("RequireDualStack");
    });
    says(dual, "free IPv6 address");
}

#[test]
fn a_status_is_believed_only_if_the_address_is_free_and_of_a_pool() {
    let settings = settings(&["192.0.2.24/29"]);
    let tables = Tables::read(OTHERS).unwrap();
    for (claimed, gets) in [
        ("192.0.2.30", "192.0.2.30"),
        ("192.0.2.25", "192.0.2.24"),
        ("198.51.100.9", "192.0.2.24"),
    ] {
        let web = service("web", |object| {
            object["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": claimed }] } });
        });
        let found = apply(&settings, &[web], &tables);
        assert_eq!(
            addresses(&found)[1],
            format!("k8s.default.web.tcp-80 {gets}")
        );
    }
}

#[test]
fn a_service_with_an_error_keeps_its_vips_and_lost_ones_are_orphans() {
    let settings = settings(&["192.0.2.24/29"]);
    let web = service("web", |_| {});
    let tables = apply(&settings, &[web], &Tables::read("").unwrap());
    let wrong = annotated("web", "forward", "dsr");
    let same = apply(&settings, &[wrong], &tables);
    assert_eq!(same.text(), tables.text());
    let decision = decide(&settings, &[], &tables, &|_| true);
    assert_eq!(decision.orphans, ["k8s.default.web.tcp-80"]);
    // Another cluster's, or nobody's.
    let others = "vip = [{ name = \"k8sx.a.b.tcp-80\", address = \"192.0.2.1\" }]";
    let decision = decide(&settings, &[], &Tables::read(others).unwrap(), &|_| true);
    assert!(decision.orphans.is_empty());
    let key = ServiceKey {
        namespace: "default".into(),
        name: "web".into(),
    };
    let mut with_inline = Tables::read("vip = []").unwrap();
    let added = decide(&settings, &[service("web", |_| {})], &with_inline, &|_| {
        true
    });
    assert!(added.differs(&with_inline.index(), "k8s", &key));
    added.apply(&mut with_inline, "k8s", &key);
    assert!(!added.differs(&with_inline.index(), "k8s", &key));
    assert_eq!(addresses(&with_inline).len(), 1);
}

#[test]
fn services_without_endpoints_take_no_address_from_others() {
    let settings = settings(&["192.0.2.24/31"]);
    let tables = Tables::read("").unwrap();
    let known = service("known", |object| {
        object["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": "192.0.2.24" }] } });
    });
    let mut all: Vec<_> = (0..5).map(|n| service(&format!("a{n}"), |_| {})).collect();
    all.extend([known, service("ready", |_| {})]);
    let served = |source: &str| source == "k8s.default.ready.tcp-80.nat";
    let decision = decide(&settings, &all, &tables, &served);
    let mut new = tables.clone();
    for (key, outcome) in &decision.services {
        decision.apply(&mut new, "k8s", key);
        assert!(
            key.name == "ready"
                || matches!(outcome, Outcome::Unchanged(why) if why.contains("ready yet"))
        );
    }
    // Not the one that the clients of another know.
    assert_eq!(addresses(&new), ["k8s.default.ready.tcp-80 192.0.2.25"]);
}
