use proptest::prelude::*;

use super::*;
use crate::{
    config,
    edit::{self, Edit, WantedState},
};

const FULL: &str = include_str!("../../tests/golden/config/full.toml");
const LEAST: &str = include_str!("../../tests/golden/config/least.toml");

fn vips_of(text: &str) -> Vec<config::Vip> {
    config::parse("f", text).unwrap().vips
}

#[test]
fn the_fleets_part_is_what_stands_in_vip_tables() {
    let fleet = fleet_part(FULL).unwrap();
    check(&fleet).unwrap();
    assert!(fleet.starts_with("[[vip]]\nname = \"api\""), "{fleet}");
    assert!(!fleet.contains("[announce]") && fleet.contains("[vip.announce]"));
    let local = local_part(FULL).unwrap();
    assert!(local.starts_with("# Every key, none with its default.\n[node]"));
    assert!(!local.contains("[vip"), "{local}");
    let composed = compose(FULL, &fleet).unwrap();
    assert_eq!(config::parse("f", &composed), config::parse("f", FULL));
    assert_eq!(fleet_part(&composed).unwrap(), fleet);
    // A text of the fleet is its own part.
    assert_eq!(fleet_part(&fleet).unwrap(), fleet);
}

#[test]
fn the_node_keeps_its_own_tables() {
    let fleet = fleet_part(FULL).unwrap();
    let composed = compose(LEAST, &fleet).unwrap();
    let config = config::parse("f", &composed).unwrap();
    assert_eq!(config.node, config::parse("f", LEAST).unwrap().node);
    assert_eq!(config.vips, vips_of(FULL));
    let again = compose(&composed, &fleet_part(LEAST).unwrap()).unwrap();
    assert_eq!(vips_of(&again), vips_of(LEAST));
    assert_eq!(again.matches(SEAM).count(), 1);
}

#[test]
fn edits_stay_in_the_fleets_part() {
    let fleet = format!("# kept\n\n{}# also kept\n", fleet_part(LEAST).unwrap());
    let composed = compose(LEAST, &fleet).unwrap();
    assert_eq!(fleet_part(&composed).unwrap(), fleet);
    let drain = Edit::SetState {
        vip: None,
        backend: "api-1".to_owned(),
        state: WantedState::Drain,
    };
    let edited = edit::apply(&composed, &[drain]).unwrap();
    let part = fleet_part(&edited).unwrap();
    assert_ne!(part, fleet);
    assert!(
        part.starts_with("# kept\n") && part.ends_with("# also kept\n"),
        "{part}"
    );
    assert_eq!(local_part(&edited).unwrap(), local_part(&composed).unwrap());
}

#[test]
fn a_text_that_was_edited_across_the_seam_is_divided_by_its_tables() {
    let composed = compose(LEAST, &fleet_part(LEAST).unwrap()).unwrap();
    let edited = format!("{composed}\n[metrics]\nlisten = \"127.0.0.1:1\"\n");
    let fleet = fleet_part(&edited).unwrap();
    check(&fleet).unwrap();
    assert!(local_part(&edited).unwrap().contains("[metrics]"));
    let again = compose(&edited, &fleet).unwrap();
    assert_eq!(config::parse("f", &again), config::parse("f", &edited));
}

#[test]
fn inline_tables_become_tables() {
    let text =
        "vip = [{ name = \"a\" }, { name = \"b\", backend = [{ name = \"c\" }] }]\n[node]\nx = 1\n";
    let fleet = fleet_part(text).unwrap();
    check(&fleet).unwrap();
    assert_eq!(fleet.matches("[[vip]]").count(), 2, "{fleet}");
    assert_eq!(local_part(text).unwrap().trim(), "[node]\nx = 1");
}

#[test]
fn other_tables_are_not_the_fleets() {
    let foreign = check("[node]\nx = 1\n").unwrap_err().to_string();
    assert!(
        foreign.contains("`node` is decided by each node"),
        "{foreign}"
    );
    assert_eq!(check("vip = []\n"), Err(FleetTextError::NotTables));
    assert!(compose(LEAST, "[[vip]\n").is_err());
    assert!(compose("[node", "").is_err());
    assert_eq!(check(""), Ok(()));
}

