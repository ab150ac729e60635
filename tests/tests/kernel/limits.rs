//! Limits and their lists of prefixes: written, changed, adopted, restored after faults, and exact for every
//! packet meanwhile.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use lab::packet::{Frame, Ip, SYN, tcp};
use lb_common::{limit::Limit, reason::REASONS, vip::Vip};
use lb_daemon::{
    fault::Faults,
    reconciler::{Reconciler, ReconcilerError, Summary},
};
use lb_dataplane::{Dataplane, ListedPrefixes, Pins};
use lb_model::config::{self, Config};

use crate::{
    host::{Bpffs, in_network_namespace},
    reconciler::{options, routes},
};

/// A time at which the clock of limits stands still.
const NOW_NS: u64 = 1 << 50;

/// VIPs by the last byte of their address, with their `limit`.
fn config(vips: &[(u8, &str)]) -> Config {
    let mut text = String::from(
        "[node]\ninterfaces = [\"lo\"]\nhash_seed = \"000102030405060708090a0b0c0d0e0f\"\n\
         track_flows = 8192\nnat_sessions = 1024\n",
    );
    for (number, limit) in vips {
        text += &format!(
            "[[vip]]\nname = \"v{number}\"\naddress = \"203.0.113.{number}\"\nport = 80\n\
             protocol = \"tcp\"\nforward = \"ipip\"\nring_size = 251\nlimit = {{ {limit} }}\n\
             [[vip.backend]]\nname = \"b\"\naddress = \"10.0.0.1\"\n"
        );
    }
    config::parse("test.toml", &text).unwrap_or_else(|errors| panic!("{errors}"))
}

/// One packet of each source, and these lists.
fn strict(lists: &str) -> String {
    format!("source = {{ packets = 1 }}, {lists}")
}

struct Node {
    dataplane: Dataplane,
    controller: Reconciler,
}

/// What packets meet: entries of VIPs and limits, and the prefixes.
type Tables = (BTreeMap<u16, (Vip, Limit)>, ListedPrefixes);

impl Node {
    fn new(pins: &Pins, config: &Config) -> Self {
        let (mut dataplane, _) = Dataplane::open(&options(config), pins).unwrap();
        dataplane.set_clock(NOW_NS).unwrap();
        let routes = routes(&mut dataplane);
        let mut controller = Reconciler::fresh();
        controller
            .apply_with_routes(&mut dataplane, config, routes)
            .unwrap();
        Self {
            dataplane,
            controller,
        }
    }

    /// The next controller, which has applied nothing.
    fn adopt(pins: &Pins, config: &Config) -> Self {
        let (mut dataplane, _) = Dataplane::open(&options(config), pins).unwrap();
        dataplane.set_clock(NOW_NS).unwrap();
        let controller = Reconciler::adopt(&mut dataplane).unwrap();
        Self {
            dataplane,
            controller,
        }
    }

    fn apply(&mut self, config: &Config) -> Summary {
        let routes = routes(&mut self.dataplane);
        self.controller
            .apply_with_routes(&mut self.dataplane, config, routes)
            .unwrap()
    }

    fn tables(&self) -> Tables {
        let vips = self.dataplane.vips.rings().map(|(vip, _)| vip);
        let entries = vips.map(|vip| {
            let limit = self.dataplane.limits.read(vip).unwrap();
            let mut entry = self.dataplane.vips.read(vip).unwrap();
            // The image of a ring that was built again.
            entry.ring = 0;
            (vip, (entry, limit))
        });
        let listed = self.dataplane.limits.listed().clone();
        (entries.collect(), listed)
    }

    fn send(&self, vip: u8, source: &str) -> &'static str {
        send(&self.dataplane, vip, source)
    }

    /// What a second packet meets: nothing is left of the source's limit.
    fn send_two(&self, vip: u8, source: &str) -> &'static str {
        self.send(vip, source);
        self.send(vip, source)
    }
}

