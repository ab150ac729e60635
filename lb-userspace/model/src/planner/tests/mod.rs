//! Pairs, members, settings.

mod announce;
mod bound;
mod guards;
mod limits;
mod properties;

use super::*;
use crate::{
    config::{self, Backend},
    flows::FlowHistory,
    sources::SourceHistory,
};

const NODE: &str =
    "[node]\ninterfaces = [\"eth0\"]\nhash_seed = \"000102030405060708090a0b0c0d0e0f\"\n";

fn parse(text: &str) -> Config {
    match config::parse("a.toml", &format!("{NODE}{text}")) {
        Ok(config) => config,
        Err(errors) => panic!("{errors}"),
    }
}

/// A VIP of 1009 slots. Backends are `name weight more-keys`, with addresses derived from the names.
fn vip(keys: &str, backends: &[&str]) -> String {
    let mut text = format!(
        "[[vip]]\nname = \"api\"\naddress = \"192.0.2.1\"\nport = 80\nprotocol = \"tcp\"\n\
         forward = \"l2\"\nring_size = 1009\n{keys}\n"
    );
    for backend in backends {
        let mut words = backend.splitn(3, ' ');
        let (name, weight) = (words.next().unwrap(), words.next().unwrap_or("100"));
        let address = u32::from_str_radix(name, 36).unwrap() % 250 + 1;
        text += &format!(
            "[[vip.backend]]\nname = \"{name}\"\naddress = \"10.0.0.{address}\"\nweight = {weight}\n{}\n",
            words.next().unwrap_or_default().replace("; ", "\n")
        );
    }
    text
}

/// A change of one VIP, with the state that the planner gets.
struct Case {
    before: Option<Config>,
    after: Config,
    load: Load,
    seen: SourceHistory,
    flows: FlowHistory,
    down: Vec<&'static str>,
    unproven: Vec<&'static str>,
    force: Vec<Guard>,
}

impl Case {
    fn new(before: &str, after: &str) -> Self {
        Self {
            before: (!before.is_empty()).then(|| parse(before)),
            after: parse(after),
            load: Load::default(),
            seen: SourceHistory::default(),
            flows: FlowHistory::default(),
            down: Vec::new(),
            unproven: Vec::new(),
            force: Vec::new(),
        }
    }

    fn peak(mut self, peak: f64) -> Self {
        self.load.peak_new_flows_per_s = peak;
        self
    }

    fn traffic(mut self) -> Self {
        self.load.packets_per_s = 5.0;
        self
    }

