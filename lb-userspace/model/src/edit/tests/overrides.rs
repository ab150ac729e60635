//! Edits of VIPs whose backends come from a source.

use super::*;

const SOURCED: &str = r#"[[vip]]
name = "web"
backends_from = "dns:web.example.com"  # all of them

[[vip]]
name = "api"

[[vip.backend]]
name = "10.0.0.7"
"#;

fn state(vip: &str, state: WantedState) -> Edit {
    Edit::SetState {
        vip: Some(vip.to_owned()),
        backend: "10.0.0.7".to_owned(),
        state,
    }
}

fn weight(weight: u32) -> Edit {
    Edit::SetWeight {
        vip: "web".to_owned(),
        backend: "10.0.0.7".to_owned(),
        weight,
    }
}

#[test]
fn a_state_becomes_an_override_and_enabling_removes_it() {
    let drained = apply(SOURCED, &[state("web", WantedState::Drain)]).unwrap();
    let expected = "# all of them\n\n[[vip.override]]\nname = \"10.0.0.7\"\nstate = \"drain\"\n\n[[vip]]\nname = \"api\"";
    assert!(drained.contains(expected), "{drained}");
    let enabled = apply(&drained, &[state("web", WantedState::Up)]).unwrap();
    assert_eq!(enabled, SOURCED);
    assert_eq!(
        apply(SOURCED, &[state("web", WantedState::Up)]).unwrap(),
        SOURCED
    );
}

#[test]
fn an_override_with_a_weight_stays() {
    let edits = [
        weight(5),
        state("web", WantedState::Disabled),
        state("web", WantedState::Up),
    ];
    let text = apply(SOURCED, &edits).unwrap();
    assert!(
        text.contains("name = \"10.0.0.7\"\nweight = 5\n\n"),
        "{text}"
    );
    let text = apply(&text, &[weight(6)]).unwrap();
    assert_eq!(
        (
            text.matches("override").count(),
            text.matches("weight = 6").count()
        ),
        (1, 1)
    );
}

#[test]
fn vips_in_one_line_can_have_overrides() {
    let text = "vip = [{ name = \"web\", backends_from = \"api:web\" }]\n";
    let drained = apply(text, &[state("web", WantedState::Drain)]).unwrap();
    let expected = "override = [{ name = \"10.0.0.7\", state = \"drain\" }] }]\n";
    assert!(drained.ends_with(expected), "{drained}");
    assert_eq!(
        apply(&drained, &[state("web", WantedState::Up)]).unwrap(),
        text
    );
}

#[test]
fn backends_of_a_source_are_neither_added_nor_removed() {
    let add = Edit::AddBackend {
        vip: "web".to_owned(),
        backend: BackendSpec {
            name: "x".to_owned(),
            address: "10.0.0.8".parse().unwrap(),
            port: None,
            weight: None,
            capacity: None,
        },
    };
    let remove = Edit::RemoveBackend {
        vip: "web".to_owned(),
        backend: "10.0.0.7".to_owned(),
    };
    for edit in [add, remove] {
        let error = apply(SOURCED, &[edit]).unwrap_err().to_string();
        assert!(error.contains("come from dns:web.example.com"), "{error}");
    }
}
