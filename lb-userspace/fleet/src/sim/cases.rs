//! Sequences of events that need an order of their own.

use lb_api::{FleetNodeState, FleetRolloutState};

use super::{BAKE_S, CONFIRM_S, Fault, NODES, World, node};
use crate::{
    leader,
    memory::Memory,
    records::{Meta, text_key},
    store::Write,
};

impl World {
    fn settled() -> Self {
        let mut world = Self::new();
        world.run(5_000);
        world
    }

    fn state(&self, index: usize) -> FleetNodeState {
        let process = self.nodes[index].process.as_ref();
        process.expect("it runs").state()
    }

    fn text(&self, index: usize) -> &str {
        self.nodes[index].engine.active()
    }

    /// Runs until `is_so`, for at most a minute.
    fn run_until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..600 {
            if is_so(self) {
                return;
            }
            self.run_by(100, 100);
        }
        panic!("not within a minute: {what}");
    }

    fn in_wave(&mut self) {
        self.run_until("wave", |world| {
            world.rollout().state == FleetRolloutState::Wave
        });
    }

    fn assert_confirmed(&self) {
        let rollout = self.rollout();
        let (state, reason) = (rollout.state, rollout.reason);
        assert_eq!(state, FleetRolloutState::Confirmed, "{reason}");
    }

    fn index_of(&self, name: &str) -> usize {
        let index = self.nodes.iter().position(|node| node.name == name);
        index.expect("a node of the fleet")
    }

    /// The node that leads, and the canary of a rollout.
    fn leader(&self) -> usize {
        let snapshot = self.etcd.snapshot();
        self.index_of(&snapshot.leader.expect("a leader").node)
    }
}

#[test]
fn an_operator_who_rolls_the_head_back_is_respected() {
    let mut world = World::settled();
    world.nodes[0].is_cut_off = true;
    world.run(15_000);
    world.apply("", false);
    world.run(60_000);
    assert_eq!(world.head(), "text 1;");
    world.nodes[0].is_cut_off = false;
    world.run_until("the head bakes", |world| {
        world.nodes[0].engine.is_on_trial()
    });
    assert_eq!(world.state(0), FleetNodeState::OnTrial);
    world.nodes[0].engine.roll_back_by_hand();
    world.run(120_000);
    assert_eq!(world.text(0), "text 0;");
    assert_eq!(world.state(0), FleetNodeState::Differs);
}

#[test]
fn a_change_of_a_node_after_the_preflight_is_not_overwritten() {
    let mut world = World::settled();
    world.override_local = false;
    world.apply("", false);
    world.in_wave();
    let last = world.rollout().waves.last().unwrap()[0].clone();
    let last = world.index_of(&last);
    world.nodes[last].engine.change("local drain;".to_owned());
    world.run(120_000);
    assert_eq!(world.text(last), "local drain;");
    let rollout = world.rollout();
    assert_eq!(rollout.state, FleetRolloutState::Undone);
    assert!(
        rollout.reason.contains("VIPs were changed on this node"),
        "{}",
        rollout.reason
    );
}

/// What one node can't apply is replaced by the next revision, on this node too.
#[test]
fn a_node_that_can_not_apply_the_head_blocks_no_rollout() {
    let mut world = World::settled();
    world.nodes[4].is_cut_off = true;
    world.run(15_000);
    world.apply("sick=n4;", false);
    world.run(60_000);
    world.nodes[4].is_cut_off = false;
    world.run(30_000);
    assert_eq!(
        (world.text(4), world.state(4)),
        ("text 0;", FleetNodeState::Behind)
    );
    world.apply("", false);
    world.run(60_000);
    world.assert_confirmed();
    assert!(world.rollout().nodes.contains(&"n4".to_owned()));
    assert!((0..NODES).all(|node| world.text(node) == "text 2;"));
}

#[test]
fn a_claim_whose_answer_is_lost_is_a_claim() {
    let mut world = World::settled();
    world.apply("", false);
    let mut turns = (0..NODES).cycle();
    while world.etcd.claims.is_empty() {
        let node = turns.next().unwrap();
        let fault = match world.rollout().state {
            FleetRolloutState::Wave => Fault::AnswerLost,
            _ => Fault::None,
        };
        world.advance(20);
        world.sync(node);
        world.step(node, fault);
    }
    world.run(60_000);
    world.assert_confirmed();
}

/// Reads and leases work, so the fleet is in contact, but nobody can end the rollout.
#[test]
fn an_etcd_without_space_keeps_no_candidate_on_trial() {
    for at_ms in [1_000, 2_000, 6_000] {
        let mut world = World::settled();
        world.apply("", false);
        world.in_wave();
        world.run_by(at_ms, 100);
        assert!(world.nodes.iter().any(|node| node.engine.is_candidate()));
        world.etcd.is_full = true;
        let longest_ms = u64::from(2 * CONFIRM_S + BAKE_S) * 1000 + 65_000;
        world.run(longest_ms);
        for node in &world.nodes {
            assert!(
                !node.engine.is_candidate(),
                "{} after {at_ms} ms",
                node.name
            );
        }
        world.etcd.is_full = false;
        world.run(200_000);
        assert_eq!(world.rollout().state, FleetRolloutState::Undone);
        assert!((0..NODES).all(|node| world.text(node) == "text 0;"));
    }
}

