//! The new flows of backends that are kept for plans.

use std::time::{Duration, Instant};

use bytemuck::Zeroable as _;
use lb_common::counters::MemberCounters;
use lb_dataplane::Spills;

use super::{
    super::{flows::FlowMonitor, histories::Histories},
    samples::{config, reports},
};
use crate::{
    reconciler::VipReport,
    traffic::{MemberSample, Sample, Traffic},
};
use lb_model::{config::Config, flows::FlowHistory};

/// Two VIPs with two backends each.
struct Node {
    config: Config,
    reports: Vec<VipReport>,
    began: Instant,
    second: u32,
    counters: [MemberCounters; 4],
    spills: [Spills; 4],
    traffic: Traffic,
    histories: Histories,
    monitor: FlowMonitor,
}

impl Node {
    fn new() -> Self {
        let config = config(2);
        let histories = Histories::default();
        let mut node = Self {
            reports: reports(&config, 2),
            config,
            began: Instant::now(),
            second: 0,
            counters: [MemberCounters::zeroed(); 4],
            spills: Default::default(),
            traffic: Traffic::new("test"),
            monitor: FlowMonitor::new(histories.clone()),
            histories,
        };
        node.tick();
        node
    }

    fn tick(&mut self) {
        let members = self.reports.iter().flat_map(|vip| {
            let members = vip.members.iter();
            members.map(|member| MemberSample {
                vip: &vip.name,
                backend: &member.name,
                index: member.index,
                generation: member.generation,
                counters: self.counters[usize::from(member.index)],
                spills: Some(self.spills[usize::from(member.index)]),
            })
        });
        self.traffic.observe(&Sample {
            at: self.began + Duration::from_secs(self.second.into()),
            wall: "2026-11-22T19:30:00Z".parse().unwrap(),
            members: members.collect(),
            vips: Vec::new(),
        });
        // Ticks are not exact.
        let at_s = f64::from(self.second) + [0.0, 0.2][self.second as usize % 2];
        let vips = &self.config.vips;
        (self.monitor).take(at_s, vips, &self.reports, &self.traffic);
    }

    /// Seconds with so many new flows of the two backends of the first VIP.
    fn seconds(&mut self, seconds: u32, new_flows: [u64; 2]) {
        for _ in 0..seconds {
            self.second += 1;
            for (counters, new_flows) in self.counters.iter_mut().zip(new_flows) {
                counters.new_flows += new_flows;
            }
            self.tick();
        }
    }

    fn history(&self, vip: usize) -> FlowHistory {
        self.histories.flows(&self.config.vips[vip])
    }

    /// The steps of the first VIP: shares and new flows of the backends.
    fn steps(&self) -> Vec<(Vec<f64>, Vec<u32>)> {
        let mut steps = Vec::new();
        for segment in self.history(0).segments() {
            let members = segment.members().iter();
            let shares: Vec<f64> = members.map(|member| member.share).collect();
            segment.for_each(|seconds, new_flows| {
                assert!((seconds - 10.0).abs() < 0.5, "{seconds}");
                steps.push((shares.clone(), new_flows.to_vec()));
            });
        }
        steps
    }
}

#[test]
fn new_flows_are_counted_by_backend_in_steps_of_ten_seconds() {
    let mut node = Node::new();
    node.seconds(20, [3, 1]);
    node.seconds(15, [0, 0]);
    node.seconds(30, [1, 2]);
    let even = |new_flows: [u32; 2]| (vec![0.5, 0.5], new_flows.to_vec());
    let steps = [[30, 10], [30, 10], [5, 10], [10, 20], [10, 20]];
    assert_eq!(node.steps(), steps.map(even));
    assert_eq!(
        (node.history(0).minutes(), node.history(1).minutes()),
        (1, 1)
    );
    // Idle VIPs have no steps.
    assert_eq!(node.history(1).segments().count(), 0);
}

#[test]
fn spilled_flows_count_for_the_backend_that_spilled_them() {
    let mut node = Node::new();
    for _ in 0..10 {
        node.spills[0].spilled += 2;
        node.spills[1].received += 2;
        node.seconds(1, [5, 3]);
    }
    assert_eq!(node.steps(), [(vec![0.5, 0.5], vec![70, 10])]);
}

#[test]
fn a_step_in_which_shares_change_is_left_out() {
    let mut node = Node::new();
    node.seconds(14, [3, 1]);
    for (member, share) in node.reports[0].members.iter_mut().zip([0.25, 0.75]) {
        member.intended_share = share;
    }
    node.seconds(16, [1, 3]);
    let (before, after) = (vec![0.5, 0.5], vec![0.25, 0.75]);
    assert_eq!(
        node.steps(),
        [
            (before.clone(), vec![30, 10]),
            (after.clone(), vec![10, 30])
        ]
    );
    // A backend that leaves is no part of the ring; the other one has it all.
    node.reports[0].members[0].leaving = true;
    node.reports[0].members[1].intended_share = 1.0;
    node.seconds(20, [0, 4]);
    assert_eq!(node.steps()[2..], [(vec![1.0], vec![40])]);
    // Another name has another account, which begins at 0.
    node.reports[0].name = "renamed".into();
    node.config.vips[0].name = "renamed".into();
    node.seconds(20, [0, 4]);
    assert_eq!(node.steps()[3..], [(vec![1.0], vec![40])]);
}

#[test]
fn a_removed_vip_is_forgotten() {
    let mut node = Node::new();
    node.seconds(20, [3, 1]);
    assert_eq!(node.steps().len(), 2);
    let (vip, report) = (node.config.vips.remove(0), node.reports.remove(0));
    node.seconds(10, [3, 1]);
    assert_eq!(node.histories.flows(&vip), FlowHistory::default());
    node.config.vips.insert(0, vip);
    node.reports.insert(0, report);
    node.seconds(20, [3, 1]);
    assert_eq!(node.steps().len(), 1);
}