/// Sends a SYN to a VIP; returns the name of the reason.
fn send(dataplane: &Dataplane, vip: u8, source: &str) -> &'static str {
    let ip = Ip::new(source.parse().unwrap(), [203, 0, 113, vip].into());
    let frame = Frame::new(ip, tcp(4000, 80, SYN)).link([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 9]);
    let (_, trace) = dataplane.run_traced(&frame.bytes()).unwrap();
    REASONS[trace.reason as usize].name
}

const LIMITED: &str = "SOURCE_PACKET_LIMIT";

fn in_bpffs(test: impl FnOnce(&Pins) + Send) {
    in_network_namespace(|| {
        let bpffs = Bpffs::new();
        test(&bpffs.pins());
        Dataplane::unload(&bpffs.pins()).unwrap();
    });
}

#[test]
fn limits_follow_the_configuration() {
    in_bpffs(|pins| {
        let mut node = Node::new(pins, &config(&[(1, ""), (2, "")]));
        let none = node.tables();
        assert_eq!(node.send_two(1, "192.0.2.1"), "FORWARDED");
        node.apply(&config(&[(1, "source = { new_flows = 1 }"), (2, "")]));
        assert_eq!(node.send_two(1, "192.0.2.1"), "SOURCE_FLOW_LIMIT");
        assert_eq!(node.send_two(2, "192.0.2.1"), "FORWARDED");
        for (lists, [first, second]) in [
            ("exempt = [\"192.0.2.1\"]", ["FORWARDED", LIMITED]),
            ("exempt = [\"192.0.2.0/24\"]", ["FORWARDED", "FORWARDED"]),
            ("exempt = [\"192.0.2.2\"]", [LIMITED, "FORWARDED"]),
            ("deny = [\"192.0.2.1\"]", ["DENIED", LIMITED]),
            (
                "deny = [\"192.0.2.2\"], exempt = [\"192.0.2.0/24\"]",
                ["FORWARDED", "DENIED"],
            ),
            ("", [LIMITED, LIMITED]),
        ] {
            node.apply(&config(&[(1, &strict(lists)), (2, "")]));
            assert_eq!(node.send_two(1, "192.0.2.1"), first, "{lists}");
            assert_eq!(node.send_two(1, "192.0.2.2"), second, "{lists}");
            assert_eq!(node.send_two(2, "192.0.2.1"), "FORWARDED", "{lists}");
        }
        node.apply(&config(&[(1, ""), (2, "")]));
        assert_eq!(node.send_two(1, "192.0.2.1"), "FORWARDED");
        assert_eq!(node.tables(), none);
    });
}

/// What another process writes to the table of limits is found.
#[test]
fn the_drift_check_compares_limits() {
    in_bpffs(|pins| {
        let mut node = Node::new(pins, &config(&[(1, "new_flows = 50"), (2, "")]));
        let agrees = |node: &Node| {
            node.controller
                .check_entries(&node.dataplane)
                .unwrap()
                .agree()
        };
        assert!(agrees(&node));
        let none = node.dataplane.limits.read(1).unwrap();
        node.dataplane.limits.write(0, &none).unwrap();
        assert!(!agrees(&node));
        node.apply(&config(&[(2, "")]));
        assert!(agrees(&node));
    });
}

/// Prefixes that contain each other, of which each VIP denies or exempts others.
const BEFORE: [(u8, &str); 4] = [
    (1, "deny = [\"10.0.0.0/8\"]"),
    (2, "deny = [\"10.0.0.0/8\"], exempt = [\"10.1.0.0/16\"]"),
    (3, "exempt = [\"10.1.0.0/16\"]"),
    (4, "deny = [\"10.1.2.0/24\"], exempt = [\"0.0.0.0/0\"]"),
];
/// Lists appear, disappear, grow, shrink, and change their meaning.
const AFTER: [(u8, &str); 4] = [
    (1, "deny = [\"10.1.0.0/16\"], exempt = [\"10.0.0.0/8\"]"),
    (2, "exempt = [\"10.1.0.0/16\"]"),
    (3, "deny = [\"10.0.0.0/9\"], exempt = [\"10.1.2.0/24\"]"),
    (5, "deny = [\"10.1.2.3\"]"),
];
const SOURCES: [&str; 5] = ["10.1.2.3", "10.1.2.4", "10.1.3.1", "10.2.0.1", "192.0.2.1"];

