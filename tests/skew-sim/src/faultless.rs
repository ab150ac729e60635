//! Traffic without a fault: false alarms of each rule.

use lb_skew::Thresholds;
use serde::Serialize;

use super::{
    rules::{Rule, RuleKind},
    scenario::{DAY_S, Scenario},
    trials::in_parallel,
    world::{Setting, World},
};

/// One line of the result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Name of the scenario.
    pub scenario: &'static str,
    /// Name of the rule.
    pub rule: &'static str,
    /// Simulated days over all VIPs.
    pub vip_days: f64,
    pub false_alarms: u64,
    /// Correct warnings about heavy sources: with `affinity = "source"`, members really exceed
    /// their share by more than the tolerance.
    #[serde(skip)]
    pub true_warnings: u64,
}

/// One simulation in this number also runs the other rules, whose alarms are frequent.
const ALL_RULES_EVERY: usize = 40;

/// A simulated VIP and its duration.
#[derive(Clone, Copy, Debug)]
struct Simulation {
    setting: Setting,
    days: f64,
    seed: u64,
    all_rules: bool,
}

/// Members, new flows per second, and days (of about 1,000 in all) of the VIPs of a scenario: small
/// VIPs are common, large ones rare and expensive.
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

/// Simulations that add up to about `days` of each scenario.
fn simulations(scenarios: &[Scenario], days: f64, seed: u64) -> Vec<Simulation> {
    let mut simulations = Vec::new();
    for &scenario in scenarios {
        for (members, flows_per_s, part) in mix(scenario) {
            let mut left = days * part / 1000.0;
            while left > 1e-9 {
                // At most two days each: every simulation starts with a detector without history.
                let days = left.min(2.0);
                left -= days;
                let number = simulations.len();
                simulations.push(Simulation {
                    setting: Setting {
                        scenario,
                        members,
                        flows_per_s,
                    },
                    days,
                    seed: seed.wrapping_add(number as u64),
                    all_rules: number.is_multiple_of(ALL_RULES_EVERY),
                });
            }
        }
    }
    // Expensive ones first, so that no thread is left with them at the end.
    simulations.sort_by(|a, b| {
        let cost = |simulation: &Simulation| simulation.setting.members as f64 * simulation.days;
        cost(b).total_cmp(&cost(a))
    });
    simulations
}

/// False and correct alarms of a rule.
type Alarms = [u64; 2];

/// Runs a simulation; returns the alarms of each rule.
fn simulate(
    simulation: &Simulation,
    kinds: &[RuleKind],
    log: &(impl Fn(&str) + Sync),
) -> Vec<Alarms> {
    let mut world = World::new(simulation.setting, simulation.seed);
    let mut rules: Vec<Rule> = kinds
        .iter()
        .map(|&kind| Rule::new(kind, world.facts()))
        .collect();
    let mut alarms = vec![Alarms::default(); rules.len()];
    let heavy = 1.0 + Thresholds::default().tolerance;
    while world.now_s < simulation.days * DAY_S {
        world.advance();
        let seen = world.observation();
        for ((rule, alarms), kind) in rules.iter_mut().zip(&mut alarms).zip(kinds) {
            let raised = rule.observe(&seen);
            let is_correct = raised > 0 && rule.is_correct(|member| world.is_heavy(member, heavy));
            alarms[usize::from(is_correct)] += u64::from(raised);
            if raised > 0 && !is_correct && *kind == RuleKind::Evenkeel {
                let Setting {
                    scenario,
                    members,
                    flows_per_s,
                } = simulation.setting;
                log(&format!(
                    "false alarm: {} {members} members {flows_per_s}/s seed {} at {:.0} s: {}",
                    scenario.name(),
                    simulation.seed,
                    seen.at_s,
                    rule.describe()
                ));
            }
        }
    }
    alarms
}

/// Runs about `days` VIP-days of each scenario, on all processors.
///
/// # Panics
/// If a thread of the simulation panicked.
pub fn run(scenarios: &[Scenario], days: f64, seed: u64, log: impl Fn(&str) + Sync) -> Vec<Line> {
    let simulations = simulations(scenarios, days, seed);
    let rules = |simulation: &Simulation| {
        let number = if simulation.all_rules {
            RuleKind::ALL.len()
        } else {
            1
        };
        &RuleKind::ALL[..number]
    };
    let alarms = in_parallel(&simulations, |_, simulation| {
        simulate(simulation, rules(simulation), &log)
    });
    let mut lines = empty(scenarios);
    for (simulation, alarms) in simulations.iter().zip(alarms) {
        for (kind, alarms) in rules(simulation).iter().zip(alarms) {
            add_alarms(&mut lines, simulation, *kind, alarms);
        }
    }
    lines
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

fn add_alarms(
    lines: &mut [Line],
    simulation: &Simulation,
    kind: RuleKind,
    [false_alarms, correct]: Alarms,
) {
    let scenario = simulation.setting.scenario.name();
    let line = lines
        .iter_mut()
        .find(|line| line.scenario == scenario && line.rule == kind.name());
    if let Some(line) = line {
        line.vip_days += simulation.days;
        line.false_alarms += false_alarms;
        line.true_warnings += correct;
    }
}
