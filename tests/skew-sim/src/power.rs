//! A member at a multiple of its share: how long until each rule says so.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use serde::Serialize;

use super::{
    random::Random,
    rules::{Rule, RuleKind},
    scenario::Scenario,
    world::{Setting, World},
};

/// One line of the result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Name of the rule.
    pub rule: &'static str,
    /// Members of the VIP.
    pub members: usize,
    /// New flows a second of the VIP.
    pub flows_per_s: f64,
    /// What the member gets, over its share.
    pub times_its_share: f64,
    /// Seconds from the first misplaced flow until it is said; none when half the trials end without.
    pub median_s: Option<f64>,
    /// The same for 99 of 100 trials.
    pub p99_s: Option<f64>,
    /// Part of the trials that end without.
    pub missed: f64,
}

impl Line {
    /// Whether it is of a VIP whose members have few flows each.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        SLOW_VIPS.contains(&(self.members, self.flows_per_s))
    }
}

/// A fault of a VIP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    /// Members of the VIP.
    pub members: usize,
    /// New flows a second of the VIP.
    pub flows_per_s: f64,
    /// What one member gets, over its share.
    pub times: f64,
}

/// Seconds of good traffic before.
const BEFORE_S: usize = 400;

/// Sizes of the skew.
pub const TIMES: [f64; 6] = [0.0, 0.5, 1.2, 1.5, 2.0, 5.0];

/// Members and rates: those at which a member has five new flows a second or more, and the slow ones of small VIPs.
pub const VIPS: [(usize, f64); 17] = [
    (2, 1.0 / 6.0),
    (4, 1.0 / 6.0),
    (4, 1.0),
    (2, 10.0),
    (4, 10.0),
    (2, 100.0),
    (4, 100.0),
    (10, 100.0),
    (20, 100.0),
    (4, 1000.0),
    (10, 1000.0),
    (100, 1000.0),
    (4, 10_000.0),
    (100, 10_000.0),
    (1000, 10_000.0),
    (4, 1_000_000.0),
    (1000, 1_000_000.0),
];

/// VIPs with less than five new flows a second and member, at rates that sound like more.
pub const SLOW_VIPS: [(usize, f64); 3] = [(50, 100.0), (100, 100.0), (1000, 1000.0)];

/// All faults that are tried with these VIPs.
#[must_use]
pub fn cells(vips: &[(usize, f64)]) -> Vec<Cell> {
    let cell = |(members, flows_per_s): (usize, f64), times| Cell {
        members,
        flows_per_s,
        times,
    };
    let possible = |cell: &Cell| cell.times <= cell.members as f64;
    vips.iter()
        .flat_map(|&vip| TIMES.iter().map(move |&times| cell(vip, times)))
        .filter(possible)
        .collect()
}

/// Seconds after which a fault counts as missed: ten minutes, and at few flows longer.
fn patience_s(cell: &Cell) -> usize {
    let per_member = cell.flows_per_s / cell.members as f64;
    if per_member < 10.0 { 7200 } else { 600 }
}

/// One fault, watched by these rules: after how many seconds each said so.
fn live(cell: &Cell, kinds: &[RuleKind], seed: u64) -> Vec<Option<f64>> {
    let setting = Setting {
        scenario: Scenario::Poisson,
        members: cell.members,
        flows_per_s: cell.flows_per_s,
    };
    let mut world = World::new(setting, seed);
    let mut rules: Vec<Rule> = kinds
        .iter()
        .map(|&kind| Rule::new(kind, world.facts()))
        .collect();
    let mut random = Random::new(seed ^ 0x5eed);
    // The fault begins anywhere between two observations, and between two looks of the slower rules.
    let before = BEFORE_S + random.below(60);
    for _ in 0..before {
        world.advance();
        let seen = world.observation();
        for rule in &mut rules {
            rule.observe(&seen);
        }
    }
    let into = random.unit();
    world.advance_by(into);
    world.set_fault(Some((0, cell.times)));
    let onset_s = world.now_s;
    world.advance_by(1.0 - into);
    let mut said = vec![None; rules.len()];
    for _ in 0..patience_s(cell) {
        let seen = world.observation();
        for (rule, said) in rules.iter_mut().zip(&mut said) {
            if said.is_none() && rule.observe(&seen) > 0 {
                *said = Some(seen.at_s - onset_s);
            }
        }
        if said.iter().all(Option::is_some) {
            break;
        }
        world.advance();
    }
    said
}

fn line(cell: &Cell, kind: RuleKind, mut said: Vec<Option<f64>>) -> Line {
    let trials = said.len();
    let missed = said.iter().filter(|said| said.is_none()).count() as f64 / trials as f64;
    said.sort_by(|a, b| {
        a.unwrap_or(f64::INFINITY)
            .total_cmp(&b.unwrap_or(f64::INFINITY))
    });
    // The smallest value that so many of the trials do not exceed.
    let quantile = |part: f64| {
        let place = (part * trials as f64).ceil() as usize;
        said[place.clamp(1, trials) - 1].map(|seconds| (seconds * 10.0).round() / 10.0)
    };
    Line {
        rule: kind.name(),
        members: cell.members,
        flows_per_s: (cell.flows_per_s * 1000.0).round() / 1000.0,
        times_its_share: cell.times,
        median_s: quantile(0.5),
        p99_s: quantile(0.99),
        missed,
    }
}

/// Tries each fault so many times (a tenth of that where there are hundreds of members), on all processors.
///
/// # Panics
/// When a thread of the simulation panicked.
pub fn run(cells: &[Cell], kinds: &[RuleKind], trials: usize, seed: u64) -> Vec<Line> {
    let next = AtomicUsize::new(0);
    let lines = Mutex::new(Vec::new());
    let workers = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(cell) = cells.get(number) else { break };
                    let trials = if cell.members > 100 {
                        trials.div_ceil(5)
                    } else {
                        trials
                    };
                    let mut said = vec![Vec::new(); kinds.len()];
                    for trial in 0..trials {
                        let seed = seed.wrapping_add((number * 1_000_003 + trial) as u64);
                        for (said, one) in said.iter_mut().zip(live(cell, kinds, seed)) {
                            said.push(one);
                        }
                    }
                    let mut lines = lines.lock().expect("no thread panicked");
                    for (kind, said) in kinds.iter().zip(said) {
                        lines.push((number, line(cell, *kind, said)));
                    }
                }
            });
        }
    });
    let mut lines = lines.into_inner().expect("no thread panicked");
    lines.sort_by_key(|(number, _)| *number);
    lines.into_iter().map(|(_, line)| line).collect()
}
