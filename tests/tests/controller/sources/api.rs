//! Members that are set by the API, and operators who know better than a source.

use serde_json::json;

use super::*;

fn set(site: &Site<'_>, body: &Value) -> (u16, Value) {
    site.operator
        .request("PUT", "/v1/sources/web", body)
        .unwrap()
}

/// A list of members with the addresses of these backends.
fn list(site: &Site<'_>, backends: impl IntoIterator<Item = usize>) -> Value {
    let backends = backends.into_iter();
    let members = backends.map(|index| json!({ "address": backend(site.lab, index) }));
    members.collect()
}

#[test]
fn members_are_set_and_shown() {
    if !can_run("PUT and GET") {
        return;
    }
    let lab = build();
    let site = start(&lab, FORWARD, "api:web", "");
    let unset = Observed::of(&site);
    let error = unset.source()["error"].as_str().unwrap();
    assert!(error.contains("evenkeel source set web"), "{error}");

    let (code, body) = set(&site, &list(&site, 0..4));
    assert_eq!(code, 200, "{body}");
    wait_up(&site, 0..4);
    let (code, body) = site
        .operator
        .request("GET", "/v1/sources/web", &Value::Null)
        .unwrap();
    assert_eq!(
        (code, body[0]["members"].as_array().unwrap().len()),
        (200, 4),
        "{body}"
    );
    assert_eq!(site.operator.get("/v1/sources/api:web").unwrap(), body);
    let (code, _) = site
        .operator
        .request("GET", "/v1/sources/other", &Value::Null)
        .unwrap();
    assert_eq!(code, 404);

    // What can be no backend is refused, by name.
    for (body, has) in [
        (json!([{ "address": "127.0.0.1" }]), "a loopback address"),
        (json!([{ "address": "fd00::9" }]), "its own address family"),
        (
            json!([{ "address": "10.9.0.1", "port": 81 }]),
            "can change the port",
        ),
        (
            json!([{ "address": "10.9.0.1" }, { "address": "10.9.0.1" }]),
            "another member",
        ),
        (json!([]), "allow_empty"),
        (json!([{ "address": "10.9.0.1", "weight": 0 }]), "weight 0"),
    ] {
        let (code, answer) = set(&site, &body);
        let message = answer["message"].as_str().unwrap();
        assert!(code >= 400 && message.contains(has), "{code} {answer}");
    }
    wait_up(&site, 0..4);
    assert!(Observed::of(&site).source()["error"].is_null());

    // Fewer members: at once, but half of them at most.
    let (code, body) = set(&site, &list(&site, [0]));
    assert_eq!(code, 200, "{body}");
    assert_eq!(
        body["held"].as_str().unwrap().split(',').next(),
        Some("1 of 2 missing")
    );
    assert_eq!(Observed::of(&site).members("up").len(), 2);
    wait_up(&site, [0]);

    // None at all, if that is meant.
    let none = json!({ "members": [], "allow_empty": true });
    assert_eq!(set(&site, &none).0, 200);
    wait_up(&site, []);
    let file = lab.balancers[0].directory().join("members.json");
    std::fs::write(&file, list(&site, 1..3).to_string()).unwrap();
    let path = file.to_str().unwrap();
    site.operator
        .run(&["source", "set", "web", path])
        .unwrap()
        .assert_code(0);
    wait_up(&site, 1..3);
    let shown = site
        .operator
        .run(&["source", "list"])
        .unwrap()
        .assert_code(0);
    assert!(shown.out.contains("api:web"), "{}", shown.out);
    let shown = site
        .operator
        .run(&["source", "show", "web"])
        .unwrap()
        .assert_code(0);
    assert!(shown.out.contains("leaving"), "{}", shown.out);
}

#[test]
fn operators_drain_and_weigh_members_of_a_source() {
    if !can_run("overrides") {
        return;
    }
    let lab = build();
    let mut site = start(&lab, FORWARD, "api:web", "");
    assert_eq!(set(&site, &list(&site, 0..3)).0, 200);
    wait_up(&site, 0..3);
    let name = backend(&lab, 1).to_string();
    let path = format!("{VIP}/{name}");
    site.operator
        .run(&["backend", "drain", &name])
        .unwrap()
        .assert_code(0);
    wait_up(&site, [0, 2]);
    // The source says otherwise, and a restart changes nothing.
    assert_eq!(set(&site, &list(&site, 0..4)).0, 200);
    wait_up(&site, [0, 2, 3]);
    site.node.stop().unwrap();
    site.node.restart().unwrap();
    wait_up(&site, [0, 2, 3]);
    site.operator
        .run(&["backend", "undrain", &path])
        .unwrap()
        .assert_code(0);
    wait_up(&site, 0..4);
    site.operator
        .run(&["backend", "weight", &path, "300"])
        .unwrap()
        .assert_code(0);
    let weighed = wait_up(&site, 0..4);
    assert!(
        (weighed.shares()[1] - 0.5).abs() < 0.01,
        "{:?}",
        weighed.shares()
    );
    let missing = site
        .operator
        .run(&["backend", "drain", &format!("{VIP}/10.9.9.9")])
        .unwrap();
    assert!(missing.err.contains("has no backend"), "{}", missing.err);
    let removed = site.operator.run(&["backend", "remove", &path]).unwrap();
    assert!(removed.err.contains("come from api:web"), "{}", removed.err);

    // Another change keeps the members, and so does its rollback.
    let text = sourced(&lab, FORWARD, "api:web", "guard.max_share = 1.0\n");
    let changed = site.changed(|configuration| configuration.more = text);
    let file = site.write("changed.toml", &changed);
    let file = file.to_str().unwrap();
    site.operator.run(&["apply", file]).unwrap().assert_code(0);
    wait_up(&site, 0..4);
    site.operator.run(&["rollback"]).unwrap().assert_code(0);
    wait_up(&site, 0..4);
    let config = site
        .operator
        .run(&["config", "show"])
        .unwrap()
        .assert_code(0)
        .out;
    assert!(config.contains("backends_from = \"api:web\""), "{config}");
    assert!(!config.contains("[[vip.backend]]"), "{config}");
}
