//! The share monitor, and simpler rules to compare it with. All take the same observations and
//! return new alarms.
//!
//! The simple rules have an advantage over their usual form: they compare with the current table
//! share instead of the mean, and have counts of every second. They evaluate the last minute four
//! times per minute, as a Prometheus rule with `rate(...[1m])` would.

use std::collections::{HashSet, VecDeque};

use lb_skew::{Cause, Detector, Facts, Finding, Kind, Observation, Severity, Thresholds};

/// Kind of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleKind {
    /// The share monitor of the product.
    Evenkeel,
    /// The first design: two fixed windows, normal bounds, X²/(k−1) as dispersion.
    TwoWindows,
    /// The largest member has more than 1.5 times its share.
    MaxOverMean,
    /// Pearson's χ² with p < 0.01.
    ChiSquare,
    /// Some member is off its share by more than 10 % for five minutes.
    TenPercent,
}

impl RuleKind {
    /// All rules, the share monitor first.
    pub const ALL: [Self; 5] = [
        Self::Evenkeel,
        Self::TwoWindows,
        Self::MaxOverMean,
        Self::ChiSquare,
        Self::TenPercent,
    ];

    /// Name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Evenkeel => "evenkeel",
            Self::TwoWindows => "two_windows",
            Self::MaxOverMean => "max_over_mean_1.5",
            Self::ChiSquare => "chi_square_p_0.01",
            Self::TenPercent => "off_10_percent_5_min",
        }
    }
}

/// A rule that monitors one VIP.
#[derive(Debug)]
pub enum Rule {
    /// The share monitor.
    Monitor(Box<Monitor>),
    /// Two fixed windows.
    TwoWindows(Box<TwoWindows>),
    /// A rule over the last minute.
    Minute(Box<Minute>),
}

impl Rule {
    #[must_use]
    pub fn new(kind: RuleKind, facts: Facts) -> Self {
        match kind {
            RuleKind::Evenkeel => Self::Monitor(Box::new(Monitor {
                detector: Detector::new(Thresholds::default(), facts),
                firing: HashSet::new(),
            })),
            RuleKind::TwoWindows => Self::TwoWindows(Box::default()),
            _ => Self::Minute(Box::new(Minute::new(kind))),
        }
    }

    /// Adds an observation. Returns the number of alarms that were not firing before.
    pub fn observe(&mut self, seen: &Observation<'_>) -> u32 {
        match self {
            Self::Monitor(monitor) => monitor.observe(seen),
            Self::TwoWindows(windows) => windows.observe(seen),
            Self::Minute(minute) => minute.observe(seen),
        }
    }

    /// Whether all firing alarms are correct: warnings about heavy sources that really overload the
    /// members.
    #[must_use]
    pub fn is_correct(&self, is_heavy: impl Fn(&str) -> bool) -> bool {
        let Self::Monitor(monitor) = self else {
            return false;
        };
        let is_correct = |finding: &Finding| {
            finding.severity < Severity::Warning
                || (finding.severity == Severity::Warning
                    && finding.kind == Kind::Overload
                    && finding.cause == Cause::HeavySources
                    && finding.members.iter().all(|member| is_heavy(&member.name)))
        };
        monitor.detector.findings().iter().all(is_correct)
    }

    /// The current findings as text.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Monitor(monitor) => monitor
                .detector
                .findings()
                .iter()
                .map(|f| format!("{} {:?} {} {:?}", f.kind, f.severity, f.cause, f.members))
                .collect::<Vec<_>>()
                .join("; "),
            _ => String::new(),
        }
    }
}

/// The share monitor and its firing alarms.
#[derive(Debug)]
pub struct Monitor {
    detector: Detector,
    firing: HashSet<(Kind, String)>,
}

impl Monitor {
    fn observe(&mut self, seen: &Observation<'_>) -> u32 {
        let findings = self.detector.observe(seen);
        if findings.is_empty() {
            self.firing.clear();
            return 0;
        }
        let firing: HashSet<_> = findings
            .iter()
            .filter(|finding| finding.severity >= Severity::Warning)
            .map(|finding| (finding.kind, finding.cause_key()))
            .collect();
        let new = firing.difference(&self.firing).count() as u32;
        self.firing = firing;
        new
    }
}

/// Observed and expected flows since the start, by member.
#[derive(Clone, Debug, Default)]
struct Sums {
    observed: Vec<f64>,
    expected: Vec<f64>,
}

/// Totals of the last observation, and sums since the start.
#[derive(Clone, Debug, Default)]
struct Counts {
    last: Vec<u64>,
    sums: Sums,
    eligible: Vec<bool>,
}

impl Counts {
    fn add(&mut self, seen: &Observation<'_>) {
        if self.last.len() != seen.members.len() {
            self.last = seen.members.iter().map(|member| member.new_flows).collect();
            self.sums.observed = vec![0.0; self.last.len()];
            self.sums.expected = vec![0.0; self.last.len()];
            self.eligible = vec![false; self.last.len()];
        }
        let mut all = 0.0;
        for (place, member) in seen.members.iter().enumerate() {
            let flows = member.new_flows.saturating_sub(self.last[place]) as f64;
            self.last[place] = member.new_flows;
            self.sums.observed[place] += flows;
            self.eligible[place] = member.table_share > 0.0;
            all += flows;
        }
        for (expected, member) in self.sums.expected.iter_mut().zip(seen.members) {
            *expected += all * member.table_share;
        }
    }

    /// Observed and expected flows of each eligible member since `then`.
    fn since<'a>(&'a self, then: &'a Sums) -> impl Iterator<Item = (f64, f64)> + 'a {
        (0..self.last.len())
            .filter(|&place| self.eligible[place])
            .map(|place| {
                (
                    self.sums.observed[place] - then.observed[place],
                    self.sums.expected[place] - then.expected[place],
                )
            })
    }
}

