//! Single edits of a configuration written as tables and as inline tables.

mod overrides;
mod properties;

use super::*;

/// A configuration with tables, comments and blank lines.
const TABLES: &str = r#"# Our balancer
[node]
interfaces = ["eth0"]
hash_seed = "000102030405060708090a0b0c0d0e0f"

# --- the VIPs ---

# what customers see
[[vip]]
name = "api"            # the main one
address = "203.0.113.10"
port = 443
protocol = "tcp"
forward = "ipip"
health.kind = "tcp"
guard.max_share = 0.9

[[vip.backend]]
name = "api-1"
address = "10.0.1.11"
weight = 50   # half

# second rack
[[vip.backend]]
name = "api-2"
address = "10.0.1.12"

[[vip]]
name = "dns"
address = "203.0.113.10"
port = 53
protocol = "udp"
forward = "ipip"

[[vip.backend]]
name = "dns-1"
address = "10.0.2.11"

[[vip.backend]]
name = "api-2"
address = "10.0.2.12"
state = "drain"  # being replaced

[alerts]
webhook = ["http://127.0.0.1:8080/hook"]
# the end
"#;

/// The same with inline tables.
const INLINE: &str = r#"vip = [
  { name = "api", address = "203.0.113.10", port = 443, protocol = "tcp", forward = "ipip", backend = [
    { name = "api-1", address = "10.0.1.11", weight = 50 }, # half
    # second rack
    { name = "api-2", address = "10.0.1.12" }
  ] }, # the main one
  { name = "dns", address = "203.0.113.10", port = 53, protocol = "udp", forward = "ipip", backend = [{name="dns-1", address="10.0.2.11"}, {name="api-2", address="10.0.2.12"}] },
]

[node]
interfaces = ["eth0"]
hash_seed = "000102030405060708090a0b0c0d0e0f"
"#;

fn edited(text: &str, edits: &[Edit]) -> String {
    let edited = apply(text, edits).unwrap();
    if let Err(errors) = crate::config::parse("edited.toml", &edited) {
        panic!("{errors}\n{edited}");
    }
    edited
}

/// The lines that an edit removes (`-`) and adds (`+`).
fn changes(text: &str, edits: &[Edit]) -> Vec<String> {
    let after = edited(text, edits);
    let diff = similar::TextDiff::from_lines(text, &after);
    let changes = diff.iter_all_changes();
    let changes = changes.filter(|change| change.tag() != similar::ChangeTag::Equal);
    let lines = changes.map(|change| format!("{}{}", change.tag(), change.value().trim_end()));
    lines.collect()
}

fn set_state(vip: Option<&str>, backend: &str, state: WantedState) -> Edit {
    Edit::SetState {
        vip: vip.map(ToOwned::to_owned),
        backend: backend.to_owned(),
        state,
    }
}

fn set_weight(vip: &str, backend: &str, weight: u32) -> Edit {
    Edit::SetWeight {
        vip: vip.to_owned(),
        backend: backend.to_owned(),
        weight,
    }
}

fn add_backend(vip: &str, name: &str, address: &str) -> Edit {
    Edit::AddBackend {
        vip: vip.to_owned(),
        backend: spec(name, address),
    }
}

fn spec(name: &str, address: &str) -> BackendSpec {
    BackendSpec {
        name: name.to_owned(),
        address: address.parse().unwrap(),
        port: None,
        weight: Some(10),
        capacity: None,
    }
}

fn remove_backend(vip: &str, backend: &str) -> Edit {
    Edit::RemoveBackend {
        vip: vip.to_owned(),
        backend: backend.to_owned(),
    }
}

fn remove_vip(vip: &str) -> Edit {
    Edit::RemoveVip {
        vip: vip.to_owned(),
    }
}

fn add_vip(name: &str) -> Edit {
    Edit::AddVip {
        vip: VipSpec {
            name: name.to_owned(),
            address: "2001:db8::1".parse().unwrap(),
            port: 80,
            protocol: "tcp".to_owned(),
            forward: "nat".to_owned(),
            health: Some("tcp".to_owned()),
            backends: vec![spec("web-1", "fd00::1"), spec("web-2", "fd00::2")],
        },
    }
}

#[test]
fn an_edit_without_effect_leaves_the_text_as_it_is() {
    for text in [TABLES, INLINE] {
        assert_eq!(edited(text, &[]), text);
        assert_eq!(
            edited(text, &[set_state(Some("api"), "api-1", WantedState::Up)]),
            text
        );
    }
}