#[test]
fn a_seam_inside_of_a_string_divides_nothing() {
    let text = format!("x = \"\"\"\n{SEAM}\n\"\"\"\n[[vip]]\nname = \"a\"\n");
    assert_eq!(fleet_part(&text).unwrap(), "[[vip]]\nname = \"a\"\n");
}

#[test]
fn a_text_for_the_fleet_has_vips_and_no_secret() {
    let vips = fleet_part(LEAST).unwrap();
    assert_eq!(shared_part(LEAST).as_deref(), Ok(&*vips));
    for none in ["", "vip = []\n", "# [[vip]]\n[node]\nhash_seed = \"x\"\n"] {
        assert_eq!(shared_part(none), Err(FleetTextError::NoVips), "{none}");
    }
    let seed = "000102030405060708090a0b0c0d0e0f";
    let above = format!("[node]\nx = 1\n\n# hash_seed = \"{seed}\"\n{vips}");
    assert_eq!(shared_part(&above), Err(FleetTextError::Secret { line: 4 }));
    let inside = format!("{vips}# was {seed}\n");
    let line = vips.lines().count() + 1;
    assert_eq!(shared_part(&inside), Err(FleetTextError::Secret { line }));
}

#[test]
fn errors_do_not_show_secrets() {
    let seed = "000102030405060708090a0b0c0d0e0f";
    let broken = format!("[node]\nhash_seed = \"{seed}\" x\n");
    let message = fleet_part(&broken).unwrap_err().to_string();
    assert!(
        message.contains("line 2") && !message.contains(seed),
        "{message}"
    );
}

fn line_ends() -> impl Strategy<Value = String> {
    prop_oneof![Just("\n".to_owned()), Just("\r\n".to_owned())]
}

/// Pieces of a fleet's text: tables, comments, blank lines, the seam itself.
fn fleet_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[a-z]{1,8}".prop_map(|name| format!("[[vip]]@name = \"{name}\"@")),
        "[a-z]{1,8}".prop_map(|name| format!("[[vip]]@[[vip.backend]]@name = '{name}' # x@")),
        "[ a-z\t]{0,12}".prop_map(|text| format!("#{text}@")),
        Just("@".to_owned()),
        Just(format!("{SEAM}@")),
    ];
    let pieces = prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat());
    (pieces, line_ends(), any::<bool>()).prop_map(|(text, end, cut)| {
        let text = text.replace('@', &end);
        // Also without an end of the last line.
        if cut {
            text.trim_end().to_owned()
        } else {
            text
        }
    })
}

fn local_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[a-z]{1,8}".prop_map(|name| format!("[n.{name}]@k = 1@")),
        "[a-z]{1,8}".prop_map(|name| format!("[[vip]]@name = \"{name}\"@")),
        "[ a-z]{0,12}".prop_map(|text| format!("#{text}@")),
        Just("@".to_owned()),
    ];
    let pieces = prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat());
    (pieces, line_ends()).prop_map(|(text, end)| text.replace('@', &end))
}

proptest! {
    #[test]
    fn the_text_of_the_fleet_comes_back_byte_by_byte(local in local_text(), fleet in fleet_text()) {
        prop_assume!(local.parse::<DocumentMut>().is_ok());
        let composed = compose(&local, &fleet).unwrap();
        prop_assert_eq!(fleet_part(&composed).unwrap(), &*fleet);
        // And again, when the next text of the fleet replaces it.
        let again = compose(&composed, &fleet).unwrap();
        prop_assert_eq!(again, composed);
    }

    #[test]
    fn the_node_loses_nothing_of_its_own(local in local_text(), fleet in fleet_text()) {
        prop_assume!(local.parse::<DocumentMut>().is_ok());
        let composed = compose(&local, &fleet).unwrap();
        let others = |text: &str| {
            let mut table: toml::Table = text.parse().unwrap();
            table.remove(VIP);
            table
        };
        prop_assert_eq!(others(&composed), others(&local));
        let vips = |text: &str| text.parse::<toml::Table>().unwrap().remove(VIP);
        prop_assert_eq!(vips(&composed), vips(&fleet));
    }
}
