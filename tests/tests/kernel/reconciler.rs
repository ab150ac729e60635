//! The reconciler and the kernel: effects of changes on flows, and adoption.

use std::collections::BTreeMap;

use evenkeel::simulate::Flows;
use lb_common::address_of;
use lb_common::{
    family,
    member::{Member, NextHop, control},
    proto,
    trace::decision,
    vip::{MAX_PROBES, VipKey},
};
use lb_daemon::reconciler::{
    HealthUpdate, Reconciler, ReconcilerError, Route, Routes, ServiceId, Summary, load_options,
};
use lb_dataplane::{Dataplane, LoadOptions, SPARE_IMAGES};
use lb_model::{
    MemberRef,
    config::{self, Config, Fraction},
};

const TCP_FLAGS: usize = 14 + 20 + 13;
const ACK: u8 = 0x10;
/// Address of the VIP, with its bytes in memory order.
pub(crate) const VIP: u32 = u32::from_ne_bytes([203, 0, 113, 1]);

pub(crate) fn config(backends: &[(u8, u32, &str)]) -> Config {
    config_with("ring_size = 4093\nforward = \"ipip\"", backends)
}

fn config_with(vip: &str, backends: &[(u8, u32, &str)]) -> Config {
    let mut text = format!(
        "[node]\ninterfaces = [\"lo\"]\nhash_seed = \"000102030405060708090a0b0c0d0e0f\"\n\
         track_flows = 8192\nnat_sessions = 1024\n\
         [[vip]]\nname = \"v\"\naddress = \"203.0.113.1\"\nport = 80\nprotocol = \"tcp\"\n{vip}\n"
    );
    for (number, weight, state) in backends {
        text += &format!(
            "[[vip.backend]]\nname = \"b{number}\"\naddress = \"10.0.0.{number}\"\n\
             weight = {weight}\nstate = \"{state}\"\n"
        );
    }
    config::parse("test.toml", &text).unwrap_or_else(|errors| panic!("{errors}"))
}

pub(crate) fn routes(dataplane: &mut Dataplane) -> Routes {
    let egress = dataplane
        .egress
        .assign(1, 1500, [2, 0, 0, 0, 0, 1])
        .unwrap();
    dataplane.stations.accept(1, [2, 0, 0, 0, 0, 1]).unwrap();
    let way = |number| Route {
        next_hop: NextHop {
            mac: [2, 0, 0, 0, 1, number],
            egress,
        },
        on_link: true,
        replies_seen: true,
        source: Some([10, 0, 0, 254].into()),
    };
    (1..20)
        .map(|n| ([10, 0, 0, n].into(), Some(way(n))))
        .collect()
}

/// Index of a backend of the only VIP.
pub(crate) fn member_index(controller: &mut Reconciler, backend: &str) -> Option<u16> {
    let report = controller.report();
    let mut members = report[0].members.iter();
    let found = members.find(|member| member.check_name == backend);
    found.map(|member| member.index)
}

pub(crate) fn options(config: &Config) -> LoadOptions {
    LoadOptions {
        tracing: true,
        ..load_options(config)
    }
}

/// A node without interfaces, and flows of clients.
struct Node {
    dataplane: Dataplane,
    controller: Reconciler,
    flows: Vec<Vec<u8>>,
}

impl Node {
    fn new(config: &Config) -> Self {
        Self::with(config, &options(config))
    }

    fn with(config: &Config, options: &LoadOptions) -> Self {
        let mut dataplane = Dataplane::load(options).unwrap();
        let mut controller = Reconciler::fresh();
        let routes = routes(&mut dataplane);
        controller
            .apply_with_routes(&mut dataplane, config, routes)
            .unwrap();
        let mut flows = Flows::new(&config.vips, 3);
        Self {
            dataplane,
            controller,
            flows: (0..1500).map(|_| flows.next_frame().unwrap()).collect(),
        }
    }

    fn apply(&mut self, config: &Config) -> u32 {
        self.controller
            .apply(&mut self.dataplane, config)
            .unwrap()
            .slots_moved
    }

    /// Runs a packet of each flow, with other TCP flags if given. Returns their members.
    fn send(&self, flags: Option<u8>) -> Vec<u16> {
        let one = |frame: &Vec<u8>| {
            let mut frame = frame.clone();
            if let Some(flags) = flags {
                // The checksum stays the same: the data path does not check it for `ipip`.
                frame[TCP_FLAGS] = flags;
            }
            let (run, trace) = self.dataplane.run_traced(&frame).unwrap();
            assert_eq!(run.verdict, 3, "{trace:?}");
            trace.member
        };
        self.flows.iter().map(one).collect()
    }

    fn send_syn(&self) -> Vec<u16> {
        self.send(None)
    }

    fn send_ack(&self) -> Vec<u16> {
        self.send(Some(ACK))
    }

