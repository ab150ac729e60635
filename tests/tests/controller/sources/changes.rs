//! Changes of the configuration that bring sources, leave them, and come back to them.

use serde_json::json;

use super::*;

/// Another VIP, of the web service.
fn second(lab: &Lab, source: &str) -> String {
    let at = address(lab, Kind::Web, Family::V4);
    format!(
        "[[vip]]\nname = \"second\"\naddress = \"{}\"\nport = {}\nprotocol = \"tcp\"\nforward = \"{}\"\n\
         backends_from = \"{source}\"\n",
        at.ip(),
        at.port(),
        FORWARD.name(),
    )
}

/// An address that only [`third`] has.
const ADDRESS: &str = "198.51.100.9";

/// A VIP with a backend of its own.
fn third(lab: &Lab) -> String {
    format!(
        "[[vip]]\nname = \"third\"\naddress = \"{ADDRESS}\"\nport = 80\nprotocol = \"tcp\"\nforward = \"{}\"\n\
         [[vip.backend]]\nname = \"one\"\naddress = \"{}\"\n",
        FORWARD.name(),
        backend(lab, 0),
    )
}

/// Writes a configuration with these VIPs as the node's file.
fn edit(site: &Site<'_>, text: &str) {
    let folder = site.lab.balancers[0].directory();
    let changed = site.changed(|configuration| configuration.more = text.to_owned());
    let balancer = &site.node.balancer;
    balancer
        .write_configuration(&changed.to_toml(folder))
        .unwrap();
}

/// Applies a configuration with these VIPs from another file, whatever these guards say.
fn apply(site: &Site<'_>, text: &str, force: &[&str]) -> lab::operator::CommandResult {
    let changed = site.changed(|configuration| configuration.more = text.to_owned());
    let file = site.write("changed.toml", &changed);
    let mut arguments = vec!["apply", file.to_str().unwrap()];
    for guard in force {
        arguments.extend(["--force", guard]);
    }
    site.operator.run(&arguments).unwrap()
}

fn set(site: &Site<'_>, name: &str, members: &[Value]) -> (u16, Value) {
    let path = format!("/v1/sources/{name}");
    site.operator
        .request("PUT", &path, &json!(members))
        .unwrap()
}

/// Members with the addresses of these backends.
fn list(lab: &Lab, backends: impl IntoIterator<Item = usize>) -> Vec<Value> {
    let backends = backends.into_iter();
    backends
        .map(|index| json!({ "address": backend(lab, index) }))
        .collect()
}

#[test]
fn a_reload_and_an_edited_file_ask_new_sources_first() {
    if !can_run("reload") {
        return;
    }
    let lab = build();
    let mut all = records(&lab, "echo", 0..4);
    all.extend(records(&lab, "other", 0..3));
    all.extend(records(&lab, "third", 0..2));
    let _dns = DnsServer::start(&lab.balancers[0], &all).unwrap();
    let mut site = start(&lab, FORWARD, "dns:echo.lab", "");
    wait_up(&site, 0..4);
    edit(&site, &sourced(&lab, FORWARD, "dns:other.lab", ""));
    site.operator.run(&["reload"]).unwrap().assert_code(0);
    wait_up(&site, 0..3);
    site.node.stop().unwrap();
    edit(&site, &sourced(&lab, FORWARD, "dns:third.lab", ""));
    site.node.restart().unwrap();
    wait_up(&site, 0..2);
    assert_eq!(site.revisions().len(), 3, "{}", site.node.balancer.log());
}

