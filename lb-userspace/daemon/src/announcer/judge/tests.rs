use super::*;

const SETTLE: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(250);

/// A judge with one address, and the time.
struct Node {
    judge: Judge,
    facts: NodeFacts,
    vips: Vec<VipFacts>,
    drain: Drain,
    now: Instant,
}

fn vip(label: &str) -> VipFacts {
    VipFacts {
        label: label.to_owned(),
        forwards: Ok(()),
        partly: None,
        up: 2,
        min_up: 1,
    }
}

fn address() -> IpAddr {
    [203, 0, 113, 10].into()
}

fn routes(to: IpAddr, route: &str) -> Arc<BTreeMap<IpAddr, String>> {
    Arc::new(BTreeMap::from([(to, route.to_owned())]))
}

impl Node {
    fn new() -> Self {
        Self {
            judge: Judge::default(),
            facts: NodeFacts {
                linked: Ok(()),
                missing: Vec::new(),
                provable: Ok(()),
                controller: Some(Duration::from_secs(1)),
                warming: None,
                is_suspect: false,
                foreign: None,
            },
            vips: vec![vip("web"), vip("web-tls")],
            drain: Drain::No,
            now: Instant::now(),
        }
    }

    /// Judges now.
    fn announcement(&mut self) -> Announcement {
        let vips = BTreeMap::from([(address(), self.vips.clone())]);
        self.judge
            .judge(&self.facts, &vips, self.drain, SETTLE, self.now);
        self.judge.addresses[&address()].announcement
    }

    /// Judges for some time; returns how long it took until this state.
    fn until(&mut self, announcement: Announcement) -> Duration {
        let begun = self.now;
        while self.announcement() != announcement {
            self.now += TICK;
            assert!(
                self.now < begun + Duration::from_secs(1000),
                "never {announcement:?}"
            );
        }
        self.now - begun
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.announcement();
            self.now += TICK;
        }
    }

    fn unmet(&self) -> Vec<&'static str> {
        let checks = self.judge.addresses[&address()].checks.iter();
        checks
            .filter(|check| !check.is_met)
            .map(|check| check.name)
            .collect()
    }
}

#[test]
fn an_address_is_announced_once_it_has_been_proven_for_some_time() {
    let mut node = Node::new();
    assert_eq!(node.announcement(), Announcement::Withheld);
    assert_eq!(node.unmet(), ["settled"]);
    assert_eq!(node.until(Announcement::Announced), SETTLE);
    assert!(node.unmet().is_empty());
    let since = node.now;
    node.pass(Duration::from_secs(60));
    assert_eq!(node.judge.addresses[&address()].since, since);
}

#[test]
fn what_a_packet_needs_withdraws_at_once() {
    let mut node = Node::new();
    node.until(Announcement::Announced);
    node.facts.linked = Err("eth0: no program".to_owned());
    assert_eq!(node.announcement(), Announcement::Withheld);
    assert_eq!(node.unmet(), ["linked", "settled"]);
    let mut node = Node::new();
    node.until(Announcement::Announced);
    for vip in &mut node.vips {
        (vip.forwards, vip.up) = (Err("NO_MEMBER".to_owned()), 0);
    }
    assert_eq!(node.announcement(), Announcement::Withheld);
}

#[test]
fn what_makes_others_better_never_withdraws() {
    let changes: [fn(&mut Node); 9] = [
        |node| node.facts.missing = vec!["eth1".to_owned()],
        |node| node.vips[0].partly = Some("NO_NEXT_HOP".to_owned()),
        // All backends are drained.
        |node| {
            for vip in &mut node.vips {
                vip.forwards = Err("NO_MEMBER".to_owned());
            }
        },
        |node| node.facts.provable = Err("layout 7, not 6".to_owned()),
        |node| node.facts.controller = Some(Duration::from_secs(31)),
        |node| node.facts.controller = None,
        |node| node.vips[1].up = 0,
        |node| node.facts.foreign = Some(routes(address(), "dev lo")),
        |node| node.vips[1].forwards = Err("NO_NEXT_HOP".to_owned()),
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut node = Node::new();
        node.until(Announcement::Announced);
        change(&mut node);
        assert_eq!(node.announcement(), Announcement::Worse, "{number}");
        node.pass(Duration::from_secs(3600));
        assert_eq!(node.announcement(), Announcement::Worse, "{number}");
        let Node { facts, vips, .. } = Node::new();
        (node.facts, node.vips) = (facts, vips);
        assert_eq!(node.announcement(), Announcement::Announced, "{number}");
        // Also when the announcer starts like this.
        let mut node = Node::new();
        change(&mut node);
        assert_eq!(node.until(Announcement::Worse), SETTLE, "{number}");
    }
}

/// A process that was stopped after its first look has proven nothing.
#[test]
fn a_pause_is_no_proof() {
    let mut node = Node::new();
    node.announcement();
    node.now += Duration::from_secs(60);
    assert_eq!(node.announcement(), Announcement::Withheld);
    assert_eq!(node.until(Announcement::Announced), SETTLE);
    // What is announced stays so.
    node.now += Duration::from_secs(60);
    assert_eq!(node.announcement(), Announcement::Announced);
}