#[test]
fn a_changed_value_keeps_its_comment() {
    assert_eq!(
        changes(TABLES, &[set_weight("api", "api-1", 7)]),
        ["-weight = 50   # half", "+weight = 7   # half"]
    );
    assert_eq!(
        changes(TABLES, &[set_state(None, "dns-1", WantedState::Disabled)]),
        ["+state = \"disabled\""]
    );
    assert_eq!(
        changes(TABLES, &[set_state(Some("dns"), "api-2", WantedState::Up)]),
        [
            "-state = \"drain\"  # being replaced",
            "+state = \"up\"  # being replaced"
        ]
    );
}

#[test]
fn undraining_restores_the_text_from_before_the_drain() {
    for text in [TABLES, INLINE] {
        for state in [WantedState::Drain, WantedState::Disabled] {
            let away = edited(text, &[set_state(Some("api"), "api-2", state)]);
            assert_ne!(away, text);
            let back = [set_state(Some("api"), "api-2", WantedState::Up)];
            assert_eq!(edited(&away, &back), text);
        }
    }
}

#[test]
fn a_new_value_is_added_below_the_others() {
    assert_eq!(
        changes(TABLES, &[set_weight("api", "api-2", 7)]),
        ["+weight = 7"]
    );
    let text = edited(TABLES, &[set_weight("api", "api-2", 7)]);
    assert!(
        text.contains("address = \"10.0.1.12\"\nweight = 7\n\n[[vip]]"),
        "{text}"
    );
    assert_eq!(
        changes(
            INLINE,
            &[set_state(Some("api"), "api-2", WantedState::Drain)]
        ),
        [
            "-    { name = \"api-2\", address = \"10.0.1.12\" }",
            "+    { name = \"api-2\", address = \"10.0.1.12\", state = \"drain\" }"
        ]
    );
}

#[test]
fn a_state_without_a_vip_is_set_in_every_vip() {
    let text = edited(TABLES, &[set_state(None, "api-2", WantedState::Disabled)]);
    assert_eq!(text.matches("state = \"disabled\"").count(), 2, "{text}");
    let text = edited(INLINE, &[set_state(None, "api-2", WantedState::Disabled)]);
    assert_eq!(text.matches("state = \"disabled\"").count(), 2, "{text}");
}

#[test]
fn backends_are_added_in_the_style_of_the_others() {
    let add = [add_backend("api", "api-3", "10.0.1.13")];
    assert_eq!(
        changes(TABLES, &add),
        [
            "+[[vip.backend]]",
            "+name = \"api-3\"",
            "+address = \"10.0.1.13\"",
            "+weight = 10",
            "+"
        ]
    );
    assert_eq!(
        changes(INLINE, &add),
        [
            "-    { name = \"api-2\", address = \"10.0.1.12\" }",
            "+    { name = \"api-2\", address = \"10.0.1.12\" },",
            "+    { name = \"api-3\", address = \"10.0.1.13\", weight = 10 }"
        ]
    );
    let config = crate::config::parse("x", &edited(TABLES, &add)).unwrap();
    assert_eq!(config.vips[0].backends[2].name, "api-3");
    assert_eq!(config.vips[1].backends.len(), 2);
}