/// What the node knew of the source may be lost, or may be of another time.
#[test]
fn a_rollback_to_a_source_asks_it_if_nothing_is_known() {
    if !can_run("rollback to a source") {
        return;
    }
    let lab = build();
    let mut dns = DnsServer::start(&lab.balancers[0], &records(&lab, "echo", 0..3)).unwrap();
    let mut site = start(&lab, FORWARD, "dns:echo.lab", "");
    wait_up(&site, 0..3);
    let listed = format!(
        "{}[[vip.backend]]\nname = \"one\"\naddress = \"{}\"\n",
        sourced(&lab, FORWARD, "dns:echo.lab", "")
            .replace("backends_from = \"dns:echo.lab\"\n", ""),
        backend(&lab, 3)
    );
    let force = |site: &Site<'_>| {
        let guards = ["max_share", "min_backends", "max_moved", "share_error"];
        apply(site, &listed, &guards).assert_code(0);
        wait_up(site, [3]);
    };
    force(&site);
    // Without a server, it has the members that it had.
    dns.freeze().unwrap();
    site.operator.run(&["rollback"]).unwrap().assert_code(0);
    wait_up(&site, 0..3);
    dns.thaw().unwrap();

    // Nor does it get what is answered while the change that has left the source may still be undone.
    force(&site);
    let vip = address(&lab, Kind::Echo, Family::V4).ip();
    dns.set(&[("echo", vip)]).unwrap();
    let changed = site.changed(|configuration| {
        configuration.more = sourced(&lab, FORWARD, "dns:echo.lab", "");
    });
    let file = site.write("planned.toml", &changed);
    let plan = site
        .operator
        .run(&["plan", file.to_str().unwrap()])
        .unwrap();
    assert!(
        plan.err.contains("the address is that of a VIP"),
        "{}",
        plan.err
    );
    site.operator.run(&["rollback"]).unwrap().assert_code(0);
    assert_eq!(Observed::of(&site).members("up").len(), 3);
    dns.set(&records(&lab, "echo", 0..3)).unwrap();

    force(&site);
    site.node.stop().unwrap();
    let state_dir = site.node.balancer.state_dir();
    std::fs::remove_file(state_dir.join("sources.json")).unwrap();
    site.node.restart().unwrap();
    wait_up(&site, [3]);
    let before = events(&site, "source");
    site.operator.run(&["rollback"]).unwrap().assert_code(0);
    wait_up(&site, 0..3);
    // They were there with the rollback, not added by a later answer.
    assert_eq!(events(&site, "source"), before);

    // What a plan has asked is no obstacle to what is true when the change is made.
    let mut all = records(&lab, "echo", 0..3);
    all.push(("new", vip));
    dns.set(&all).unwrap();
    let changed = sourced(&lab, FORWARD, "dns:new.lab", "");
    let refused = apply(&site, &changed, &[]);
    assert!(
        refused.err.contains("the address is that of a VIP"),
        "{}",
        refused.err
    );
    all.pop();
    all.extend(records(&lab, "new", 1..4));
    dns.set(&all).unwrap();
    apply(&site, &changed, &[]).assert_code(0);
    wait_up(&site, 1..4);
}

#[test]
fn a_member_that_a_rollback_leaves_out_stops_nothing_else() {
    if !can_run("left out by a rollback") {
        return;
    }
    let lab = build();
    let both = sourced(&lab, FORWARD, "api:web", "") + &second(&lab, "api:other");
    let mut site = Site::start_with(&lab, FORWARD, |configuration| {
        configuration.vips.clear();
        configuration.more = both.clone() + &third(&lab);
    });
    assert_eq!(set(&site, "web", &list(&lab, 0..3)).0, 200);
    assert_eq!(set(&site, "other", &list(&lab, 0..3)).0, 200);
    wait_up(&site, 0..3);
    // Without the third VIP, its address can be that of a backend.
    apply(&site, &both, &["vip_removed"]).assert_code(0);
    assert_eq!(set(&site, "web", &list(&lab, 0..4)).0, 200);
    let mut members = list(&lab, 0..3);
    members.push(json!({ "address": ADDRESS }));
    let (code, body) = set(&site, "web", &members);
    assert_eq!(code, 200, "{body}");
    site.operator.run(&["rollback"]).unwrap().assert_code(0);
    wait_up(&site, 0..3);

    // The other source and other changes go on.
    let (code, body) = set(&site, "other", &list(&lab, 0..4));
    assert_eq!(code, 200, "{body}");
    wait(&site, "the second VIP has four", |observed| {
        observed.0["vips"][1]["members"].as_array().unwrap().len() == 4
    });
    let name = format!("second/{}", backend(&lab, 0));
    let drained = site.operator.run(&["backend", "drain", &name]).unwrap();
    drained.assert_code(0);
    // The one that was draining is removed when it is time.
    wait(&site, "the drained backend is removed", |observed| {
        observed.0["vips"][0]["members"].as_array().unwrap().len() == 3
    });
    // The source itself is refused only as long as it names what is not possible.
    let (code, body) = set(&site, "web", &members);
    assert!(code >= 400, "{body}");
    let message = body["message"].as_str().unwrap();
    assert!(message.contains("the address is that of a VIP"), "{body}");
    wait_up(&site, 0..3);
    let (code, body) = set(&site, "web", &list(&lab, 0..4));
    assert_eq!(code, 200, "{body}");
    wait_up(&site, 0..4);
    site.node.stop().unwrap();
    site.node.restart().unwrap();
    wait_up(&site, 0..4);
}

