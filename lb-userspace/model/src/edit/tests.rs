//! Edits of texts.

use proptest::prelude::*;

use super::*;

/// A configuration as people write them.
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

/// The same in rows.
const ROWS: &str = r#"vip = [
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

/// Lines that went (`-`) and came (`+`).
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
fn no_edit_changes_nothing() {
    for text in [TABLES, ROWS] {
        assert_eq!(edited(text, &[]), text);
        assert_eq!(
            edited(text, &[set_state(Some("api"), "api-1", WantedState::Up)]),
            text
        );
    }
}

#[test]
fn a_value_that_is_there_keeps_its_comment() {
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
fn a_value_that_is_new_goes_below_the_others() {
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
        changes(ROWS, &[set_state(Some("api"), "api-2", WantedState::Drain)]),
        [
            "-    { name = \"api-2\", address = \"10.0.1.12\" }",
            "+    { name = \"api-2\", address = \"10.0.1.12\", state = \"drain\" }"
        ]
    );
}

#[test]
fn a_backend_without_its_vip_is_set_wherever_it_is() {
    let text = edited(TABLES, &[set_state(None, "api-2", WantedState::Disabled)]);
    assert_eq!(text.matches("state = \"disabled\"").count(), 2, "{text}");
    let text = edited(ROWS, &[set_state(None, "api-2", WantedState::Disabled)]);
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
        changes(ROWS, &add),
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
    for text in [TABLES, ROWS] {
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
fn what_is_removed_takes_its_own_comments_along() {
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
        changes(ROWS, &[remove_backend("api", "api-1")]),
        ["-    { name = \"api-1\", address = \"10.0.1.11\", weight = 50 }, # half"]
    );
    let text = edited(ROWS, &[remove_backend("api", "api-2")]);
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
fn the_last_backend_can_be_exchanged() {
    for text in [TABLES, ROWS] {
        let edits = [
            remove_backend("dns", "dns-1"),
            remove_backend("dns", "api-2"),
            add_backend("dns", "new", "10.0.2.13"),
        ];
        let config = crate::config::parse("x", &edited(text, &edits)).unwrap();
        assert_eq!(config.vips[1].backends.len(), 1);
        // To remove it is left to the validation.
        let without = apply(text, &edits[..2]).unwrap();
        assert!(crate::config::parse("x", &without).is_err());
        // A VIP goes, and the last one too.
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
fn errors_name_what_was_probably_meant() {
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
fn all_or_none() {
    let edits = [remove_vip("api"), remove_vip("api")];
    assert!(apply(TABLES, &edits).is_err());
}

#[test]
fn tables_out_of_order_keep_their_owners() {
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
fn windows_line_ends_stay() {
    for text in [TABLES, ROWS] {
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

/// A text with odd spacing, comments and both styles.
fn odd_text() -> impl Strategy<Value = String> {
    let comment = prop::sample::select(vec!["", " # note", "\t#", "   "]);
    let blank = prop::sample::select(vec!["", "\n", "# above\n", "\n# far\n\n# near\n"]);
    let in_rows = any::<bool>();
    let backends = prop::collection::vec((0u32..200, comment.clone(), blank.clone()), 1..5);
    let vips = prop::collection::vec((backends, comment, blank, in_rows), 1..4);
    (vips, any::<bool>(), any::<bool>()).prop_map(|(vips, is_windows, node_first)| {
        let node =
            "[node]\ninterfaces=['e']\nhash_seed='000102030405060708090a0b0c0d0e0f' # secret\n";
        let mut text = if node_first { node.to_owned() } else { String::new() };
        for (v, (backends, comment, blank, in_rows)) in vips.iter().enumerate() {
            text += &format!("{blank}[[vip]]{comment}\nname = 'v{v}'{comment}\naddress = '192.0.2.{v}'\n");
            text += "port=80\nprotocol='tcp'\nforward = \"l2\"\nguard.max_share = 1.0\n";
            let all = backends.iter().enumerate();
            if *in_rows {
                text += "backend = [";
                for (b, (weight, comment, blank)) in all {
                    let weight = weight + 1;
                    text += &format!("\n{blank} {{name='b{b}',address='10.0.{v}.{b}',weight={weight}}},{comment}");
                }
                text += "\n]\n";
            } else {
                for (b, (weight, comment, blank)) in all {
                    let weight = weight + 1;
                    text += &format!("{blank}[[vip.backend]]\nname='b{b}'{comment}\naddress='10.0.{v}.{b}'\nweight = {weight}{comment}\n");
                }
            }
        }
        if !node_first {
            text += node;
        }
        if is_windows { text.replace('\n', "\r\n") } else { text }
    })
}

#[derive(Clone, Debug)]
enum Step {
    Weight(u32),
    State(WantedState),
    Add,
    Remove,
}

fn steps() -> impl Strategy<Value = Vec<(usize, usize, Step)>> {
    let step = prop_oneof![
        (1u32..100).prop_map(Step::Weight),
        prop::sample::select(vec![
            WantedState::Up,
            WantedState::Drain,
            WantedState::Disabled
        ])
        .prop_map(Step::State),
        Just(Step::Add),
        Just(Step::Remove),
    ];
    prop::collection::vec((0usize..4, 0usize..6, step), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The edited text means what the same change of the configuration itself means, and what is
    /// not edited is there byte for byte.
    #[test]
    fn edits_do_what_they_say_and_nothing_else(text in odd_text(), steps in steps()) {
        use crate::config::BackendState;
        let mut config = crate::config::parse("x", &text).unwrap();
        let mut now = text.clone();
        for (n, (vip, backend, step)) in steps.into_iter().enumerate() {
            let vips = config.vips.len();
            let vip = &mut config.vips[vip % vips];
            let at = backend % vip.backends.len();
            let (v, b) = (vip.name.clone(), vip.backends[at].name.clone());
            let edit = match step {
                Step::Weight(weight) => {
                    vip.backends[at].weight = weight;
                    set_weight(&v, &b, weight)
                }
                Step::State(state) => {
                    vip.backends[at].state = match state {
                        WantedState::Up => BackendState::Up,
                        WantedState::Drain => BackendState::Drain,
                        WantedState::Disabled => BackendState::Disabled,
                    };
                    set_state(Some(&v), &b, state)
                }
                Step::Add => {
                    let mut new = vip.backends[at].clone();
                    new.name = format!("n{n}");
                    new.address = format!("10.9.0.{n}").parse().unwrap();
                    (new.weight, new.state) = (10, BackendState::Up);
                    let edit = add_backend(&v, &new.name, &new.address.to_string());
                    vip.backends.push(new);
                    edit
                }
                Step::Remove if vip.backends.len() == 1 => continue,
                Step::Remove => {
                    vip.backends.remove(at);
                    remove_backend(&v, &b)
                }
            };
            let is_removal = matches!(edit, Edit::RemoveBackend { .. });
            let after = apply(&now, &[edit]).unwrap();
            let parsed = crate::config::parse("x", &after);
            prop_assert_eq!(parsed.as_ref(), Ok(&config), "{}\n→\n{}", now, after);
            // Nothing but single lines changed; comments stay unless their entry went.
            let diff = similar::TextDiff::from_lines(&now, &after);
            let gone = diff.iter_all_changes().filter(|c| c.tag() == similar::ChangeTag::Delete);
            let gone: Vec<&str> = gone.map(|change| change.value()).collect();
            if !is_removal {
                prop_assert!(gone.len() <= 2, "{:?}", gone);
                let notes = |text: &str| text.matches('#').count();
                prop_assert_eq!(notes(&now), notes(&after));
            } else {
                prop_assert!(gone.len() <= 9, "{:?}", gone);
                prop_assert!(after.matches("# far").count() + 1 >= now.matches("# far").count());
            }
            let plain = |text: &str| text.matches('\n').count() - text.matches("\r\n").count();
            if text.contains("\r\n") {
                prop_assert_eq!(plain(&after), 0);
            }
            now = after;
        }
    }
}
