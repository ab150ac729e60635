//! Time until a member that never replies is reported as a black hole.

use lb_skew::{Cause, Detector, Thresholds};

use super::{
    clients::Failure,
    scenario::Scenario,
    trials::{quantile, sort},
    world::{Setting, World},
};

/// One line of the result.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Name of the scenario.
    pub scenario: &'static str,
    pub failure: Failure,
    /// New flows per second of the VIP with four members.
    pub flows_per_s: f64,
    /// Seconds from the first unanswered flow until the finding: median of the trials.
    pub median_s: Option<f64>,
    /// 99th percentile.
    pub p99_s: Option<f64>,
}

/// Seconds without a fault before, and longest time to detection.
const BEFORE_S: usize = 1500;
const PATIENCE_S: usize = 300;
const MEMBERS: usize = 4;

fn detection_time(setting: Setting, failure: Failure, seed: u64) -> Option<f64> {
    let mut world = World::new(setting, seed);
    let mut detector = Detector::new(Thresholds::default(), world.facts());
    for _ in 0..BEFORE_S {
        world.advance();
        detector.observe(&world.observation());
    }
    world.set_failure(0, failure);
    for second in 1..=PATIENCE_S {
        world.advance();
        let mut findings = detector.observe(&world.observation()).iter();
        let named =
            findings.any(|f| matches!(&f.cause, Cause::BlackHole { member } if **member == *"b0"));
        if named {
            return Some(second as f64);
        }
    }
    None
}

/// Simulates dead and mute members in several scenarios.
#[must_use]
pub fn run(trials: usize, seed: u64) -> Vec<Line> {
    let scenarios = [
        Scenario::Browsing,
        Scenario::LongPolling,
        Scenario::IdleKeepAlive,
        Scenario::ServerPush,
        Scenario::HalfOpenMobiles,
    ];
    let mut lines = Vec::new();
    for scenario in scenarios {
        for failure in [Failure::Dead, Failure::Mute] {
            for flows_per_s in [20.0, 200.0, 2000.0] {
                let setting = Setting {
                    scenario,
                    members: MEMBERS,
                    flows_per_s,
                };
                let number = lines.len() as u64;
                let mut times_s: Vec<Option<f64>> = (0..trials as u64)
                    .map(|trial| detection_time(setting, failure, seed ^ (number << 32) ^ trial))
                    .collect();
                sort(&mut times_s);
                lines.push(Line {
                    scenario: scenario.name(),
                    failure,
                    flows_per_s,
                    median_s: quantile(&times_s, 0.5),
                    p99_s: quantile(&times_s, 0.99),
                });
            }
        }
    }
    lines
}
