//! What is kept of sources, in a model of the data path: flows with known rates, sampled by hash.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use bytemuck::Zeroable as _;
use lb_common::{
    address_v4,
    counters::{MemberCounters, VipCounters},
    family,
    hash::is_sampled,
    proto,
    sample::{FlowKey, FlowSample},
};

use super::{
    super::{
        histories::Histories,
        samples::Sampled,
        sampling::{Demand, Sampling},
        sources::{Moment, SourceMonitor},
    },
    samples::{config, reports},
};
use crate::{
    reconciler::VipReport,
    traffic::{MemberSample, Sample, Traffic, VipSample},
};
use lb_model::{
    config::{self, Config, Limit},
    sources::{SeenSource, SourceHistory},
};

/// Packets of each flow: a SYN and some more, in two seconds.
const PACKETS: u64 = 6;

/// A node with one VIP.
struct Node {
    config: Config,
    reports: Vec<VipReport>,
    began: Instant,
    second: u32,
    random: u64,
    map: HashMap<[u64; 5], (FlowKey, FlowSample)>,
    counters: MemberCounters,
    traffic: Traffic,
    sampled: Sampled,
    sampling: Sampling,
    mask: u32,
    histories: Histories,
    monitor: SourceMonitor,
}

impl Node {
    fn new() -> Self {
        let config = config(1);
        let histories = Histories::default();
        Self {
            reports: reports(&config, 1),
            config,
            began: Instant::now(),
            second: 1000,
            random: 1,
            map: HashMap::new(),
            counters: MemberCounters::zeroed(),
            traffic: Traffic::new("test"),
            sampled: Sampled::default(),
            sampling: Sampling::default(),
            mask: 0,
            monitor: SourceMonitor::new(histories.clone()),
            histories,
        }
    }

    fn random(&mut self) -> u32 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.random >> 32) as u32
    }

    /// A second with so many new flows of each source.
    fn second(&mut self, flows: &[(u32, u32)]) {
        self.second += 1;
        let mask = self.mask;
        for (_, flow) in self.map.values_mut() {
            if flow.packets == PACKETS / 2 && is_sampled(flow.hash.into(), mask) {
                flow.packets = PACKETS;
                flow.last_s = self.second;
            }
        }
        let second = self.second;
        self.map.retain(|_, (_, flow)| flow.first_s + 8 > second);
        let mut begun = 0;
        for (source, count) in flows {
            for _ in 0..*count {
                let hash = self.random();
                if is_sampled(hash.into(), mask) {
                    let (key, flow) = opened(*source, hash, second);
                    self.map.insert(bytemuck::cast(key), (key, flow));
                    begun += 1;
                }
            }
        }
        let all: u64 = flows.iter().map(|(_, count)| u64::from(*count)).sum();
        self.counters.new_flows += all;
        self.counters.packets += PACKETS * all;
        self.observe(begun, all);
    }

    /// What the controller does at a tick.
    fn observe(&mut self, begun: u32, new_flows: u64) {
        let elapsed = Duration::from_secs((self.second - 1000).into());
        self.traffic.observe(&Sample {
            at: self.began + elapsed,
            wall: "2026-11-22T19:30:00Z".parse().unwrap(),
            members: vec![MemberSample {
                vip: "v0",
                backend: "b0",
                index: 0,
                generation: 1,
                counters: self.counters,
                spills: None,
            }],
            vips: vec![VipSample {
                vip: "v0",
                index: 0,
                counters: VipCounters::zeroed(),
                limits: None,
                overfull: None,
            }],
        });
        let now = u64::from(self.second);
        let flows: Vec<_> = self.map.values().copied().collect();
        let vips = &self.config.vips;
        self.sampled
            .take(now, &flows, &self.reports, vips, &self.sampling);
        let moment = Moment {
            at_s: elapsed.as_secs_f64(),
            now,
        };
        let (deltas, all_begun) = (self.sampled.deltas(), self.sampled.all_begun());
        let node = (&self.config.vips[..], &self.reports[..]);
        self.monitor.take(
            moment,
            deltas,
            all_begun,
            node,
            &self.sampling,
            &self.traffic,
        );
        let demand = Demand {
            vip: 0,
            new_flows: new_flows as f64,
            packets: (PACKETS * new_flows) as f64,
            begun: begun.into(),
            search: false,
            mask: self.mask,
        };
        if let [(_, mask)] = self.sampling.adapt(now, &[demand], 0)[..] {
            self.mask = mask;
        }
    }

    fn history(&self) -> SourceHistory {
        self.histories.sources(&self.config.vips[0])
    }

    fn source(&self, source: u32) -> SeenSource {
        let sources = self.history().limited_sources(&Limit::default());
        let name = std::net::Ipv4Addr::from(source).to_string();
        let found = sources.into_iter().find(|source| source.name() == name);
        found.unwrap_or_else(|| panic!("{name} was not seen"))
    }
}

