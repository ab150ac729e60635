use lb_api::{FleetNodeState, FleetRolloutState};
use proptest::prelude::*;

use super::{CONFIRM_S, Etcd, Fault, NODES, World};

#[derive(Clone, Debug)]
enum Op {
    Advance(u64),
    Sync(usize),
    Step(usize, Fault),
    Deliver(usize, usize),
    CutOff(usize),
    Heal(usize),
    Crash(usize),
    Boot(usize),
    Apply(u8, usize, bool),
    Abort,
    Confirm,
    Pause(bool),
    Local(usize),
    RollBack(usize),
    Override(bool),
    Full(bool),
    LacksText(usize, bool),
    FullDisk(usize, bool),
    Run(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let node = 0..NODES;
    let fault = prop_oneof![
        8 => Just(Fault::None),
        1 => Just(Fault::DiesBefore),
        1 => Just(Fault::DiesAfter),
        2 => Just(Fault::AnswerLost),
    ];
    prop_oneof![
        4 => prop_oneof![1..500u64, 500..6_000u64].prop_map(Op::Advance),
        8 => node.clone().prop_map(Op::Sync),
        20 => (node.clone(), fault).prop_map(|(node, fault)| Op::Step(node, fault)),
        2 => (node.clone(), any::<usize>()).prop_map(|(node, which)| Op::Deliver(node, which)),
        1 => node.clone().prop_map(Op::CutOff),
        2 => node.clone().prop_map(Op::Heal),
        1 => node.clone().prop_map(Op::Crash),
        3 => node.clone().prop_map(Op::Boot),
        2 => (0..4u8, node.clone(), any::<bool>()).prop_map(|(kind, node, manual)| Op::Apply(kind, node, manual)),
        1 => Just(Op::Abort),
        1 => Just(Op::Confirm),
        1 => any::<bool>().prop_map(Op::Pause),
        1 => node.clone().prop_map(Op::Local),
        1 => node.clone().prop_map(Op::RollBack),
        1 => any::<bool>().prop_map(Op::Override),
        1 => any::<bool>().prop_map(Op::Full),
        1 => (node.clone(), any::<bool>()).prop_map(|(node, lacks)| Op::LacksText(node, lacks)),
        1 => (node, any::<bool>()).prop_map(|(node, is_full)| Op::FullDisk(node, is_full)),
        8 => (500..8_000u64).prop_map(Op::Run),
    ]
}

impl World {
    fn perform(&mut self, op: &Op) {
        match *op {
            Op::Advance(by_ms) => self.advance(by_ms),
            Op::Sync(node) => self.sync(node),
            Op::Step(node, fault) => drop(self.step(node, fault)),
            Op::Deliver(node, which) => self.nodes[node].deliver(&self.etcd, which),
            Op::CutOff(node) => self.nodes[node].is_cut_off = true,
            Op::Heal(node) => self.nodes[node].is_cut_off = false,
            Op::Crash(node) => self.nodes[node].process = None,
            Op::Boot(node) => self.nodes[node].boot(self.now_ms),
            Op::Apply(kind, node, manual) => {
                let words = match kind {
                    0 => format!("refuse=n{node};"),
                    1 => format!("sick=n{node};"),
                    _ => String::new(),
                };
                self.apply(&words, manual);
            }
            Op::Abort => self.mark(|rollout| rollout.aborted = Some("operator".to_owned())),
            Op::Confirm => self.mark(|rollout| {
                if rollout.state == FleetRolloutState::AwaitingConfirm {
                    rollout.confirmed = Some("operator".to_owned());
                }
            }),
            Op::Pause(paused) => {
                self.mark(|rollout| rollout.paused = paused.then(|| "operator".to_owned()));
            }
            Op::Local(node) => {
                let engine = &mut self.nodes[node].engine;
                // The engine refuses a change while another one is on trial.
                if !engine.is_on_trial() {
                    engine.change(format!("local {};", self.now_ms));
                }
            }
            Op::RollBack(node) => self.nodes[node].engine.roll_back_by_hand(),
            Op::Override(override_local) => self.override_local = override_local,
            Op::Full(is_full) => self.etcd.is_full = is_full,
            Op::LacksText(node, lacks) => self.nodes[node].lacks_text = lacks,
            Op::FullDisk(node, is_full) => self.nodes[node].has_full_disk = is_full,
            Op::Run(for_ms) => self.run(for_ms),
        }
    }

    /// Everything works again; nobody commands.
    fn heal(&mut self) {
        self.etcd.is_full = false;
        for node in &mut self.nodes {
            node.is_cut_off = false;
            node.lacks_text = false;
            node.has_full_disk = false;
            node.boot(self.now_ms);
        }
        self.mark(|rollout| rollout.paused = None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("EVENKEEL_FLEET_CASES").map_or(40, |cases| cases.parse().unwrap()),
        ..ProptestConfig::default()
    })]