#[test]
fn named_members_move_and_pacing_holds_whatever_is_set() {
    if !can_run("named members") {
        return;
    }
    let lab = build();
    let mut site = start(&lab, FORWARD, "api:web", "");
    let named = |index: usize| json!({ "name": "canary", "address": backend(&lab, index) });
    let mut first = list(&lab, 0..2);
    first.push(named(2));
    assert_eq!(set(&site, "web", &first).0, 200);
    wait_up(&site, 0..3);
    let mut moved = list(&lab, 0..2);
    moved.push(named(3));
    let (code, body) = set(&site, "web", &moved);
    assert_eq!(code, 200, "{body}");
    let now = wait_up(&site, [0, 1, 3]);
    let members = now.0["vips"][0]["members"].as_array().unwrap().iter();
    let canary = members
        .clone()
        .find(|member| member["backend"] == "canary")
        .unwrap();
    assert_eq!(canary["address"], backend(&lab, 3).to_string());

    // A port that is the VIP's makes no other backend.
    let port = address(&lab, Kind::Echo, Family::V4).port();
    let with_port = |index: usize| json!({ "address": backend(&lab, index), "port": port });
    let all: Vec<Value> = (0..4).map(with_port).collect();
    let (code, body) = set(&site, "web", &all);
    assert_eq!(code, 200, "{body}");
    wait_up(&site, 0..4);

    // Nobody would be left.
    let drained: Vec<Value> = (0..4)
        .map(|index| json!({ "address": backend(&lab, index), "port": port, "state": "drain" }))
        .collect();
    let (code, body) = set(&site, "web", &drained);
    let message = body["message"].as_str().unwrap();
    assert!(code >= 400 && message.contains("allow_empty"), "{body}");
    wait_up(&site, 0..4);

    // However often it is set, and whenever the controller ends: half in a step, and then the others.
    let one = [with_port(0)];
    for _ in 0..5 {
        assert_eq!(set(&site, "web", &one).0, 200);
    }
    assert!(Observed::of(&site).members("up").len() >= 2);
    for _ in 0..2 {
        site.node.kill();
        site.node.restart().unwrap();
    }
    wait_up(&site, [0]);
}

/// Dead backends must not keep the place of those that replace them.
#[test]
fn a_set_is_replaced_by_one_for_which_there_is_no_room_beside_it() {
    if !can_run("a full ring") {
        return;
    }
    let lab = build();
    let site = start(&lab, FORWARD, "api:web", "ring_size = 251\n");
    // Nothing is there, so none of them gets flows.
    let dead = |third: u8| -> Vec<Value> {
        let addresses =
            (1..=130).map(|last: u8| json!({ "address": format!("10.99.{third}.{last}") }));
        addresses.collect()
    };
    for third in [1, 2] {
        let (code, body) = set(&site, "web", &dead(third));
        assert_eq!(code, 200, "{body}");
        let backends = Observed::of(&site).0["vips"][0]["members"].to_string();
        assert_eq!(
            backends.matches(&format!("\"10.99.{third}.")).count() / 2,
            130
        );
    }
    let mut all = dead(3);
    all.extend(dead(4));
    let (code, body) = set(&site, "web", &all);
    let message = body["message"].as_str().unwrap();
    assert!(
        code >= 400 && message.contains("has only 251 slots"),
        "{body}"
    );
}

/// A name that is refused is not remembered: others must have room.
#[test]
fn refused_sets_and_unanswered_sources_are_in_nobodys_way() {
    if !can_run("refused sets") {
        return;
    }
    let lab = build();
    let dns = DnsServer::start(&lab.balancers[0], &records(&lab, "echo", 0..3)).unwrap();
    dns.freeze().unwrap();
    let site = Site::start_with(&lab, FORWARD, |configuration| {
        configuration.vips.clear();
        let (first, second) = (
            sourced(&lab, FORWARD, "api:web", ""),
            second(&lab, "dns:echo.lab"),
        );
        configuration.more = (first + &second).replace("\"500ms\"", "\"20s\"");
    });
    let drained = [json!({ "address": "10.0.0.1", "state": "drain" })];
    for index in 0..1030 {
        assert!(set(&site, &format!("refused-{index}"), &drained).0 >= 400);
    }
    assert_eq!(set(&site, "web", &list(&lab, 0..4)).0, 200);
    wait_up(&site, 0..4);
    // A VIP whose source does not answer delays nothing else.
    let begun = Instant::now();
    let name = format!("{VIP}/{}", backend(&lab, 0));
    site.operator
        .run(&["backend", "drain", &name])
        .unwrap()
        .assert_code(0);
    wait_up(&site, 1..4);
    let question = Duration::from_secs(20);
    assert!(begun.elapsed() < question, "{:?}", begun.elapsed());
    // None at all, in any form, if that is meant.
    let nothing =
        json!({ "members": [{ "address": "10.0.0.1", "weight": 0 }], "allow_empty": true });
    assert_eq!(
        site.operator
            .request("PUT", "/v1/sources/web", &nothing)
            .unwrap()
            .0,
        200
    );
    dns.thaw().unwrap();
}
