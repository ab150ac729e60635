//! The shares of all nodes together.

use std::time::{Duration, Instant};

use super::{
    super::*,
    samples::{config, reports},
};
use crate::{engine::VipTraffic, traffic::Traffic};

const MEMBERS: u16 = 4;

struct Fleet {
    monitor: ShareMonitor,
    config: Config,
    reports: Vec<VipReport>,
    store: Store,
    traffic: Traffic,
    _folder: tempfile::TempDir,
}

impl Fleet {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = config(1);
        Self {
            monitor: ShareMonitor::new(folder.path(), Histories::default()),
            reports: reports(&config, MEMBERS),
            config,
            store: Store::open(folder.path()).unwrap().0,
            traffic: Traffic::default(),
            _folder: folder,
        }
    }

    /// A second in which other nodes have these new flows each, by member. `own_ring`: whether their rings have
    /// the same shares. Returns the keys of the conditions.
    fn tick(&mut self, flows: &[[u64; 4]], own_ring: bool) -> Vec<String> {
        let monitor = &mut self.monitor;
        monitor.started -= Duration::from_secs(1);
        let report = &self.reports[0];
        monitor.observe(&self.config.vips[0], report, &self.traffic);
        let own = monitor.fleet_traffic(&self.config, &self.reports, |_, _| Some(0));
        for (node, flows) in ["b", "c", "d", "e"].iter().zip(flows) {
            let members = report.members.iter().zip(flows);
            let told = VipTraffic {
                ring: own[0].ring ^ u64::from(!own_ring),
                members: members
                    .map(|(member, flows)| (member.identity, [*flows; 2]))
                    .collect(),
                ..own[0].clone()
            };
            monitor.hear_traffic(node, &[told]);
        }
        monitor.judge_fleet("a", &self.config, &self.reports);
        let found = monitor.fleet_conditions(&self.store);
        found.into_iter().map(|condition| condition.key).collect()
    }
}

const SKEWED: [u64; 4] = [10, 2, 2, 2];
const FAIR: [u64; 4] = [4, 4, 4, 4];

fn is_skew(key: &str) -> bool {
    key.starts_with("fleet_skew:v0:")
}

#[test]
fn the_sum_shows_what_no_node_can_tell_alone() {
    let mut fleet = Fleet::new();
    for _ in 0..30 {
        assert!(!fleet.tick(&[FAIR; 3], true).iter().any(|key| is_skew(key)));
    }
    let seconds = (1..=60).find(|_| {
        fleet
            .tick(&[SKEWED; 3], true)
            .iter()
            .any(|key| is_skew(key))
    });
    let together = seconds.expect("the skew is found");
    // The same for one of the nodes takes longer.
    let mut alone = Fleet::new();
    for _ in 0..30 {
        alone.tick(&[FAIR], true);
    }
    let seconds = (1..=60).find(|_| alone.tick(&[SKEWED], true).iter().any(|key| is_skew(key)));
    println!("three nodes: {together} s; one: {seconds:?} s");
    assert!(seconds.is_none_or(|alone| alone > together));
}

#[test]
fn flows_of_other_rings_are_not_added() {
    let mut fleet = Fleet::new();
    for _ in 0..60 {
        let found = fleet.tick(&[SKEWED; 3], false);
        assert!(!found.iter().any(|key| is_skew(key)), "{found:?}");
    }
}

#[test]
fn a_node_that_is_silent_no_longer_counts() {
    let mut fleet = Fleet::new();
    // This node has no flows, and the others have all.
    let ecmp = |found: Vec<String>| found.contains(&"ecmp_skew:v0".to_owned());
    let mut heavy = || ecmp(fleet.tick(&[[100; 4], [100; 4]], true));
    assert!((0..10).map(|_| heavy()).filter(|is| *is).count() > 5);
    let start = Instant::now();
    let gone = (0..10).map(|_| ecmp(fleet.tick(&[], true))).last();
    assert_eq!(gone, Some(false), "{:?}", start.elapsed());
}