    /// The rules are checked by the etcd and the nodes of the simulation, at each write and each action.
    #[test]
    fn a_fleet_keeps_its_rules_and_settles(ops in proptest::collection::vec(op(), 1..120)) {
        let mut world = World::new();
        for op in &ops {
            world.perform(op);
        }
        // Rule 2: cut off from everything, nodes undo candidates by themselves.
        let lonely = ops.len() % 2 == 0;
        if lonely {
            for node in &mut world.nodes {
                node.is_cut_off = true;
                node.boot(world.now_ms);
            }
            let before: Vec<String> = world.nodes.iter().map(|n| n.engine.active().to_owned()).collect();
            world.run(u64::from(CONFIRM_S) * 1000 + 15_000);
            for (node, before) in world.nodes.iter().zip(before) {
                prop_assert!(!node.engine.is_candidate(), "{} has a candidate", node.name);
                let active = node.engine.active();
                let is_known = active == before || node.memory().head.as_ref().is_some_and(|h| h.runs == active)
                    || active.starts_with("local");
                prop_assert!(is_known, "{} runs {active}", node.name);
            }
        }
        world.heal();
        world.run_by(400_000, 2_000);
        world.mark(|rollout| rollout.confirmed = Some("operator".to_owned()));
        world.run_by(100_000, 2_000);
        let head = world.head();
        let snapshot = world.etcd.snapshot();
        if let Some(rollout) = &snapshot.rollout {
            prop_assert!(rollout.state.is_over(), "{rollout:#?}");
        }
        for node in &world.nodes {
            let active = node.engine.active();
            let state = node.process.as_ref().unwrap().state();
            let fits = match state {
                FleetNodeState::InSync => active == head,
                FleetNodeState::Differs => active.starts_with("local"),
                // It was away at the preflight, and can't run what the others can.
                FleetNodeState::Behind | FleetNodeState::OnTrial => head.contains(&format!("sick={};", node.name)),
                _ => false,
            };
            prop_assert!(fits, "{} is {state:?} and runs {active}, head {head}", node.name);
        }
    }
}

#[test]
fn a_good_change_becomes_head() {
    let mut world = World::new();
    world.run(5_000);
    world.apply("", false);
    world.run(40_000);
    assert_eq!(world.rollout().state, FleetRolloutState::Confirmed);
    assert!(
        world
            .nodes
            .iter()
            .all(|node| node.engine.active() == "text 1;")
    );
}

#[test]
fn a_manual_rollout_waits_and_a_paused_one_too() {
    let mut world = World::new();
    world.run(5_000);
    world.apply("", true);
    world.run(600_000);
    assert_eq!(world.rollout().state, FleetRolloutState::AwaitingConfirm);
    world.mark(|rollout| rollout.confirmed = Some("operator".to_owned()));
    world.run(5_000);
    assert_eq!(world.head(), "text 1;");

    world.apply("", false);
    world.mark(|rollout| rollout.paused = Some("operator".to_owned()));
    world.run(600_000);
    let rollout = world.rollout();
    assert_eq!(
        (rollout.state, rollout.position),
        (FleetRolloutState::Wave, 0)
    );
    world.mark(|rollout| rollout.paused = None);
    world.run(60_000);
    assert_eq!(world.head(), "text 2;");
}

#[test]
fn an_hour_without_etcd_changes_nothing() {
    let mut world = World::new();
    world.run(5_000);
    for node in &mut world.nodes {
        node.is_cut_off = true;
    }
    world.run(3_600_000);
    assert!(
        world
            .nodes
            .iter()
            .all(|node| node.engine.active() == "text 0;")
    );
    // Meanwhile, somebody else confirmed a change.
    for node in &mut world.nodes[1..] {
        node.is_cut_off = false;
    }
    world.run(20_000);
    world.apply("", false);
    world.run(60_000);
    assert_eq!(world.nodes[0].engine.active(), "text 0;");
    world.nodes[0].is_cut_off = false;
    world.run(4_500);
    assert_eq!(world.nodes[0].engine.active(), "text 1;");
}

/// A node that is late claims nothing: etcd refuses its write.
#[test]
fn no_node_claims_what_was_aborted() {
    let mut world = World::new();
    world.run(5_000);
    world.apply("", false);
    let mut turns = (0..NODES).cycle();
    while world.rollout().state != FleetRolloutState::Wave {
        let node = turns.next().unwrap();
        world.advance(20);
        world.sync(node);
        world.step(node, Fault::None);
    }
    let canary = world.rollout().waves[0][0].clone();
    let canary = world
        .nodes
        .iter()
        .position(|node| node.name == canary)
        .unwrap();
    world.sync(canary);
    let claims = world.etcd.claims.clone();
    world.mark(|rollout| rollout.aborted = Some("operator".to_owned()));
    for _ in 0..10 {
        world.step(canary, Fault::None);
    }
    assert_eq!(world.etcd.claims, claims);
    assert_eq!(world.nodes[canary].engine.active(), "text 0;");
}

/// Rule 2: also while it bakes, when the engine does not count yet.
#[test]
fn a_candidate_that_bakes_is_undone_without_contact() {
    let mut world = World::new();
    world.bake_s = 600;
    world.run(5_000);
    world.apply("", false);
    world.run(5_000);
    let is_candidate = |world: &World| world.nodes.iter().any(|n| n.engine.is_candidate());
    assert!(is_candidate(&world));
    for node in &mut world.nodes {
        node.is_cut_off = true;
    }
    world.run(u64::from(CONFIRM_S) * 1000 + 1_500);
    assert!(!is_candidate(&world));
}

/// Rule 6.
#[test]
fn a_wiped_or_older_etcd_is_refused() {
    for wiped in [true, false] {
        let mut world = World::new();
        world.run(5_000);
        let old = match wiped {
            true => Etcd::empty(),
            false => world.etcd.clone(),
        };
        world.apply("", false);
        world.run(40_000);
        assert_eq!(world.head(), "text 1;");
        // A candidate on trial is undone, too.
        world.apply("", false);
        world.run(2_000);
        world.etcd.restore(&old);
        world.run(60_000);
        for node in &world.nodes {
            assert_eq!(node.engine.active(), "text 1;");
            let state = node.process.as_ref().unwrap().state();
            assert_eq!(state, FleetNodeState::Refused, "wiped: {wiped}");
        }
    }
}