    fn member(&mut self, backend: &str) -> u16 {
        member_index(&mut self.controller, backend).unwrap()
    }

    fn set_health(&mut self, vip: &str, backend: &str, healthy: bool) -> Summary {
        let update = HealthUpdate {
            member: MemberRef::new(vip, backend),
            healthy,
            ramp: Fraction::ALL,
        };
        let set = self.controller.set_healths(&mut self.dataplane, &[update]);
        set.unwrap()
    }

    fn clean_slots(&mut self) -> u32 {
        self.controller.report()[0].counts.clean
    }

    fn tick(&mut self, later_s: u64) -> lb_daemon::reconciler::Tick {
        let now_s = self.dataplane.now_s().unwrap() + later_s;
        self.controller.tick(&mut self.dataplane, now_s).unwrap()
    }
}

pub(crate) const THREE: &[(u8, u32, &str)] = &[(1, 100, "up"), (2, 100, "up"), (3, 100, "up")];

#[test]
fn changes_move_no_established_and_few_new_flows() {
    let mut node = Node::new(&config(THREE));
    let before = node.send_syn();
    assert_eq!(node.dataplane.tracking.count(), 0);
    let changes: [&[(u8, u32, &str)]; 4] = [
        &[
            (1, 100, "up"),
            (2, 100, "up"),
            (3, 100, "up"),
            (4, 100, "up"),
        ],
        &[
            (1, 100, "up"),
            (2, 30, "up"),
            (3, 100, "up"),
            (4, 100, "up"),
        ],
        &[
            (1, 100, "drain"),
            (2, 30, "up"),
            (3, 100, "up"),
            (4, 100, "up"),
        ],
        &[(1, 100, "drain"), (3, 100, "up"), (4, 100, "up")],
    ];
    for backends in changes {
        let moved = node.apply(&config(backends));
        assert!(moved > 0 && moved < 4093 / 2, "{moved}");
        assert_eq!(node.send_ack(), before, "after {backends:?}");
    }
    // New flows follow the ring: only those of moved slots have another member.
    let fresh = Node::new(&config(THREE));
    let mut changed = Node::new(&config(THREE));
    let moved = changed.apply(&config(changes[0]));
    let (old, new) = (fresh.send_syn(), changed.send_syn());
    let elsewhere = old.iter().zip(&new).filter(|(a, b)| a != b).count();
    let added = changed.member("b4");
    assert!(new.contains(&added));
    let expected = 1500.0 * f64::from(moved) / 4093.0;
    assert!(
        (elsewhere as f64 - expected).abs() < 5.0 * expected.sqrt(),
        "{elsewhere} {expected}"
    );
}

#[test]
fn a_down_member_gets_nothing_and_its_return_breaks_nothing() {
    let mut node = Node::new(&config(THREE));
    let before = node.send_syn();
    let down = node.member("b2");
    let summary = node.set_health("v", "b2", false);
    assert!(summary.slots_moved > 0);
    let state = node.dataplane.members.read(down).unwrap().control;
    assert_eq!(control::state(state), control::DOWN);
    let during = node.send_ack();
    for (before, during) in before.iter().zip(&during) {
        assert!(*during != down && (before == during || *before == down));
    }
    let opened = node.send_syn();
    node.set_health("v", "b2", true);
    assert_eq!(node.send_ack(), opened, "flows opened meanwhile stay");
    let mut others = Flows::new(&config(THREE).vips, 4);
    node.flows = (0..100).map(|_| others.next_frame().unwrap()).collect();
    assert!(
        node.send_syn().contains(&down),
        "flows opened now come to it"
    );
    let unknown = node.set_health("v", "b9", true);
    assert_eq!(unknown, Summary::default(), "there is none");
}

/// A backend that goes down leaves the ring fast because little work is needed: one ring is built, one image
/// is used, and there is no wait for a grace period while spare images are left.
#[test]
fn a_health_change_builds_only_the_affected_ring() {
    let one = |number: u8| {
        format!(
            "[[vip]]\nname = \"v{number}\"\naddress = \"203.0.113.{number}\"\nport = 80\n\
             protocol = \"tcp\"\nforward = \"ipip\"\nring_size = 4093\n\
             [[vip.backend]]\nname = \"a\"\naddress = \"10.0.0.1\"\n\
             [[vip.backend]]\nname = \"b\"\naddress = \"10.0.0.2\"\n"
        )
    };
    let text: String = (1..=12).map(one).collect();
    let text = format!(
        "[node]\ninterfaces = [\"lo\"]\nhash_seed = \"000102030405060708090a0b0c0d0e0f\"\n{text}"
    );
    let config = config::parse("test.toml", &text).unwrap();
    let mut node = Node::new(&config);
    node.dataplane.rings.reserve(SPARE_IMAGES).unwrap();
    let (built, images) = (node.controller.ring_builds().0, node.dataplane.rings.len());
    for round in 0..SPARE_IMAGES as u64 {
        let healthy = round % 2 == 1;
        assert_eq!(node.set_health("v7", "b", healthy).rings_changed, 1);
        assert_eq!(node.controller.ring_builds().0, built + round + 1);
        assert_eq!(
            node.dataplane.rings.spare(),
            SPARE_IMAGES - 1 - round as usize
        );
    }
    assert_eq!(node.dataplane.rings.len(), images, "none had to be made");
}

