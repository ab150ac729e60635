//! Changes of announcing.

use super::*;

const BGP: &str = "[announce]\nlocal_as = 64501\nrouter_id = \"10.0.0.11\"\n";
const NOTE: &str = " (takes effect when `evenkeel announce` is reloaded)";

fn peer(name: &str, address: &str, keys: &str) -> String {
    format!(
        "[[announce.peer]]\nname = \"{name}\"\naddress = \"{address}\"\npeer_as = 64500\n{keys}\n"
    )
}

fn lines(before: &str, after: &str) -> Vec<String> {
    let vip = vip("", &["a", "b"]);
    let plan = Case::new(&format!("{before}{vip}"), &format!("{after}{vip}")).plan();
    assert!(plan.vips.is_empty());
    let without_note = |line: &String| line.strip_suffix(NOTE).unwrap().to_owned();
    plan.other.iter().map(without_note).collect()
}

#[test]
fn changes_of_announcing_are_listed() {
    let one = format!("{BGP}{}", peer("tor-1", "10.0.0.1", ""));
    let two = format!("{one}{}", peer("tor-2", "10.0.0.2", ""));
    let swapped = format!(
        "{BGP}{}{}",
        peer("tor-2", "10.0.0.2", ""),
        peer("tor-1", "10.0.0.1", "")
    );
    assert_eq!(lines(&two, &swapped), Vec::<String>::new());
    assert_eq!(lines("", &one), ["announce: none → bgp"]);
    assert_eq!(lines(&one, ""), ["announce: bgp → none"]);
    let added = ["announce.peer tor-2: none → 10.0.0.2, AS 64500"];
    assert_eq!(lines(&one, &two), added);
    let removed = ["announce.peer tor-2: 10.0.0.2, AS 64500 → none"];
    assert_eq!(lines(&two, &one), removed);
    let changed = format!(
        "{BGP}communities = [\"no-export\", \"64500:1\"]\nmed = 5\n{}",
        peer("tor-1", "10.0.0.1", "hold_time = \"30s\"\nmultihop = 2")
    );
    assert_eq!(
        lines(&one, &changed),
        [
            "announce.communities: [] → [\"no-export\", \"64500:1\"]",
            "announce.med: 0 → 5",
            "announce.peer tor-1: hold_time: 9s → 30s",
            "announce.peer tor-1: multihop: none → 2",
        ]
    );
}

#[test]
fn a_password_is_not_in_a_plan() {
    let one = format!("{BGP}{}{}", peer("tor-1", "10.0.0.1", ""), vip("", &["a"]));
    let mut case = Case::new(&one, &one);
    let announce = case.after.announce.as_mut().unwrap();
    announce.peers[0].password = Some(config::Secret::new("hunter2"));
    let line = format!("announce.peer tor-1: password: changed{NOTE}");
    assert_eq!(case.plan().other, [line]);
}

#[test]
fn changes_of_a_vips_announcing_are_listed() {
    let after =
        "announce = { enabled = false, large_communities = [\"1:2:3\"], med = 9, min_up = 2 }";
    let plan = Case::new(&vip("", &["a", "b"]), &vip(after, &["a", "b"])).plan();
    let lines = [
        "announce.enabled: true → false",
        "announce.large_communities: [] → [\"1:2:3\"]",
        "announce.med: none → 9",
        "announce.min_up: 1 → 2",
    ];
    assert_eq!(
        plan.vips[0].settings,
        lines.map(|line| format!("{line}{NOTE}"))
    );
}
