//! A member at a multiple of its share: time to detection by each rule.

use serde::Serialize;

use super::{
    random::Random,
    rules::{Rule, RuleKind},
    scenario::Scenario,
    trials::{in_parallel, quantile, sort},
    world::{Setting, World},
};

/// One line of the result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Name of the rule.
    pub rule: &'static str,
    /// Members of the VIP.
    pub members: usize,
    /// New flows per second of the VIP.
    pub flows_per_s: f64,
    /// Multiple of its share that the member gets.
    pub times_its_share: f64,
    /// Seconds from the first misplaced flow until detection, median; none if half of the trials
    /// end without.
    pub median_s: Option<f64>,
    /// 99th percentile.
    pub p99_s: Option<f64>,
    /// Part of the trials that end without detection.
    pub missed: f64,
}

impl Line {
    /// Whether the members of the VIP have few flows each.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        SLOW_VIPS.contains(&(self.members, self.flows_per_s))
    }
}

/// A fault of a VIP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FaultCase {
    /// Members of the VIP.
    pub members: usize,
    /// New flows per second of the VIP.
    pub flows_per_s: f64,
    /// Multiple of its share that one member gets.
    pub times: f64,
}

/// Seconds without a fault before.
const BEFORE_S: usize = 400;

/// Multiples of the share.
pub const TIMES: [f64; 6] = [0.0, 0.5, 1.2, 1.5, 2.0, 5.0];

/// Members and new flows per second: at least five flows per second and member, or small VIPs with
/// few flows.
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

/// Large VIPs with less than five new flows per second and member.
pub const SLOW_VIPS: [(usize, f64); 3] = [(50, 100.0), (100, 100.0), (1000, 1000.0)];

/// All faults of these VIPs.
#[must_use]
pub fn cases(vips: &[(usize, f64)]) -> Vec<FaultCase> {
    let case = |(members, flows_per_s): (usize, f64), times| FaultCase {
        members,
        flows_per_s,
        times,
    };
    let possible = |case: &FaultCase| case.times <= case.members as f64;
    vips.iter()
        .flat_map(|&vip| TIMES.iter().map(move |&times| case(vip, times)))
        .filter(possible)
        .collect()
}

/// Seconds after which a fault counts as missed.
fn patience_s(case: &FaultCase) -> usize {
    let per_member = case.flows_per_s / case.members as f64;
    if per_member < 10.0 { 7200 } else { 600 }
}

/// Seconds until each rule detects one fault.
fn detection_times(case: &FaultCase, kinds: &[RuleKind], seed: u64) -> Vec<Option<f64>> {
    let setting = Setting {
        scenario: Scenario::Poisson,
        members: case.members,
        flows_per_s: case.flows_per_s,
    };
    let mut world = World::new(setting, seed);
    let mut rules: Vec<Rule> = kinds
        .iter()
        .map(|&kind| Rule::new(kind, world.facts()))
        .collect();
    let mut random = Random::new(seed ^ 0x5eed);
    // The fault starts at a random moment between two observations and two evaluations of the
    // slower rules.
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
    world.set_fault(Some((0, case.times)));
    let onset_s = world.now_s;
    world.advance_by(1.0 - into);
    let mut detected_s = vec![None; rules.len()];
    for _ in 0..patience_s(case) {
        let seen = world.observation();
        for (rule, detected_s) in rules.iter_mut().zip(&mut detected_s) {
            if detected_s.is_none() && rule.observe(&seen) > 0 {
                *detected_s = Some(seen.at_s - onset_s);
            }
        }
        if detected_s.iter().all(Option::is_some) {
            break;
        }
        world.advance();
    }
    detected_s
}

fn line(case: &FaultCase, kind: RuleKind, mut detected_s: Vec<Option<f64>>) -> Line {
    let missed = detected_s.iter().filter(|time_s| time_s.is_none()).count();
    sort(&mut detected_s);
    let rounded = |part| quantile(&detected_s, part).map(|time_s| (time_s * 10.0).round() / 10.0);
    Line {
        rule: kind.name(),
        members: case.members,
        flows_per_s: (case.flows_per_s * 1000.0).round() / 1000.0,
        times_its_share: case.times,
        median_s: rounded(0.5),
        p99_s: rounded(0.99),
        missed: missed as f64 / detected_s.len() as f64,
    }
}

/// Simulates each fault `trials` times (a fifth of that for more than 100 members), on all
/// processors.
///
/// # Panics
/// If a thread of the simulation panicked.
pub fn run(cases: &[FaultCase], kinds: &[RuleKind], trials: usize, seed: u64) -> Vec<Line> {
    let lines = in_parallel(cases, |number, case| {
        let trials = if case.members > 100 {
            trials.div_ceil(5)
        } else {
            trials
        };
        let mut detected_s = vec![Vec::new(); kinds.len()];
        for trial in 0..trials {
            let seed = seed.wrapping_add((number * 1_000_003 + trial) as u64);
            for (times, time) in detected_s
                .iter_mut()
                .zip(detection_times(case, kinds, seed))
            {
                times.push(time);
            }
        }
        let lines = kinds.iter().zip(detected_s);
        lines
            .map(|(kind, times)| line(case, *kind, times))
            .collect::<Vec<_>>()
    });
    lines.into_iter().flatten().collect()
}