fn strict_config(vips: &[(u8, &str)]) -> Config {
    let strict: Vec<_> = vips
        .iter()
        .map(|(vip, lists)| (*vip, strict(lists)))
        .collect();
    let vips: Vec<_> = strict
        .iter()
        .map(|(vip, limit)| (*vip, limit.as_str()))
        .collect();
    config(&vips)
}

/// What a source's second packet meets by definition; none without the VIP.
fn verdict(config: &Config, vip: u8, source: &str) -> Option<&'static str> {
    mixed_verdict(config, config, vip, source)
}

/// The same with the denied sources of one configuration and the exempt ones of another.
fn mixed_verdict(deny: &Config, exempt: &Config, vip: u8, source: &str) -> Option<&'static str> {
    let name = format!("v{vip}");
    let limit = |config: &Config| {
        let vip = config.vips.iter().find(|vip| vip.name == name)?;
        Some(vip.limit.clone())
    };
    let (deny, exempt) = (limit(deny)?, limit(exempt)?);
    let source = config::Prefix::containing(source.parse().unwrap(), u8::MAX);
    let is_in = |list: &[config::Prefix]| list.iter().any(|prefix| prefix.contains(&source));
    Some(if is_in(&deny.deny_prefixes) {
        "DENIED"
    } else if is_in(&exempt.exempt_prefixes) {
        "FORWARDED"
    } else {
        LIMITED
    })
}

fn pairs() -> impl Iterator<Item = (u8, &'static str)> {
    (1..=5).flat_map(|vip| SOURCES.map(|source| (vip, source)))
}

#[track_caller]
fn assert_verdicts(node: &Node, config: &Config, when: &str) {
    for (vip, source) in pairs() {
        let expected = verdict(config, vip, source);
        let Some(expected) = expected else { continue };
        assert_eq!(
            node.send_two(vip, source),
            expected,
            "{when}: {source} to v{vip}"
        );
    }
}

/// Adopted limits and lists stay as they are when the next controller applies what is there.
#[test]
fn a_restart_changes_no_limit() {
    in_bpffs(|pins| {
        let [before, after] = [strict_config(&BEFORE), strict_config(&AFTER)];
        let node = Node::new(pins, &before);
        let tables = node.tables();
        drop(node);
        for restart in 0..3 {
            let mut node = Node::adopt(pins, &before);
            assert_eq!(node.tables(), tables, "adopted {restart}");
            assert_verdicts(&node, &before, "adopted");
            assert_eq!(node.apply(&before), Summary::default());
            assert_eq!(node.tables(), tables, "applied {restart}");
        }
        // Another configuration at once.
        let mut node = Node::adopt(pins, &before);
        node.apply(&after);
        assert_verdicts(&node, &after, "changed");
        node.apply(&before);
        assert_verdicts(&node, &before, "changed back");
        assert_eq!(node.tables().1.len(), tables.1.len());
    });
}

/// As many lists as may be: they are recognised after a restart, and all can be changed at once.
#[test]
fn a_restart_keeps_room_for_lists() {
    const LISTS: u8 = 32;
    let with_lists = |deny: fn(u8) -> String| {
        let limit = |vip| (vip, strict(&format!("deny = [{}]", deny(vip))));
        let limits: Vec<_> = (1..=LISTS).map(limit).collect();
        let vips: Vec<_> = limits.iter().map(|(vip, limit)| (*vip, &**limit)).collect();
        config(&vips)
    };
    let before = with_lists(|vip| format!("\"10.{vip}.0.0/16\", \"10.0.{vip}.0/24\""));
    let after = with_lists(|vip| format!("\"10.{vip}.0.0/16\""));
    in_bpffs(|pins| {
        let node = Node::new(pins, &before);
        let tables = node.tables();
        drop(node);
        let mut node = Node::adopt(pins, &before);
        node.apply(&before);
        assert_eq!(node.tables(), tables);
        for vip in 1..=LISTS {
            assert_eq!(node.send(vip, &format!("10.{vip}.2.3")), "DENIED", "{vip}");
            assert_eq!(node.send(vip, &format!("10.0.{vip}.3")), "DENIED", "{vip}");
            assert_eq!(node.send(vip, "10.41.2.3"), "FORWARDED", "{vip}");
        }
        node.apply(&after);
        for vip in 1..=LISTS {
            assert_eq!(node.send(vip, &format!("10.{vip}.2.4")), "DENIED", "{vip}");
            assert_eq!(
                node.send(vip, &format!("10.0.{vip}.4")),
                "FORWARDED",
                "{vip}"
            );
        }
    });
}