#[test]
fn vips_are_added_at_the_end() {
    for text in [TABLES, INLINE] {
        let after = edited(
            text,
            &[add_vip("web"), add_backend("web", "web-3", "fd00::3")],
        );
        let config = crate::config::parse("x", &after).unwrap();
        let names: Vec<&str> = config.vips.iter().map(|vip| vip.name.as_str()).collect();
        assert_eq!(names, ["api", "dns", "web"]);
        assert_eq!(config.vips[2].backends.len(), 3);
        assert!(config.vips[2].health.is_some());
    }
    insta::assert_snapshot!(edited(TABLES, &[add_vip("web")]).split_once("[alerts]").unwrap().1, @r#"

    webhook = ["http://127.0.0.1:8080/hook"]

    [[vip]]
    name = "web"
    address = "2001:db8::1"
    port = 80
    protocol = "tcp"
    forward = "nat"

    [vip.health]
    kind = "tcp"

    [[vip.backend]]
    name = "web-1"
    address = "fd00::1"
    weight = 10

    [[vip.backend]]
    name = "web-2"
    address = "fd00::2"
    weight = 10
    # the end
    "#);
}

#[test]
fn removing_an_entry_removes_its_own_comments() {
    assert_eq!(
        changes(TABLES, &[remove_backend("api", "api-2")]),
        [
            "-# second rack",
            "-[[vip.backend]]",
            "-name = \"api-2\"",
            "-address = \"10.0.1.12\"",
            "-"
        ]
    );
    assert_eq!(
        changes(INLINE, &[remove_backend("api", "api-1")]),
        ["-    { name = \"api-1\", address = \"10.0.1.11\", weight = 50 }, # half"]
    );
    let text = edited(INLINE, &[remove_backend("api", "api-2")]);
    assert!(text.contains("weight = 50 }"), "{text}");
    assert!(!text.contains("second rack"), "{text}");
    let text = edited(TABLES, &[remove_vip("api")]);
    assert!(
        text.contains("# --- the VIPs ---\n\n[[vip]]\nname = \"dns\""),
        "{text}"
    );
    assert!(
        !text.contains("what customers see") && !text.contains("api-1"),
        "{text}"
    );
    let text = edited(TABLES, &[remove_vip("dns")]);
    assert!(
        text.ends_with("# the end\n") && !text.contains("dns"),
        "{text}"
    );
}

#[test]
fn the_last_backend_can_be_replaced() {
    for text in [TABLES, INLINE] {
        let edits = [
            remove_backend("dns", "dns-1"),
            remove_backend("dns", "api-2"),
            add_backend("dns", "new", "10.0.2.13"),
        ];
        let config = crate::config::parse("x", &edited(text, &edits)).unwrap();
        assert_eq!(config.vips[1].backends.len(), 1);
        // Whether it may be removed, the parser decides.
        let without = apply(text, &edits[..2]).unwrap();
        assert!(crate::config::parse("x", &without).is_err());
        // All VIPs can be removed.
        let none = apply(
            text,
            &[remove_vip("api"), remove_vip("dns"), add_vip("web")],
        )
        .unwrap();
        let config = crate::config::parse("x", &none).unwrap();
        assert_eq!(config.vips.len(), 1);
    }
}

#[test]
fn errors_suggest_similar_names() {
    let fails = |edit: Edit| apply(TABLES, &[edit]).unwrap_err().to_string();
    assert_eq!(
        fails(remove_vip("apo")),
        "there is no VIP \"apo\"; did you mean \"api\"?"
    );
    assert_eq!(
        fails(remove_vip("something")),
        "there is no VIP \"something\"; there are api, dns"
    );
    assert_eq!(
        fails(set_weight("api", "api3", 1)),
        "VIP \"api\" has no backend \"api3\"; did you mean \"api-1\"?"
    );
    assert_eq!(
        fails(set_state(None, "web", WantedState::Up)),
        "no VIP has a backend \"web\"; there are api-1, api-2, dns-1"
    );
    assert!(fails(add_backend("api", "api-1", "10.0.0.9")).contains("already"));
    assert!(fails(add_vip("dns")).contains("already"));
    let error = apply("[node", &[]).unwrap_err();
    assert!(matches!(error, EditError::NotToml { .. }), "{error}");
    let error = apply("vip = 3", &[remove_vip("a")]).unwrap_err();
    assert!(matches!(error, EditError::Odd { .. }), "{error}");
}

#[test]
fn a_failed_edit_changes_nothing() {
    let edits = [remove_vip("api"), remove_vip("api")];
    assert!(apply(TABLES, &edits).is_err());
}

#[test]
fn tables_out_of_order_stay_with_their_vip() {
    // `[vip.health]` at the end belongs to the VIP before it.
    let text = "[[vip]]\nname = \"a\"\naddress = \"192.0.2.1\"\nport = 80\nprotocol = \"tcp\"\n\
                forward = \"l2\"\n[[vip.backend]]\nname = \"b\"\naddress = \"10.0.0.1\"\n[node]\n\
                interfaces = [\"e\"]\nhash_seed = \"000102030405060708090a0b0c0d0e0f\"\n\
                [vip.health]\nkind = \"tcp\"\nrise = 9\n";
    let after = edited(text, &[add_backend("a", "c", "10.0.0.2"), add_vip("web")]);
    let config = crate::config::parse("x", &after).unwrap();
    assert_eq!(config.vips[0].health.as_ref().unwrap().rise, 9, "{after}");
    assert_eq!(config.vips[0].backends.len(), 2);
}

#[test]
fn windows_line_ends_are_kept() {
    for text in [TABLES, INLINE] {
        let windows = text.replace('\n', "\r\n");
        let edits = [
            set_weight("api", "api-1", 7),
            add_backend("api", "api-3", "10.0.1.13"),
            remove_backend("dns", "dns-1"),
        ];
        let after = edited(&windows, &edits);
        assert_eq!(after.matches('\n').count(), after.matches("\r\n").count());
        assert_eq!(after.replace("\r\n", "\n"), edited(text, &edits));
    }
    let mixed = TABLES.replace("port = 53\n", "port = 53\r\n");
    let after = edited(&mixed, &[set_weight("api", "api-1", 7)]);
    assert_eq!(after, mixed.replace("weight = 50", "weight = 7"));
}