/// A flow without an entry keeps its member until its transition ends.
#[test]
fn transitions_last_longer_while_the_table_is_full() {
    let config = config(THREE);
    let options = LoadOptions {
        track_buckets: 1,
        ..options(&config)
    };
    let mut node = Node::with(&config, &options);
    let before = node.send_syn();
    let two: &[(u8, u32, &str)] = &[(1, 100, "up"), (2, 0, "up"), (3, 100, "up")];
    node.apply(&self::config(two));
    assert_eq!(node.tick(0).slots_settled, 0);
    assert_eq!(node.send_ack(), before, "most have no entry");
    assert_eq!(node.tick(500).slots_settled, 0);
    assert_eq!(node.tick(950).slots_settled, 0, "the time to live is over");
    assert_eq!(node.send_ack(), before);
    // For another time to live, no flow is refused an entry (none sends a packet).
    assert_eq!(node.tick(951).slots_settled, 0);
    assert_eq!(node.tick(1800).slots_settled, 0, "refused at 951");
    assert!(node.tick(1900).slots_settled > 0);
    // And not for ever.
    node.apply(&self::config(THREE));
    for later_s in [2000, 2500, 3000, 3500, 4000] {
        node.send_ack();
        let settled = node.tick(later_s).slots_settled;
        assert_eq!(settled > 0, later_s > 3600, "{later_s}");
    }
}

/// Its flows are in the table anyway, so its slots settle without being looked at every second; without
/// flows they are clean within 32 seconds.
#[test]
fn the_ring_of_a_vip_that_always_tracks_becomes_clean() {
    let always = |backends: &[(u8, u32, &str)]| {
        config_with(
            "ring_size = 4093\nforward = \"ipip\"\ntrack = \"always\"",
            backends,
        )
    };
    let mut node = Node::new(&always(THREE));
    node.apply(&always(&[(1, 100, "up"), (3, 100, "up")]));
    assert!(node.tick(1000).slots_settled > 0);
    let cleaned: u32 = (1001..1033).map(|at_s| node.tick(at_s).slots_cleaned).sum();
    assert!(cleaned > 0);
    assert_eq!(node.clean_slots(), 4093);
}

#[test]
fn reuses_a_member_index_only_when_unreferenced() {
    let mut node = Node::new(&config(THREE));
    node.send_syn();
    let gone = node.member("b2");
    let two: &[(u8, u32, &str)] = &[(1, 100, "up"), (3, 100, "up")];
    node.apply(&config(two));
    node.send_ack();
    for later_s in 0..5 {
        assert_eq!(node.tick(later_s).members_gone, 0, "it has flows");
    }
    // The transition ends, and the flows are idle for an hour.
    assert!(node.tick(1000).slots_settled > 0);
    assert_eq!(
        node.tick(1001).members_gone,
        0,
        "flows are still in the table"
    );
    let tick = node.tick(5000);
    assert!(tick.flows_expired > 0 && tick.slots_cleaned > 0, "{tick:?}");
    assert_eq!(node.tick(5001).members_gone, 1);
    assert_eq!(
        control::state(node.dataplane.members.read(gone).unwrap().control),
        control::ABSENT
    );
    assert_eq!(node.clean_slots(), 4093);
    // Repeated until the index is reused, with another generation.
    let before = control::generation(node.dataplane.members.read(gone).unwrap().control);
    let index = (4..20).find_map(|number| {
        node.apply(&config(&[
            (1, 100, "up"),
            (3, 100, "up"),
            (number, 0, "up"),
        ]));
        let index = node.member(&format!("b{number}"));
        (index == gone).then_some(index)
    });
    if let Some(index) = index {
        let after = control::generation(node.dataplane.members.read(index).unwrap().control);
        assert_ne!(after, before);
    }
}

/// Words of the ring images, members, services.
pub(crate) type Snapshot = (BTreeMap<u16, Vec<u64>>, BTreeMap<u16, Member>, Vec<String>);

/// Returns all tables that affect packets.
pub(crate) fn snapshot(dataplane: &Dataplane) -> Snapshot {
    let rings = dataplane.vips.rings();
    let rings = rings.map(|(vip, ring)| (vip, dataplane.rings.words(ring.image).unwrap()));
    let mut services: Vec<_> = dataplane
        .services
        .iter()
        .map(|entry| format!("{entry:?}"))
        .collect();
    services.sort();
    (
        rings.collect(),
        dataplane.members.present().collect(),
        services,
    )
}

