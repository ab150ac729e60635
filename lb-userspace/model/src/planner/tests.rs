//! The planner, guard by guard.

mod properties;

use super::*;
use crate::config::{self, Backend};

const NODE: &str =
    "[node]\ninterfaces = [\"eth0\"]\nhash_seed = \"000102030405060708090a0b0c0d0e0f\"\n";

fn parse(text: &str) -> Config {
    match config::parse("a.toml", &format!("{NODE}{text}")) {
        Ok(config) => config,
        Err(errors) => panic!("{errors}"),
    }
}

/// A VIP of 1009 slots. Backends are `name weight more-keys`, at addresses that their names give.
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

/// A change of one VIP with what is known of it.
struct Case {
    before: Option<Config>,
    after: Config,
    load: Load,
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
                ..VipFacts::with(pair, chance)
            }
        })
    }

    /// What the guards object to.
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
fn the_same_is_nothing() {
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
fn vips_come_go_change_and_are_replaced() {
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
    // Two VIPs that swap their names are what they were.
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
    // Another secret: every flow is somewhere else.
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
fn members_are_side_by_side() {
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
    // At least all of a's slots move, and not many more than must.
    assert!(
        (500..=780).contains(&vip.slots_moved),
        "{}",
        vip.slots_moved
    );
    assert_eq!(case.refused(), [Guard::Capacity]);
}

#[test]
fn max_share() {
    use Guard::MaxShare;
    let capped = |cap: &str, backends: &[&str]| vip(&format!("guard.max_share = {cap}"), backends);
    let even = capped("0.5", &["a", "b"]);
    // One slot of rounding is not above the limit.
    assert_eq!(Case::new("", &even).refused(), []);
    let case = Case::new(&even, &capped("0.5", &["a 62", "b 38"]));
    assert_eq!(case.refused(), [MaxShare]);
    assert_eq!(
        case.detail(MaxShare),
        "backend a would have 62 % of the table; 50 % is allowed"
    );
    let forced = case.force(MaxShare).plan();
    assert_eq!(forced.verdict, PlanVerdict::Allowed);
    assert!(
        forced.vips[0]
            .guards
            .iter()
            .any(|g| g.verdict == GuardVerdict::Forced)
    );
    // What is above the limit already may get better, but not worse.
    let high = capped("0.5", &["a 80", "b 20"]);
    assert_eq!(
        Case::new(&high, &capped("0.5", &["a 70", "b 30"])).refused(),
        []
    );
    assert_eq!(
        Case::new(&high, &capped("0.5", &["a 81", "b 19"])).refused(),
        [MaxShare]
    );
    // Something else changes.
    let other = high.replace("\nguard", "\ntrack = \"always\"\nguard");
    assert_eq!(Case::new(&high, &other).refused(), []);
    // A stricter limit must hold; a looser one is no promise.
    let wide = capped("0.9", &["a 80", "b 20"]);
    assert_eq!(Case::new(&wide, &high).refused(), [MaxShare]);
    let looser = capped("0.6", &["a 80", "b 20"]);
    assert_eq!(Case::new(&high, &looser).refused(), []);
    // To drain one gives the others more.
    let drained = capped("0.4", &["a", "b", "c 100 state = \"drain\""]);
    let three = capped("0.4", &["a", "b", "c"]);
    assert_eq!(Case::new(&three, &drained).refused(), [MaxShare]);
}

#[test]
fn a_new_backend_is_judged_by_what_it_will_get() {
    // The change that this product is there to stop: nothing of it is seen until the checks succeed.
    let before = vip("guard.max_share = 0.6", &["a", "b"]);
    let after = vip("guard.max_share = 0.6", &["a", "b", "c 1000"]);
    let case = Case::new(&before, &after).unproven(&["c"]);
    assert_eq!(case.refused(), [Guard::MaxShare]);
}

#[test]
fn max_moved() {
    use Guard::MaxMoved;
    let text = |backends: &[&str]| vip("guard.max_moved = 0.25", backends);
    let case = Case::new(&text(&["a", "b", "c"]), &text(&["a", "b"]));
    assert_eq!(case.refused(), [MaxMoved]);
    let detail = case.detail(MaxMoved);
    assert!(
        detail.contains("of 1009 slots); 25 % is allowed"),
        "{detail}"
    );
    // One of four leaves: its quarter moves, and a few slots of the others.
    let (four, three) = (["a", "b", "c", "d"], ["a", "b", "c"]);
    assert_eq!(Case::new(&text(&four), &text(&three)).refused(), [MaxMoved]);
    let wider = |backends: &[&str]| vip("guard.max_moved = 0.3", backends);
    assert_eq!(Case::new(&wider(&four), &wider(&three)).refused(), []);
    assert_eq!(
        Case::new("", &text(&["a"])).refused(),
        [],
        "a new VIP moves nothing"
    );
    let all_down = Case::new(&text(&["a 100 state = \"disabled\""]), &text(&["a"]));
    assert_eq!(all_down.refused(), [], "slots that nobody had");
}

#[test]
fn min_backends() {
    use Guard::MinBackends;
    let text = |min: u32, backends: &[&str]| vip(&format!("guard.min_backends = {min}"), backends);
    let two = text(2, &["a", "b"]);
    assert_eq!(Case::new(&two, &text(2, &["a"])).refused(), [MinBackends]);
    assert_eq!(Case::new("", &text(2, &["a"])).refused(), [MinBackends]);
    let case = Case::new(&two, &text(2, &["a", "b 100 state = \"drain\""]));
    assert_eq!(case.refused(), [MinBackends]);
    assert_eq!(case.detail(MinBackends), "1 would serve; 2 must");
    // One is down: to take it out makes nothing worse, to take the other out does.
    assert_eq!(Case::new(&two, &text(2, &["a"])).down(&["b"]).refused(), []);
    let other = Case::new(&two, &text(2, &["b"])).down(&["b"]).refused();
    assert_eq!(other, [MinBackends, Guard::NothingLeft]);
    // A limit that is new must hold, of those that are wanted.
    let one = text(1, &["a", "b"]);
    assert_eq!(
        Case::new(&one, &text(3, &["a", "b"])).refused(),
        [MinBackends]
    );
    let more = Case::new(&one, &text(3, &["a", "b", "c"])).unproven(&["c"]);
    assert_eq!(more.refused(), []);
    // An exchange: the new one does not serve yet.
    let exchange = Case::new(&two, &text(2, &["a", "c"])).unproven(&["c"]);
    assert_eq!(exchange.refused(), [MinBackends]);
    let detail = exchange.detail(MinBackends);
    assert_eq!(
        detail,
        "1 would serve; 2 must (1 more when their checks have succeeded)"
    );
}

#[test]
fn capacity() {
    use Guard::Capacity;
    let text = |a: u32, b: u32| {
        let (a, b) = (
            format!("a 100 capacity = {a}"),
            format!("b 100 capacity = {b}"),
        );
        vip("", &[&a, &b])
    };
    let only_a = vip("", &["a 100 capacity = 1000"]);
    let both = text(1000, 1000);
    // 1,600 at the peak need 1,920.
    assert_eq!(Case::new(&both, &only_a).peak(800.0).refused(), []);
    assert_eq!(Case::new(&both, &only_a).peak(840.0).refused(), [Capacity]);
    let case = Case::new(&both, &text(1000, 800)).peak(1600.0);
    assert_eq!(case.refused(), [Capacity]);
    assert_eq!(
        case.detail(Capacity),
        "those that serve can take 1800 new flows a second; the peak is 1600, 1920 with headroom"
    );
    // There is too little already: more is no worse, and writing down what is so changes nothing.
    assert_eq!(
        Case::new(&text(500, 500), &text(600, 600))
            .peak(1600.0)
            .refused(),
        []
    );
    assert_eq!(
        Case::new(&vip("", &["a", "b"]), &text(500, 500))
            .peak(1600.0)
            .refused(),
        []
    );
    // One gets more than it can take, though all together could.
    let uneven = vip("", &["a 300 capacity = 1000", "b 100 capacity = 9000"]);
    let even = vip("", &["a 100 capacity = 1000", "b 100 capacity = 9000"]);
    let case = Case::new(&even, &uneven).peak(1600.0);
    assert_eq!(case.refused(), [Capacity]);
    let detail = case.detail(Capacity);
    assert!(
        detail
            .contains("backend a would get 1200 new flows a second of the peak; it can take 1000"),
        "{detail}"
    );
    // Not known, not judged.
    assert_eq!(Case::new(&even, &vip("", &["a"])).peak(1e6).refused(), []);
}

#[test]
fn nothing_left() {
    use Guard::NothingLeft;
    let served = vip("", &["a", "b"]);
    let off = vip(
        "",
        &["a 100 state = \"disabled\"", "b 100 state = \"drain\""],
    );
    assert!(Case::new(&served, &off).refused().contains(&NothingLeft));
    assert!(Case::new("", &off).refused().contains(&NothingLeft));
    assert_eq!(
        Case::new(&off, &off.replace("drain", "disabled")).refused(),
        []
    );
    // All exchanged at once: nobody serves until the checks succeed.
    let others = vip("", &["c", "d"]);
    let case = Case::new(&served, &others).unproven(&["c", "d"]);
    assert!(case.refused().contains(&NothingLeft));
    assert!(case.detail(NothingLeft).contains("add them first"));
    // A new VIP can't have proven ones.
    assert_eq!(Case::new("", &served).unproven(&["a", "b"]).refused(), []);
    // Panic: those that are not healthy get traffic, and go on getting it.
    let panic = Case::new(&served, &vip("", &["a 50", "b"])).unproven(&["a", "b"]);
    assert_eq!(panic.refused(), []);
}

#[test]
fn vip_removed() {
    use Guard::VipRemoved;
    let text = vip("", &["a", "b"]);
    assert_eq!(Case::new(&text, "").refused(), []);
    let case = Case::new(&text, "").traffic();
    assert_eq!(case.refused(), [VipRemoved]);
    assert_eq!(
        case.detail(VipRemoved),
        "the VIP goes, and its connections break: it has 0 new flows and 5 packets a second"
    );
    let replaced = text.replace("\"l2\"", "\"ipip\"");
    assert_eq!(
        Case::new(&text, &replaced).traffic().refused(),
        [VipRemoved]
    );
    assert_eq!(Case::new(&text, &replaced).refused(), []);
}

#[test]
fn a_table_that_is_not_as_intended() {
    let (before, after) = (vip("", &["a", "b"]), vip("", &["a", "b", "c"]));
    let case = Case::new(&before, &after);
    let input = Input {
        base: 1,
        running: case.before.as_ref(),
        candidate: &case.after,
        force: &[],
    };
    let with = |slots: [u32; 3]| {
        let plan = plan(&input, |pair| {
            let mut facts = VipFacts::assumed(pair);
            let members = &mut facts.after.as_mut().unwrap().members;
            for (member, slots) in members.iter_mut().zip(slots) {
                member.slots = slots;
            }
            facts
        });
        let guards = plan.vips.into_iter().flat_map(|vip| vip.guards);
        let refused = guards.filter(|g| g.verdict == GuardVerdict::Refused);
        refused.map(|g| (g.guard, g.detail)).collect::<Vec<_>>()
    };
    assert_eq!(with([336, 336, 337]), []);
    // Within 1 % of the intended share.
    assert_eq!(with([335, 335, 339]), []);
    let wrong = with([504, 505, 0]);
    assert_eq!(wrong[0].0, Guard::ShareError);
    assert!(
        wrong[0]
            .1
            .contains("backend c would have 0 % of the table where 33.3 % is intended"),
        "{wrong:?}"
    );
    assert_eq!(wrong[1].0, Guard::NoSlots);
    assert_eq!(
        wrong[1].1,
        "backend c has weight 100 and would have none of the 1009 slots"
    );
}

#[test]
fn settings_are_told_in_words() {
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
            "guard.max_share: 1 → 0.75",
            "backend a: capacity: none → 7",
            "backend: \"b\" → \"bee\"",
        ]
    );
    let plan = Case::new(&vip("", &["a", "b"]), &before).plan();
    assert_eq!(plan.vips[0].settings, ["health: none → tcp"]);
    let mut moved = Case::new(&before, &before);
    moved.after.vips[0].backends[0].address = "10.0.0.99".parse().unwrap();
    let settings = &moved.plan().vips[0].settings;
    assert_eq!(settings.len(), 1);
    assert!(
        settings[0].ends_with("10.0.0.11:80 → 10.0.0.99:80"),
        "{settings:?}"
    );
    // Only the node: the verdict is not "nothing".
    let mut node = Case::new(&before, &before);
    node.after.node.sample = 2;
    let plan = node.plan();
    assert_eq!((plan.verdict, plan.vips.len()), (PlanVerdict::Allowed, 0));
    assert_eq!(plan.other, ["node.sample: 1 → 2"]);
}