fn points(node: &mut Node, to: &Config) -> Vec<String> {
    let count = Faults::none();
    node.apply(to);
    count.passed()
}

#[test]
fn every_fault_restores_limits() {
    in_bpffs(|pins| {
        let [before, after] = [strict_config(&BEFORE), strict_config(&AFTER)];
        let mut node = Node::new(pins, &before);
        let passed = points(&mut node, &after);
        for name in [
            "map: add prefixes",
            "map: write limits",
            "map: remove prefixes",
        ] {
            assert!(passed.iter().any(|point| point == name), "{passed:?}");
        }
        node.apply(&before);
        let tables = node.tables();
        for point in 1..=passed.len() as u64 {
            let fault = Faults::fail_at(point);
            let routes = node.controller.routes().clone();
            let error = node
                .controller
                .apply_with_routes(&mut node.dataplane, &after, routes)
                .unwrap_err();
            assert!(matches!(error, ReconcilerError::Fault(_)), "{error}");
            drop(fault);
            let when = format!("after a fault at point {point}");
            assert_eq!(node.tables(), tables, "{when}");
            assert_verdicts(&node, &before, &when);
        }
        node.apply(&after);
        assert_verdicts(&node, &after, "applied");
    });
}

/// Wherever the controller dies, every VIP has its old limits or its new ones, and the next controller applies
/// what it is given.
#[test]
fn every_crash_leaves_the_old_or_the_new_limits() {
    in_bpffs(|pins| {
        let [before, after] = [strict_config(&BEFORE), strict_config(&AFTER)];
        let mut node = Node::new(pins, &before);
        let passed = points(&mut node, &after);
        let wanted = node.tables().1;
        for point in 1..=passed.len() as u64 {
            node.apply(&before);
            let fault = Faults::crash_at(point);
            let routes = node.controller.routes().clone();
            node.controller
                .apply_with_routes(&mut node.dataplane, &after, routes)
                .unwrap_err();
            drop(fault);
            for (vip, source) in pairs() {
                // Each word of a VIP is the old or the new one: its lists, and whether it denies.
                let mixed = [
                    (&before, &after),
                    (&after, &before),
                    (&before, &before),
                    (&after, &after),
                ];
                let possible = mixed.map(|(deny, exempt)| mixed_verdict(deny, exempt, vip, source));
                if possible != [None; 4] {
                    let found = node.send_two(vip, source);
                    let found = Some(found).filter(|found| !found.starts_with("NO_"));
                    let when =
                        format!("{source} to v{vip}, dead at {}", passed[point as usize - 1]);
                    assert!(possible.contains(&found), "{found:?}: {when}");
                }
            }
            drop(node);
            node = Node::adopt(pins, &before);
            node.apply(&after);
            assert_verdicts(&node, &after, "restarted");
            assert!(node.tables().1.keys().eq(wanted.keys()), "point {point}");
        }
    });
}