fn opened(source: u32, hash: u32, first_s: u32) -> (FlowKey, FlowSample) {
    let key = FlowKey {
        source: address_v4(source.to_be()),
        dest: address_v4(0xcb00_7100_u32.to_be()),
        source_be: hash as u16,
        dest_be: 80_u16.to_be(),
        protocol: proto::TCP,
        family: family::V4,
        _pad: (hash >> 16) as u16,
    };
    let sample = FlowSample {
        packets: PACKETS / 2,
        bytes: 300,
        first_s,
        last_s: first_s,
        syns: 1,
        resets: 0,
        member: 0,
        vip: 0,
        hash,
    };
    (key, sample)
}

fn is_near(value: f64, wanted: f64, factor: f64) -> bool {
    value < wanted * factor && value > wanted / factor
}

#[test]
fn rates_are_exact_while_all_flows_are_sampled() {
    let mut node = Node::new();
    for second in 0..=60 {
        let burst = if (21..=30).contains(&second) { 100 } else { 10 };
        node.second(&[(7, burst), (8, 5)]);
    }
    let history = node.history();
    assert_eq!(
        (history.minutes(), history.totals().0),
        (1, 60 * 15 + 10 * 90)
    );
    assert_eq!(history.peak().new_flows, 105.0);
    let (nat, other) = (node.source(7), node.source(8));
    assert_eq!((nat.peak.new_flows, nat.new_flows), (100.0, 1500.0));
    assert_eq!((other.peak.new_flows, other.new_flows), (5.0, 300.0));
    // Half of the packets of a flow come in the second after the first one.
    assert!(is_near(nat.peak.packets, 600.0, 1.06), "{nat:?}");
    assert!(!history.is_cut() && !history.is_overrun());
}

/// Sources of which a window has at least 20 sampled flows are known within a factor of 1.6.
#[test]
fn estimates_of_a_busy_vip_are_near() {
    let mut node = Node::new();
    let others: Vec<u32> = (100..2100).collect();
    for second in 0..300_usize {
        let mut flows = vec![(7, 900), (8, 60), (9, 2)];
        // 2,000 small sources with one flow per two seconds each.
        flows.extend(
            others[second % 2 * 1000..][..1000]
                .iter()
                .map(|source| (*source, 1)),
        );
        node.second(&flows);
    }
    assert_eq!(node.mask, 7);
    let history = node.history();
    assert!(is_near(history.peak().new_flows, 1962.0, 1.01));
    // The first seconds, in which nobody knew the rate, are not sampled better than the others.
    assert_eq!(history.sampled_one_in(), 8);
    let (nat, busy) = (node.source(7), node.source(8));
    assert!(is_near(nat.peak.new_flows, 900.0, 1.1), "{nat:?}");
    assert!(is_near(nat.peak.packets, 5400.0, 1.1), "{nat:?}");
    assert!(is_near(busy.peak.new_flows, 60.0, 1.6), "{busy:?}");
    assert!(is_near(busy.peak.packets, 360.0, 1.6), "{busy:?}");
    // The largest of thousands of estimates is no heavy source.
    let sources = history.limited_sources(&Limit::default());
    let small = sources
        .iter()
        .filter(|source| !["0.0.0.7", "0.0.0.8"].contains(&&*source.name()));
    let worst = small
        .map(|source| source.peak.new_flows)
        .fold(0.0, f64::max);
    assert!(worst < 8.0, "{worst}");
    assert!(history.is_cut());
}