#[test]
fn a_leader_with_a_full_disk_leads() {
    let mut world = World::settled();
    let leader = world.leader();
    world.nodes[leader].has_full_disk = true;
    world.apply("", false);
    world.run(30_000);
    assert_eq!(world.state(leader), FleetNodeState::Refused);
    let rollout = world.rollout();
    assert_eq!(rollout.state, FleetRolloutState::Undone);
    assert!(rollout.reason.contains("disk full"), "{}", rollout.reason);
    world.nodes[leader].has_full_disk = false;
    world.run(5_000);
    assert_eq!(world.state(leader), FleetNodeState::InSync);
}

/// A head whose text could not be read is forgotten once there is another head.
#[test]
fn a_head_that_was_replaced_is_not_applied() {
    let mut world = World::settled();
    world.nodes[0].is_cut_off = true;
    world.run(15_000);
    world.apply("sick=n0;", false);
    world.run(60_000);
    world.nodes[0].lacks_text = true;
    world.nodes[0].is_cut_off = false;
    world.run(2_000);
    world.nodes[0].is_cut_off = true;
    world.run(15_000);
    world.apply("", false);
    world.run(60_000);
    assert_eq!(world.head(), "text 2;");
    world.nodes[0].lacks_text = false;
    world.nodes[0].is_cut_off = false;
    world.run_until("the head", |world| world.text(0) != "text 0;");
    assert_eq!(world.text(0), "text 2;");
}

#[test]
fn two_machines_with_one_name_write_little_and_say_so() {
    let mut world = World::settled();
    let memory = world.nodes[0].memory().clone();
    let mut twin = node::SimNode::new("n0", "text 0;", memory);
    twin.boot(world.now_ms);
    let writes = |world: &World| world.etcd.writes["nodes/n0/live"];
    let before = writes(&world);
    for _ in 0..600 {
        world.run_by(100, 100);
        twin.sync(&mut world.etcd, world.now_ms);
        twin.step(&mut world.etcd, world.now_ms, Fault::None);
    }
    assert!(writes(&world) - before < 30, "{}", writes(&world) - before);
    assert_eq!(world.state(0), FleetNodeState::Refused);
    drop(twin);
    world.run(40_000);
    assert_eq!(world.state(0), FleetNodeState::InSync);
}

/// Revisions of another fleet have the same numbers.
#[test]
fn a_node_that_joins_another_fleet_plans_anew() {
    let mut world = World::settled();
    world.apply("", false);
    world.run(60_000);
    let old = world.etcd.clone();
    let mut other = World::new();
    let snapshot = other.etcd.snapshot();
    let meta = Meta {
        id: "other".to_owned(),
        ..snapshot.meta.unwrap().value
    };
    let meta = crate::member::put("meta".to_owned(), &meta, false);
    let txn = crate::store::Txn {
        conditions: Vec::new(),
        writes: vec![meta],
    };
    other.etcd.commit(&txn, 0);
    world.etcd.restore(&other.etcd);
    assert!(old.heads.contains(&"text 1;".to_owned()));
    world.etcd.heads.push("text 0;".to_owned());
    world.etcd.claims.clear();
    world.run(20_000);
    for node in &mut world.nodes {
        let memory = Memory {
            fleet: Some("other".to_owned()),
            newest: 1,
            take: true,
            ..Memory::default()
        };
        node.process.as_mut().unwrap().member.set_memory(memory);
    }
    world.run(30_000);
    assert!((0..NODES).all(|node| world.text(node) == "text 0;"));
    // Again a revision 2, which this fleet's nodes have not planned.
    world.apply("refuse=n3;", false);
    world.run(10_000);
    let rollout = world.rollout();
    assert_eq!(rollout.reason, "node n3 refuses: guard");
}

#[test]
fn garbage_is_what_no_kept_revision_needs() {
    let mut world = World::settled();
    for _ in 0..60 {
        world.apply("", false);
        world.run(20_000);
    }
    let snapshot = world.etcd.snapshot();
    let head = snapshot.head.as_ref().unwrap();
    assert_eq!(head.revision, 61);
    assert!(
        snapshot.revisions.len() <= 52,
        "{}",
        snapshot.revisions.len()
    );
    for number in [head.revision, head.revision - 1] {
        assert!(snapshot.revisions.contains_key(&number), "{number}");
    }
    let texts: Vec<String> = (0..=60)
        .map(|text| text_key(&format!("text {text};"), 0))
        .collect();
    let fence = snapshot.leader.as_ref().unwrap().created;
    let txn = leader::garbage(&snapshot, &texts, fence).unwrap();
    let deleted = |text: u32| {
        let key = text_key(&format!("text {text};"), 0);
        txn.writes.contains(&Write::Delete(key))
    };
    assert!(deleted(0) && deleted(5));
    assert!(!deleted(60) && !deleted(59) && !deleted(20));
}