/// Packets of other threads, while one VIP's list changes and the others don't.
#[test]
fn a_list_changes_under_packets_of_other_vips() {
    const ROUNDS: usize = 30;
    const PACKETS: usize = 5000;
    in_bpffs(|pins| {
        let configs = [
            strict_config(&BEFORE),
            strict_config(&[BEFORE[0], BEFORE[1], AFTER[2], BEFORE[3]]),
            strict_config(&[
                BEFORE[0],
                BEFORE[1],
                (3, "deny = [\"0.0.0.0/0\"]"),
                BEFORE[3],
            ]),
            strict_config(&[
                BEFORE[0],
                BEFORE[1],
                (3, "deny = [\"10.1.2.0/23\"]"),
                BEFORE[3],
            ]),
        ];
        let mut node = Node::new(pins, &configs[0]);
        assert_verdicts(&node, &configs[0], "at first");
        let (second, _) = Dataplane::open(&options(&configs[0]), pins).unwrap();
        let (stop, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
        let mut round = 0;
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for (vip, source) in pairs().filter(|(vip, _)| [1, 2, 4].contains(vip)) {
                        let expected = verdict(&configs[0], vip, source).unwrap();
                        assert_eq!(send(&second, vip, source), expected, "{source} to v{vip}");
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            let changed = catch_unwind(AssertUnwindSafe(|| {
                let is_enough = || sent.load(Ordering::Relaxed) > PACKETS;
                while (round < ROUNDS || !is_enough()) && !sender.is_finished() {
                    round += 1;
                    node.apply(&configs[round % configs.len()]);
                }
            }));
            stop.store(true, Ordering::Relaxed);
            sender.join().unwrap();
            changed.unwrap_or_else(|panic| resume_unwind(panic));
        });
        assert_verdicts(&node, &configs[round % configs.len()], "at last");
    });
}

/// A burst that was used up at the old rate does not block the VIP at the new one.
#[test]
fn a_changed_rate_begins_with_a_full_burst() {
    in_bpffs(|pins| {
        let limit = "new_flows = 1, new_flows_burst = 100";
        let mut node = Node::new(pins, &config(&[(1, limit)]));
        let send = |node: &Node| {
            let sent = (0..200).map(|_| node.send(1, "192.0.2.1"));
            sent.filter(|reason| *reason == "FORWARDED").count()
        };
        assert_eq!(send(&node), 100);
        node.apply(&config(&[(
            1,
            &format!("{limit}, exempt = [\"192.0.2.9\"]"),
        )]));
        assert_eq!(send(&node), 0, "another key changed");
        node.apply(&config(&[(1, "new_flows = 1, new_flows_burst = 10")]));
        assert_eq!(send(&node), 10);
    });
}

/// A VIP that takes the index of another begins with nothing.
#[test]
fn a_reused_index_has_no_limit_left() {
    in_bpffs(|pins| {
        let used_up = "new_flows = 1, new_flows_burst = 100, packets = 1, packets_burst = 100, \
                       deny = [\"192.0.2.9\"], on_excess = \"count\"";
        let node = Node::new(pins, &config(&[(1, ""), (2, used_up)]));
        for _ in 0..200 {
            node.send(2, "192.0.2.1");
        }
        assert_eq!(node.send(2, "192.0.2.9"), "DENIED");
        let counters = node.dataplane.limits.counters(1).unwrap();
        assert_eq!((counters.vip_packets, counters.denied), (100, 1));
        drop(node);
        let mut node = Node::adopt(pins, &config(&[(1, "")]));
        node.apply(&config(&[(1, "")]));
        drop(node);
        // The next controller gives the first index after the highest in use.
        for (limit, reason) in [
            ("", "FORWARDED"),
            ("new_flows = 1", "VIP_FLOW_LIMIT"),
            ("packets = 1", "VIP_PACKET_LIMIT"),
        ] {
            let mut node = Node::adopt(pins, &config(&[(1, "")]));
            node.apply(&config(&[(1, ""), (3, limit)]));
            assert_eq!(node.dataplane.vips.rings().last().unwrap().0, 1);
            let none = node.dataplane.limits.counters(1).unwrap();
            assert_eq!(none, bytemuck::Zeroable::zeroed(), "{limit}");
            assert_eq!(node.send(3, "192.0.2.1"), "FORWARDED", "{limit}");
            assert_eq!(node.send(3, "192.0.2.9"), reason, "{limit}");
            node.apply(&config(&[(1, "")]));
        }
    });
}