#[test]
fn a_flood_is_seen_although_the_samples_are_few() {
    let mut node = Node::new();
    for second in 0..60 {
        let flood = if (35..45).contains(&second) {
            40_000
        } else {
            0
        };
        node.second(&[(7, 100), (66, flood)]);
    }
    let flood = node.source(66);
    assert!(is_near(flood.peak.new_flows, 25_000.0, 1.7), "{flood:?}");
    assert!(
        node.history().is_overrun(),
        "the first second had more than the budget"
    );
}

#[test]
fn a_renamed_vip_keeps_its_history_and_a_removed_one_does_not() {
    let mut node = Node::new();
    let tick = |node: &mut Node, seconds: u32| (0..seconds).for_each(|_| node.second(&[(7, 10)]));
    tick(&mut node, 30);
    let windows = node.history().totals().0;
    assert!(windows >= 200);
    let vip = node.config.vips[0].clone();
    node.config.vips[0].name = "other".into();
    node.reports[0].name = "other".into();
    tick(&mut node, 15);
    assert!(node.history().totals().0 >= windows);
    node.config.vips.clear();
    node.reports.clear();
    tick(&mut node, 15);
    assert!(node.histories.sources(&vip).is_empty());
}

#[test]
fn first_packets_of_udp_are_new_flows() {
    let (mut key, mut flow) = opened(7, 5, 1001);
    key.protocol = proto::UDP;
    flow.syns = 0;
    let config = config(1);
    let reports = reports(&config, 1);
    let (mut sampled, sampling) = (Sampled::default(), Sampling::default());
    let mut take = |now: u64, flow: FlowSample| -> Vec<super::super::sources::Delta> {
        let vips: &[config::Vip] = &config.vips;
        sampled.take(now, &[(key, flow)], &reports, vips, &sampling);
        sampled.deltas().to_vec()
    };
    assert!(take(1000, flow).is_empty(), "the first reading");
    let (mut again, before) = (flow, flow);
    again.first_s = 1002;
    let delta =
        |packets, is_new| super::super::sources::Delta::new(&key, &before, 0, packets, is_new);
    assert_eq!(take(1002, again), [delta(3, true)]);
    again.packets = 5;
    assert_eq!(take(1003, again), [delta(2, false)]);
    assert!(take(1004, again).is_empty());
}

#[test]
#[ignore = "a measurement: cargo test --release -- --ignored --nocapture"]
fn cost_of_sources_of_4096_samples() {
    let mut node = Node::new();
    let sampling = Sampling::default();
    let mut times = Vec::new();
    for second in 0..60_u32 {
        let flows: Vec<_> = (0..4096_u32)
            .map(|n| {
                let (key, mut flow) = opened(n, n, 1000);
                flow.packets = u64::from(second + 1) * 6;
                (key, flow)
            })
            .collect();
        let now = 1001 + u64::from(second);
        let vips = &node.config.vips;
        node.sampled
            .take(now, &flows, &node.reports, vips, &sampling);
        node.counters.packets += 4096 * 6;
        let moment = Moment {
            at_s: second.into(),
            now,
        };
        let begun = Instant::now();
        let vips = (&node.config.vips[..], &node.reports[..]);
        node.monitor.take(
            moment,
            node.sampled.deltas(),
            400,
            vips,
            &sampling,
            &node.traffic,
        );
        times.push(begun.elapsed());
    }
    let all: Duration = times.iter().sum();
    times.sort_unstable();
    println!("mean {:?}, worst {:?} a second", all / 60, times[59]);
}
