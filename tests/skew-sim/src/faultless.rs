//! Traffic with no fault: how often each rule cries wolf.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use lb_skew::Thresholds;
use serde::Serialize;

use super::{
    rules::{Rule, RuleKind},
    scenario::{DAY_S, Scenario},
    world::{Setting, World},
};

/// One line of the result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Name of the scenario.
    pub scenario: &'static str,
    /// Name of the rule.
    pub rule: &'static str,
    /// Days that it watched, over all VIPs.
    pub vip_days: f64,
    /// Alarms that nothing justifies.
    pub false_alarms: u64,
    /// Warnings that heavy sources give members more than the tolerance above their share, where whole sources are hashed and it is so.
    #[serde(skip)]
    pub true_warnings: u64,
}

/// Of so many days one is watched by the other rules too: they cry so often that this is enough.
const BESIDE: usize = 40;

/// A VIP, and for how long it is watched.
#[derive(Clone, Copy, Debug)]
struct Stay {
    setting: Setting,
    days: f64,
    seed: u64,
    beside: bool,
}

/// The settings of a scenario with the days of each, of a thousand days in all: small VIPs are common, large
/// ones rare and dear.
fn mix(scenario: Scenario) -> Vec<(usize, f64, f64)> {
    use Scenario as S;
    match scenario {
        S::Poisson | S::DayNight | S::Bursty | S::ZipfClients | S::Weights => vec![
            (2, 1.0 / 6.0, 100.0),
            (2, 5.0, 137.0),
            (2, 1000.0, 120.0),
            (3, 1e6, 60.0),
            (4, 1.0 / 6.0, 80.0),
            (4, 20.0, 120.0),
            (4, 300.0, 120.0),
            (5, 1e4, 80.0),
            (10, 3.0, 60.0),
            (10, 200.0, 60.0),
            (16, 1e6, 30.0),
            (30, 30.0, 20.0),
            (100, 500.0, 8.0),
            (300, 20.0, 3.0),
            (1000, 1000.0, 1.0),
            (1000, 1e6, 1.0),
        ],
        S::ZipfSource | S::NatSource | S::UntrackedUdp => vec![
            (2, 20.0, 250.0),
            (3, 200.0, 250.0),
            (4, 1000.0, 250.0),
            (6, 5000.0, 150.0),
            (10, 500.0, 100.0),
        ],
        S::HeavyTailed => vec![
            (2, 20.0, 250.0),
            (3, 100.0, 250.0),
            (4, 10.0, 200.0),
            (4, 300.0, 200.0),
            (10, 1000.0, 95.0),
            (50, 1000.0, 5.0),
        ],
        S::Browsing
        | S::LongPolling
        | S::IdleKeepAlive
        | S::KeepAliveDeploy
        | S::ServerPush
        | S::HalfOpenMobiles
        | S::SlowAnswers
        | S::Scanned => vec![
            (2, 1.0 / 6.0, 80.0),
            (2, 5.0, 150.0),
            (2, 100.0, 150.0),
            (3, 30.0, 150.0),
            (4, 12.0, 150.0),
            (4, 300.0, 150.0),
            (6, 5000.0, 80.0),
            (10, 100.0, 80.0),
            (50, 500.0, 9.0),
            (1000, 2000.0, 1.0),
        ],
        _ => vec![
            (2, 1.0, 150.0),
            (2, 200.0, 150.0),
            (3, 20.0, 200.0),
            (4, 1000.0, 200.0),
            (5, 1e5, 150.0),
            (10, 100.0, 120.0),
            (20, 1e4, 25.0),
            (100, 1000.0, 5.0),
        ],
    }
}