#[test]
fn an_address_that_flaps_has_to_be_proven_for_longer() {
    let mut node = Node::new();
    let mut needed = Vec::new();
    for _ in 0..8 {
        needed.push(node.until(Announcement::Announced).as_secs());
        node.pass(Duration::from_secs(3));
        node.vips[0].forwards = Err("NO_NEXT_HOP".to_owned());
        node.vips[1].forwards = Err("NO_NEXT_HOP".to_owned());
        node.pass(TICK);
        node.vips = Node::new().vips;
    }
    assert_eq!(needed, [5, 10, 20, 40, 80, 160, 300, 300]);
    // One that is lost after nine times its settling time flaps too.
    let mut node = Node::new();
    node.until(Announcement::Announced);
    node.pass(SETTLE * 9);
    node.facts.linked = Err(String::new());
    node.pass(TICK);
    node.facts.linked = Ok(());
    assert_eq!(node.until(Announcement::Announced), SETTLE * 2);
    // Long enough without a fault, and all is forgotten.
    node.until(Announcement::Announced);
    node.pass(SETTLE * 2 * 10 + TICK);
    node.facts.linked = Err(String::new());
    assert_eq!(node.announcement(), Announcement::Withheld);
    node.facts.linked = Ok(());
    assert_eq!(node.until(Announcement::Announced), SETTLE);
}

#[test]
fn a_drained_node_is_first_worse_then_silent() {
    let mut node = Node::new();
    node.until(Announcement::Announced);
    node.drain = Drain::Since(node.now);
    assert_eq!(node.announcement(), Announcement::Worse);
    assert_eq!(node.unmet(), ["wanted"]);
    assert_eq!(node.until(Announcement::Withheld), DRAIN_TIME);
    node.drain = Drain::No;
    assert_eq!(
        node.announcement(),
        Announcement::Announced,
        "it was proven all the time"
    );
    // Drained before this process started.
    let mut node = Node::new();
    node.drain = Drain::Always;
    node.pass(Duration::from_secs(60));
    assert_eq!(node.announcement(), Announcement::Withheld);
}

/// The first backend that is up must not get the load of all. What is announced is never withdrawn for it.
#[test]
fn a_start_waits_for_the_first_verdicts() {
    let mut node = Node::new();
    node.facts.warming = Some(Duration::from_secs(20));
    node.pass(SETTLE * 3);
    assert_eq!(node.announcement(), Announcement::Withheld);
    assert_eq!(node.unmet(), ["warm"]);
    node.facts.warming = None;
    assert_eq!(node.announcement(), Announcement::Announced);
    node.facts.warming = Some(Duration::from_secs(20));
    node.pass(Duration::from_secs(60));
    assert_eq!(node.announcement(), Announcement::Worse);
    // Lost soon after it was announced: the wait doubles, as ever.
    node.facts.linked = Err(String::new());
    assert_eq!(node.announcement(), Announcement::Withheld);
    node.facts.linked = Ok(());
    node.pass(SETTLE * 3);
    assert_eq!(node.announcement(), Announcement::Withheld);
    node.facts.warming = None;
    assert_eq!(node.announcement(), Announcement::Announced);
}

/// It may be the node's own path that fails: routers use the other nodes, if there are any.
#[test]
fn a_suspect_node_is_the_last_choice() {
    let mut node = Node::new();
    node.pass(SETTLE * 3);
    node.facts.is_suspect = true;
    assert_eq!(node.announcement(), Announcement::Worse);
    assert_eq!(node.unmet(), ["agrees"]);
    node.facts.is_suspect = false;
    assert_eq!(node.announcement(), Announcement::Announced);
}

/// A routing daemon announces it all the same: this must be seen, also of an address that is withheld.
#[test]
fn a_route_of_somebody_else_is_named() {
    let mut node = Node::new();
    let other = IpAddr::from([203, 0, 113, 99]);
    node.facts.foreign = Some(routes(other, "dev eth1"));
    node.until(Announcement::Announced);
    node.facts.foreign = Some(routes(address(), "dev lo proto boot"));
    node.facts.linked = Err("eth0: no program".to_owned());
    assert_eq!(node.announcement(), Announcement::Withheld);
    assert_eq!(node.unmet(), ["linked", "table", "settled"]);
    let checks = &node.judge.addresses[&address()].checks;
    let named = |check: &Check| check.text.ends_with("in the table: dev lo proto boot");
    assert!(checks.iter().any(named), "{checks:?}");
}

#[test]
fn an_address_without_vips_is_forgotten() {
    let mut node = Node::new();
    node.until(Announcement::Announced);
    let (facts, now) = (node.facts.clone(), node.now);
    node.judge
        .judge(&facts, &BTreeMap::new(), Drain::No, SETTLE, now);
    assert!(node.judge.addresses.is_empty());
}