#[test]
fn a_rejected_configuration_changes_nothing() {
    let mut node = Node::new(&config(THREE));
    let before = snapshot(&node.dataplane);
    let mut wrong = config(THREE);
    wrong.node.track_flows = 16;
    let error = node
        .controller
        .apply(&mut node.dataplane, &wrong)
        .unwrap_err();
    assert!(error.to_string().contains("track_flows"), "{error}");
    assert_eq!(node.apply(&config(THREE)), 0);
    assert_eq!(snapshot(&node.dataplane), before);
}

/// A change with more services than fit behind one place of the table fails half-way.
#[test]
fn rolls_back_a_change_that_fails_half_way() {
    let mut node = Node::new(&config(THREE));
    let established = node.send_syn();
    let before = snapshot(&node.dataplane);
    let mut crowd = config(&[(1, 100, "up"), (2, 10, "up"), (4, 100, "up")]);
    let template = crowd.vips[0].clone();
    let services = (0..=255u8).flat_map(|host| (1..=60_000u16).map(move |port| (host, port)));
    let crowded = services.filter(|(host, port)| {
        let address = address_of([192, 0, 2, *host].into()).0;
        VipKey::new(&address, family::V4, proto::TCP, port.to_be()).home() == 99
    });
    for (host, port) in crowded.take(MAX_PROBES as usize + 1) {
        let mut vip = template.clone();
        vip.name = format!("{host}:{port}");
        (vip.address, vip.port) = ([192, 0, 2, host].into(), port);
        crowd.vips.push(vip);
    }
    let error = node
        .controller
        .apply(&mut node.dataplane, &crowd)
        .unwrap_err();
    assert!(error.to_string().contains("VIP_TABLE"), "{error}");
    assert_eq!(snapshot(&node.dataplane), before);
    assert_eq!(node.send_ack(), established);
    crowd.vips.truncate(3);
    assert!(node.apply(&crowd) > 0, "a valid change works afterwards");
    assert_eq!(node.send_ack(), established);
}

#[test]
fn removes_a_vip_with_its_flows() {
    let mut node = Node::new(&config(THREE));
    node.send_syn();
    node.apply(&config(&THREE[..2]));
    node.send_ack();
    assert!(node.dataplane.tracking.count() > 0);
    let mut none = config(THREE);
    none.vips.clear();
    node.apply(&none);
    assert_eq!(
        snapshot(&node.dataplane),
        (BTreeMap::new(), BTreeMap::new(), Vec::new())
    );
    assert_eq!(node.dataplane.tracking.count(), 0);
    let (run, _) = node.dataplane.run_traced(&node.flows[0]).unwrap();
    assert_eq!(run.verdict, 2, "passed");
}

#[test]
fn replaces_a_vip_without_a_gap() {
    let mut node = Node::new(&config(THREE));
    let before = node.send_syn().len();
    for vip in [
        "ring_size = 251\nforward = \"ipip\"",
        "ring_size = 251\nforward = \"ipip\"\naffinity = \"source\"",
        "ring_size = 4093\nforward = \"l2\"",
    ] {
        node.apply(&config_with(vip, THREE));
        assert_eq!(node.send_syn().len(), before, "{vip}");
    }
    let (run, trace) = node.dataplane.run_traced(&node.flows[0]).unwrap();
    assert_eq!(
        (run.frame.len(), trace.decision),
        (node.flows[0].len(), decision::RING)
    );
}

#[test]
fn applies_a_plan_only_to_the_state_it_was_made_for() {
    let mut node = Node::new(&config(THREE));
    let two = config(&THREE[..2]);
    let now_s = node.dataplane.now_s().unwrap();
    let outdated = node.controller.plan(&two, now_s).unwrap();
    node.apply(&config(&[(1, 100, "up"), (2, 30, "up"), (3, 100, "up")]));
    let before = snapshot(&node.dataplane);
    let routes = node.controller.routes().clone();
    let error = node
        .controller
        .apply_planned(&mut node.dataplane, outdated, routes.clone())
        .unwrap_err();
    assert!(matches!(error, ReconcilerError::Outdated), "{error}");
    assert_eq!(snapshot(&node.dataplane), before);

    let planned = node.controller.plan(&two, now_s).unwrap();
    let preview = planned.preview(&ServiceId::of(&two.vips[0])).unwrap();
    let (moved, after) = (preview.slots_moved, preview.after.clone().unwrap());
    let summary = node
        .controller
        .apply_planned(&mut node.dataplane, planned, routes)
        .unwrap();
    assert_eq!((summary.slots_moved, summary.members_leaving), (moved, 1));
    assert_eq!(after.members.len(), 2);
}
