//! A member that answers nothing: how long until the watch says so, and whether it says of whom.

use lb_skew::{Cause, Detector, Thresholds};

use super::{
    clients::Deafness,
    scenario::Scenario,
    world::{Setting, World},
};

/// One line of the result.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// What clients do otherwise.
    pub scenario: &'static str,
    /// How the member fails.
    pub deafness: Deafness,
    /// New flows a second of the VIP of four members.
    pub flows_per_s: f64,
    /// Seconds from the first unanswered flow until it is named as a black hole: median, and 99 of 100 trials.
    pub median_s: Option<f64>,
    /// The same for 99 of 100 trials.
    pub p99_s: Option<f64>,
}

/// Seconds of good traffic before, and of patience after.
const BEFORE_S: usize = 1500;
const PATIENCE_S: usize = 300;
const MEMBERS: usize = 4;

fn live(setting: Setting, deafness: Deafness, seed: u64) -> Option<f64> {
    let mut world = World::new(setting, seed);
    let mut detector = Detector::new(Thresholds::default(), world.facts());
    for _ in 0..BEFORE_S {
        world.advance();
        detector.observe(&world.observation());
    }
    world.set_deaf(0, deafness);
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

/// Tries a member that is dead, and one that accepts and says nothing.
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
        for deafness in [Deafness::Dead, Deafness::Mute] {
            for flows_per_s in [20.0, 200.0, 2000.0] {
                let setting = Setting {
                    scenario,
                    members: MEMBERS,
                    flows_per_s,
                };
                let number = lines.len() as u64;
                let mut said: Vec<Option<f64>> = (0..trials as u64)
                    .map(|trial| live(setting, deafness, seed ^ (number << 32) ^ trial))
                    .collect();
                said.sort_by(|a, b| {
                    a.unwrap_or(f64::INFINITY)
                        .total_cmp(&b.unwrap_or(f64::INFINITY))
                });
                let quantile = |part: f64| {
                    let place = (part * trials as f64).ceil() as usize;
                    said[place.clamp(1, trials) - 1]
                };
                lines.push(Line {
                    scenario: scenario.name(),
                    deafness,
                    flows_per_s,
                    median_s: quantile(0.5),
                    p99_s: quantile(0.99),
                });
            }
        }
    }
    lines
}