/// The stays that make up about so many days of each scenario.
fn stays(scenarios: &[Scenario], days: f64, seed: u64) -> Vec<Stay> {
    let mut stays = Vec::new();
    for &scenario in scenarios {
        for (members, flows_per_s, part) in mix(scenario) {
            let mut left = days * part / 1000.0;
            while left > 1e-9 {
                // A stay is two days long at most: each begins with a watch that knows nothing.
                let days = left.min(2.0);
                left -= days;
                let number = stays.len();
                stays.push(Stay {
                    setting: Setting {
                        scenario,
                        members,
                        flows_per_s,
                    },
                    days,
                    seed: seed.wrapping_add(number as u64),
                    beside: number.is_multiple_of(BESIDE),
                });
            }
        }
    }
    // The dear ones first, so that no thread is left with them at the end.
    stays.sort_by(|a, b| {
        let cost = |stay: &Stay| stay.setting.members as f64 * stay.days;
        cost(b).total_cmp(&cost(a))
    });
    stays
}

/// Alarms of a rule: false ones, and those that are right.
type Alarms = [u64; 2];

/// Lives through a stay, under these rules; the alarms of each.
fn live(stay: &Stay, kinds: &[RuleKind], tell: &(impl Fn(&str) + Sync)) -> Vec<Alarms> {
    let mut world = World::new(stay.setting, stay.seed);
    let mut rules: Vec<Rule> = kinds
        .iter()
        .map(|&kind| Rule::new(kind, world.facts()))
        .collect();
    let mut alarms = vec![Alarms::default(); rules.len()];
    let heavy = 1.0 + Thresholds::default().tolerance;
    while world.now_s < stay.days * DAY_S {
        world.advance();
        let seen = world.observation();
        for ((rule, alarms), kind) in rules.iter_mut().zip(&mut alarms).zip(kinds) {
            let raised = rule.observe(&seen);
            let is_right = raised > 0 && rule.is_right(|member| world.is_heavy(member, heavy));
            alarms[usize::from(is_right)] += u64::from(raised);
            if raised > 0 && !is_right && *kind == RuleKind::Evenkeel {
                let Setting {
                    scenario,
                    members,
                    flows_per_s,
                } = stay.setting;
                tell(&format!(
                    "false alarm: {} {members} members {flows_per_s}/s seed {} at {:.0} s: {}",
                    scenario.name(),
                    stay.seed,
                    seen.at_s,
                    rule.says()
                ));
            }
        }
    }
    alarms
}

/// Runs about so many VIP-days of each scenario, on all processors.
///
/// # Panics
/// When a thread of the simulation panicked.
pub fn run(scenarios: &[Scenario], days: f64, seed: u64, tell: impl Fn(&str) + Sync) -> Vec<Line> {
    let stays = stays(scenarios, days, seed);
    let next = AtomicUsize::new(0);
    let lines = Mutex::new(empty(scenarios));
    let workers = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(stay) = stays.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let kinds = if stay.beside {
                        &RuleKind::ALL[..]
                    } else {
                        &RuleKind::ALL[..1]
                    };
                    let alarms = live(stay, kinds, &tell);
                    let mut lines = lines.lock().expect("no thread panicked");
                    for (kind, alarms) in kinds.iter().zip(alarms) {
                        note(&mut lines, stay, *kind, alarms);
                    }
                }
            });
        }
    });
    lines.into_inner().expect("no thread panicked")
}

fn empty(scenarios: &[Scenario]) -> Vec<Line> {
    scenarios
        .iter()
        .flat_map(|&scenario| {
            RuleKind::ALL.into_iter().map(move |kind| Line {
                scenario: scenario.name(),
                rule: kind.name(),
                vip_days: 0.0,
                false_alarms: 0,
                true_warnings: 0,
            })
        })
        .collect()
}

fn note(lines: &mut [Line], stay: &Stay, kind: RuleKind, [false_alarms, right]: Alarms) {
    let scenario = stay.setting.scenario.name();
    let line = lines
        .iter_mut()
        .find(|line| line.scenario == scenario && line.rule == kind.name());
    if let Some(line) = line {
        line.vip_days += stay.days;
        line.false_alarms += false_alarms;
        line.true_warnings += right;
    }
}