    fn down(mut self, names: &[&'static str]) -> Self {
        self.down = names.to_vec();
        self
    }

    fn unproven(mut self, names: &[&'static str]) -> Self {
        self.unproven = names.to_vec();
        self
    }

    fn force(mut self, guard: Guard) -> Self {
        self.force.push(guard);
        self
    }

    fn plan(&self) -> Plan {
        let input = Input {
            base: 4,
            running: self.before.as_ref(),
            candidate: &self.after,
            force: &self.force,
        };
        plan(&input, |pair| {
            let chance = |backend: &Backend| Chance {
                weight: backend.weight,
                healthy: !self.down.contains(&backend.name.as_str()),
                proven: !self.unproven.contains(&backend.name.as_str()),
            };
            VipFacts {
                load: self.load,
                seen: self.seen.clone(),
                flows: self.flows.clone(),
                ..VipFacts::with(pair, chance)
            }
        })
    }

    /// The guards that refuse the change.
    fn refused(&self) -> Vec<Guard> {
        let plan = self.plan();
        let guards = plan.vips.iter().flat_map(|vip| &vip.guards);
        let refused: Vec<Guard> = guards
            .filter(|guard| guard.verdict == GuardVerdict::Refused)
            .map(|guard| guard.guard)
            .collect();
        assert_eq!(plan.verdict == PlanVerdict::Refused, !refused.is_empty());
        refused
    }

    fn detail(&self, guard: Guard) -> String {
        let plan = self.plan();
        let mut guards = plan.vips[0].guards.iter();
        guards.find(|g| g.guard == guard).unwrap().detail.clone()
    }
}

#[test]
fn the_same_configuration_changes_nothing() {
    let text = vip("", &["a", "b", "c"]);
    let plan = Case::new(&text, &text).plan();
    assert_eq!((plan.verdict, plan.base), (PlanVerdict::Nothing, 4));
    assert!(plan.vips.is_empty() && plan.other.is_empty());
    let reordered = vip("", &["c", "a", "b"]);
    assert_eq!(
        Case::new(&text, &reordered).plan().verdict,
        PlanVerdict::Nothing
    );
}

#[test]
fn vips_are_added_removed_changed_and_replaced() {
    let two = |first: &str, second: &str| {
        let second = second
            .replace("\"api\"", "\"web\"")
            .replace("port = 80", "port = 81");
        parse(&format!("{first}{second}"))
    };
    let text = vip("", &["a", "b"]);
    let both = two(&text, &text);
    let actions = |before: &Config, after: &Config| -> Vec<(String, VipAction)> {
        let pairs = pairs(Some(before), after);
        let touched = pairs.iter().filter(|pair| pair.is_touched());
        touched
            .map(|pair| (pair.name().to_owned(), pair.action))
            .collect()
    };
    let one = parse(&text);
    let named = |name: &str, action| vec![(name.to_owned(), action)];
    assert_eq!(actions(&one, &both), named("web", VipAction::Added));
    assert_eq!(actions(&both, &one), named("web", VipAction::Removed));
    for (from, to) in [
        ("forward = \"l2\"", "forward = \"ipip\""),
        ("ring_size = 1009", "ring_size = 1013"),
        ("port = 80", "port = 8080\naffinity = \"flow\""),
        (
            "ring_size = 1009",
            "ring_size = 1009\naffinity = \"source\"",
        ),
    ] {
        let other = parse(&text.replace(from, to));
        assert_eq!(
            actions(&one, &other),
            named("api", VipAction::Replaced),
            "{to}"
        );
    }
    let renamed = parse(&text.replace("\"api\"", "\"site\""));
    assert_eq!(actions(&one, &renamed), named("site", VipAction::Changed));
    // Two VIPs that swap their names are still the same VIPs.
    let mut swapped = both.clone();
    swapped.vips[0].name = "web".into();
    swapped.vips[1].name = "api".into();
    let swapped = actions(&both, &swapped);
    assert!(
        swapped
            .iter()
            .all(|(_, action)| *action == VipAction::Changed),
        "{swapped:?}"
    );
    // Another seed hashes every flow to another slot.
    let mut secret = both.clone();
    secret.node.hash_seed = config::HashSeed::new([7; 16]);
    let replaced = actions(&both, &secret);
    assert!(
        replaced
            .iter()
            .all(|(_, action)| *action == VipAction::Replaced)
    );
    assert_eq!(replaced.len(), 2);
}

#[test]
fn a_plan_compares_members_before_and_after() {
    let case = Case::new(
        &vip("", &["a", "b"]),
        &vip("", &["b 300 capacity = 50", "c"]),
    )
    .peak(1000.0);
    let plan = case.plan();
    let [vip] = &plan.vips[..] else {
        panic!("{plan:?}")
    };
    let names: Vec<&str> = vip.members.iter().map(|m| m.backend.as_str()).collect();
    assert_eq!(names, ["b", "c", "a"]);
    let [b, c, a] = &vip.members[..] else {
        panic!()
    };
    assert!(c.before.is_none() && a.after.is_none());
    let (before, after) = (b.before.as_ref().unwrap(), b.after.as_ref().unwrap());
    assert_eq!((before.weight, after.weight), (100, 300));
    assert_eq!((before.intended_share, after.intended_share), (0.5, 0.75));
    assert!((after.table_share - 0.75).abs() < 1.0 / 1009.0);
    assert!((b.predicted_new_flows_per_s - 750.0).abs() < 1.0);
    assert_eq!(b.capacity, Some(50));
    // All of a's slots move, and few more than necessary.
    assert!(
        (500..=780).contains(&vip.slots_moved),
        "{}",
        vip.slots_moved
    );
    assert_eq!(case.refused(), [Guard::Capacity]);
}

#[test]
fn settings_are_listed_with_both_values() {
    let before = vip("health.kind = \"tcp\"", &["a", "b"]);
    let after = vip(
        "health = { kind = \"http\", path = \"/up\", interval = \"2s\" }\nguard.max_share = 0.75",
        &["a 100 capacity = 7", "b 100 port = 80"],
    );
    let after = after.replace("\"b\"", "\"bee\"");
    let mut case = Case::new(&before, &after);
    case.after.node.interfaces = vec!["eth0".into(), "eth1".into()];
    case.after.node.hash_seed = case.after.node.hash_seed.to_owned();
    case.after.node.track_idle = std::time::Duration::from_secs(7200);
    let plan = case.plan();
    assert_eq!(
        plan.other,
        [
            "node.interfaces: [\"eth0\"] → [\"eth0\", \"eth1\"]",
            "node.track_idle: 1h → 2h"
        ]
    );
    assert_eq!(
        plan.vips[0].settings,
        [
            "health.kind: tcp → http /up, status 200-399",
            "health.interval: 1s → 2s",
            "health.fast_interval: 250ms → 500ms",
            "guard.max_share: none → 0.75",
            "backend a: capacity: none → 7",
            "backend bee: name: \"b\" → \"bee\"",
        ]
    );
    let plan = Case::new(&vip("", &["a", "b"]), &before).plan();
    assert_eq!(plan.vips[0].settings, ["health: none → tcp"]);
    let bounded = vip("bound.factor = 1.25", &["a", "b 100 capacity = 9"]);
    let other = bounded.replace("factor = 1.25", "capacity = true");
    let lines = ["bound.factor: 1.25 → none", "bound.capacity: false → true"];
    let plan = Case::new(&bounded, &other).plan();
    assert_eq!(plan.vips[0].settings, lines);
    let mut moved = Case::new(&before, &before);
    moved.after.vips[0].backends[0].address = "10.0.0.99".parse().unwrap();
    let settings = &moved.plan().vips[0].settings;
    assert_eq!(settings.len(), 1);
    assert!(
        settings[0].ends_with("10.0.0.11:80 → 10.0.0.99:80"),
        "{settings:?}"
    );
    // A change of the node alone is a change.
    let mut node = Case::new(&before, &before);
    node.after.node.sample = 2;
    let plan = node.plan();
    assert_eq!((plan.verdict, plan.vips.len()), (PlanVerdict::Allowed, 0));
    assert_eq!(plan.other, ["node.sample: 1 → 2"]);
}

#[test]
fn nat_vips_show_how_many_sessions_they_support() {
    let nat = |keys, backends: &[&str]| vip(keys, backends).replace("\"l2\"", "\"nat\"");
    let two = nat("", &["a", "b"]);
    let added = Case::new("", &two).plan();
    let line = "nat: at most 32768 sessions at once (2 backends × 16384 ports)";
    assert_eq!(added.vips[0].settings, [line]);
    assert!(
        Case::new("", &vip("", &["a"])).plan().vips[0]
            .settings
            .is_empty()
    );

    let more = nat("", &["a", "b", "c", "d 0", "e", "f"]);
    let changed = Case::new(&two, &more).plan();
    let line = "nat: at most 65536 sessions at once (5 backends × 16384 ports; limited by \
                node.nat_sessions), before: 32768";
    assert_eq!(changed.vips[0].settings, [line]);
    let weights = Case::new(&two, &nat("", &["a", "b 50"])).plan();
    assert!(weights.vips[0].settings.is_empty(), "{weights:?}");

    let mut node = Case::new(&two, &two);
    node.after.node.nat_ports = 20_000..=20_999;
    let line =
        "VIP api: nat: at most 2000 sessions at once (2 backends × 1000 ports), before: 32768";
    assert_eq!(node.plan().other[1..], [line]);

    let mut both = Case::new("", &two);
    let mut other = both.after.vips[0].clone();
    (other.name, other.port) = ("web".into(), 81);
    both.after.vips.push(other);
    let shared = "(2 backends × 16384 ports; ports shared with 1 other VIP)";
    let plan = both.plan();
    assert!(plan.vips[1].settings[0].ends_with(shared), "{plan:?}");
    both.after.node.nat_source = vec![[10, 0, 0, 3].into(), [10, 0, 0, 4].into()];
    let plan = both.plan();
    assert!(!plan.vips[1].settings[0].contains("shared"), "{plan:?}");
}