/// Seconds between two evaluations.
const INTERVAL_S: f64 = 15.0;
/// Evaluations in a window of one minute.
const WINDOW: usize = 4;
/// Evaluations in five minutes.
const PATIENCE: u32 = 20;

/// A rule over the last minute.
#[derive(Debug)]
pub struct Minute {
    kind: RuleKind,
    counts: Counts,
    marks: VecDeque<Sums>,
    next_s: f64,
    off_for: u32,
    firing: bool,
}

impl Minute {
    fn new(kind: RuleKind) -> Self {
        Self {
            kind,
            counts: Counts::default(),
            marks: VecDeque::new(),
            next_s: 0.0,
            off_for: 0,
            firing: false,
        }
    }

    fn observe(&mut self, seen: &Observation<'_>) -> u32 {
        self.counts.add(seen);
        if seen.at_s < self.next_s {
            return 0;
        }
        self.next_s = seen.at_s + INTERVAL_S;
        let was_firing = self.firing;
        if self.marks.len() == WINDOW {
            let then = self.marks.pop_front().unwrap_or_default();
            self.firing = self.evaluate(&then);
        }
        self.marks.push_back(self.counts.sums.clone());
        u32::from(self.firing && !was_firing)
    }

    fn evaluate(&mut self, then: &Sums) -> bool {
        let members = || {
            self.counts
                .since(then)
                .filter(|(_, expected)| *expected > 0.0)
        };
        match self.kind {
            RuleKind::MaxOverMean => {
                members().any(|(observed, expected)| observed > 1.5 * expected)
            }
            RuleKind::ChiSquare => {
                let statistic: f64 = members()
                    .map(|(observed, e)| (observed - e).powi(2) / e)
                    .sum();
                let degrees = members().count() as f64 - 1.0;
                degrees >= 1.0 && statistic > chi_square_99(degrees)
            }
            _ => {
                let off = members().any(|(observed, e)| (observed / e - 1.0).abs() > 0.1);
                self.off_for = if off { self.off_for + 1 } else { 0 };
                self.off_for >= PATIENCE
            }
        }
    }
}

/// The 99 % quantile of χ² (E. B. Wilson and M. M. Hilferty, "The distribution of chi-square",
/// Proceedings of the National Academy of Sciences 17, 1931).
fn chi_square_99(degrees: f64) -> f64 {
    // The approximation is 1 % off for one degree, which is common here.
    if degrees == 1.0 {
        return 6.635;
    }
    let a = 2.0 / (9.0 * degrees);
    degrees * (1.0 - a + 2.326_348 * a.sqrt()).powi(3)
}

/// Windows of the first design, observations.
const SHORT: usize = 10;
const LONG: usize = 120;
/// z and δ of the first design.
const Z: f64 = 4.0;
const DELTA: f64 = 0.25;

/// The first design: overload when `(x − z·√(φ·x·(1−t))) / e > 1 + δ` in a window of 10 s and in
/// one of 2 min, starvation in the mirror form, φ an average of X²/(k−1).
#[derive(Debug, Default)]
pub struct TwoWindows {
    counts: Counts,
    past: VecDeque<Sums>,
    phi: f64,
    firing: bool,
    normal_for: u32,
}

impl TwoWindows {
    fn observe(&mut self, seen: &Observation<'_>) -> u32 {
        self.counts.add(seen);
        self.past.push_back(self.counts.sums.clone());
        if self.past.len() <= LONG {
            return 0;
        }
        let long = self.past.pop_front().unwrap_or_default();
        if !self.firing {
            self.learn();
        }
        let short = &self.past[self.past.len() - 1 - SHORT];
        let both = self.deviate(&long, DELTA, Z) & self.deviate(short, DELTA, Z);
        if both != 0 && !self.firing {
            self.firing = true;
            self.normal_for = 0;
            return 1;
        }
        if self.firing {
            let normal_for = self.deviate(short, DELTA / 2.0, 0.0) == 0;
            self.normal_for = if normal_for { self.normal_for + 1 } else { 0 };
            self.firing = self.normal_for < 3 * SHORT as u32;
        }
        0
    }

    fn learn(&mut self) {
        let last = &self.past[self.past.len() - 2];
        let members = || self.counts.since(last).filter(|(_, e)| *e > 0.0);
        let statistic: f64 = members()
            .map(|(observed, e)| (observed - e).powi(2) / e)
            .sum();
        let degrees = (members().count() as f64 - 1.0).max(1.0);
        if members().count() > 1 {
            self.phi += (statistic / degrees - self.phi) / 60.0;
        }
    }

    /// Members that deviate in the window since `then`: for each of the first 64, a bit for
    /// overload and one for starvation.
    fn deviate(&self, then: &Sums, delta: f64, z: f64) -> u128 {
        let all: f64 = self.counts.since(then).map(|(observed, _)| observed).sum();
        let phi = self.phi.max(1.0);
        let members = self.counts.since(then).enumerate();
        members.fold(0, |bits, (member, (observed, expected))| {
            let share = expected / all.max(1.0);
            let width = z * (phi * observed * (1.0 - share)).sqrt();
            let over = expected > 0.0 && (observed - width) / expected > 1.0 + delta;
            let under = expected > 0.0 && (observed + width) / expected < 1.0 / (1.0 + delta);
            let place = (member % 64) as u32;
            bits | (u128::from(over) << place)
                | (u128::from(under && z > 0.0 && observed > 0.0) << (64 + place))
        })
    }
}
