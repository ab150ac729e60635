//! The watch, and simpler rules beside it. Each takes what the watch takes and says what is new.
//!
//! The simple rules are given what makes them better than they usually are: they compare with the share of the
//! table as it was at the time, not with the mean, and see counts of every second. They look at the last
//! minute four times a minute, as a Prometheus rule with `rate(...[1m])` would.

use std::collections::{HashSet, VecDeque};

use lb_skew::{Cause, Detector, Facts, Finding, Kind, Observation, Thresholds, Weight};

/// A rule that says whether something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleKind {
    /// The watch of the product.
    Evenkeel,
    /// As it was designed first: two fixed windows, normal bounds, X²/(k−1) for the dispersion.
    TwoWindows,
    /// The largest member has more than 1.5 times its share.
    MaxOverMean,
    /// Pearson's χ² with p < 0.01.
    ChiSquare,
    /// Some member is off its share by more than 10 % for five minutes.
    TenPercent,
}

impl RuleKind {
    /// All, the watch first.
    pub const ALL: [Self; 5] = [
        Self::Evenkeel,
        Self::TwoWindows,
        Self::MaxOverMean,
        Self::ChiSquare,
        Self::TenPercent,
    ];

    /// Its name in tables.
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

/// A rule at work on one VIP.
#[derive(Debug)]
pub enum Rule {
    /// The watch.
    Watch(Box<Watch>),
    /// Two fixed windows.
    TwoWindows(Box<TwoWindows>),
    /// A rule over the last minute.
    Minute(Box<Minute>),
}

impl Rule {
    /// Begins.
    #[must_use]
    pub fn new(kind: RuleKind, facts: Facts) -> Self {
        match kind {
            RuleKind::Evenkeel => Self::Watch(Box::new(Watch {
                detector: Detector::new(Thresholds::default(), facts),
                on: HashSet::new(),
            })),
            RuleKind::TwoWindows => Self::TwoWindows(Box::default()),
            _ => Self::Minute(Box::new(Minute::new(kind))),
        }
    }

    /// Takes an observation; how many alarms it raised that were not on before.
    pub fn observe(&mut self, seen: &Observation<'_>) -> u32 {
        match self {
            Self::Watch(watch) => watch.observe(seen),
            Self::TwoWindows(windows) => windows.observe(seen),
            Self::Minute(minute) => minute.observe(seen),
        }
    }

    /// Whether all that is on is true: warnings that members have too much because sources are hashed as a whole, and they have.
    #[must_use]
    pub fn is_right(&self, is_heavy: impl Fn(&str) -> bool) -> bool {
        let Self::Watch(watch) = self else {
            return false;
        };
        let is_right = |finding: &Finding| {
            finding.weight < Weight::Warning
                || (finding.weight == Weight::Warning
                    && finding.kind == Kind::Overload
                    && finding.cause == Cause::HeavySources
                    && finding.members.iter().all(|member| is_heavy(&member.name)))
        };
        watch.detector.findings().iter().all(is_right)
    }

    /// What is on, in words.
    #[must_use]
    pub fn says(&self) -> String {
        match self {
            Self::Watch(watch) => watch
                .detector
                .findings()
                .iter()
                .map(|f| format!("{} {:?} {} {:?}", f.kind, f.weight, f.cause, f.members))
                .collect::<Vec<_>>()
                .join("; "),
            _ => String::new(),
        }
    }
}

/// The watch, and which alarms are on.
#[derive(Debug)]
pub struct Watch {
    detector: Detector,
    on: HashSet<(Kind, String)>,
}

impl Watch {
    fn observe(&mut self, seen: &Observation<'_>) -> u32 {
        let findings = self.detector.observe(seen);
        if findings.is_empty() {
            self.on.clear();
            return 0;
        }
        let on: HashSet<_> = findings
            .iter()
            .filter(|finding| finding.weight >= Weight::Warning)
            .map(|finding| (finding.kind, finding.cause_key()))
            .collect();
        let new = on.difference(&self.on).count() as u32;
        self.on = on;
        new
    }
}

/// Sums of what came and what should have come since the beginning, member by member.
#[derive(Clone, Debug, Default)]
struct Sums {
    got: Vec<f64>,
    expected: Vec<f64>,
}

/// Totals of the last observation, and sums of all since.
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
            self.sums.got = vec![0.0; self.last.len()];
            self.sums.expected = vec![0.0; self.last.len()];
            self.eligible = vec![false; self.last.len()];
        }
        let mut all = 0.0;
        for (place, member) in seen.members.iter().enumerate() {
            let came = member.new_flows.saturating_sub(self.last[place]) as f64;
            self.last[place] = member.new_flows;
            self.sums.got[place] += came;
            self.eligible[place] = member.table_share > 0.0;
            all += came;
        }
        for (expected, member) in self.sums.expected.iter_mut().zip(seen.members) {
            *expected += all * member.table_share;
        }
    }

    /// What came, and should have come, of each eligible member since then.
    fn since<'a>(&'a self, then: &'a Sums) -> impl Iterator<Item = (f64, f64)> + 'a {
        (0..self.last.len())
            .filter(|&place| self.eligible[place])
            .map(|place| {
                (
                    self.sums.got[place] - then.got[place],
                    self.sums.expected[place] - then.expected[place],
                )
            })
    }
}

/// Seconds between two looks.
const LOOK_S: f64 = 15.0;
/// Looks in a window of a minute.
const LOOKS: usize = 4;
/// Looks in five minutes.
const PATIENCE: u32 = 20;

/// A rule over the last minute.
#[derive(Debug)]
pub struct Minute {
    kind: RuleKind,
    counts: Counts,
    marks: VecDeque<Sums>,
    next_s: f64,
    off_for: u32,
    on: bool,
}

impl Minute {
    fn new(kind: RuleKind) -> Self {
        Self {
            kind,
            counts: Counts::default(),
            marks: VecDeque::new(),
            next_s: 0.0,
            off_for: 0,
            on: false,
        }
    }

    fn observe(&mut self, seen: &Observation<'_>) -> u32 {
        self.counts.add(seen);
        if seen.at_s < self.next_s {
            return 0;
        }
        self.next_s = seen.at_s + LOOK_S;
        let was_on = self.on;
        if self.marks.len() == LOOKS {
            let then = self.marks.pop_front().unwrap_or_default();
            self.on = self.look(&then);
        }
        self.marks.push_back(self.counts.sums.clone());
        u32::from(self.on && !was_on)
    }

    fn look(&mut self, then: &Sums) -> bool {
        let members = || {
            self.counts
                .since(then)
                .filter(|(_, expected)| *expected > 0.0)
        };
        match self.kind {
            RuleKind::MaxOverMean => members().any(|(got, expected)| got > 1.5 * expected),
            RuleKind::ChiSquare => {
                let statistic: f64 = members().map(|(got, e)| (got - e).powi(2) / e).sum();
                let degrees = members().count() as f64 - 1.0;
                degrees >= 1.0 && statistic > chi_square_99(degrees)
            }
            _ => {
                let off = members().any(|(got, e)| (got / e - 1.0).abs() > 0.1);
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

/// The windows of the first design, observations.
const SHORT: usize = 10;
const LONG: usize = 120;
/// Its z and δ.
const Z: f64 = 4.0;
const DELTA: f64 = 0.25;

/// The first design: overload when `(x − z·√(φ·x·(1−t))) / e > 1 + δ` in a window of 10 s and in one
/// of 2 min, starvation in the mirror form, φ an average of X²/(k−1).
#[derive(Debug, Default)]
pub struct TwoWindows {
    counts: Counts,
    past: VecDeque<Sums>,
    phi: f64,
    on: bool,
    calm: u32,
}

impl TwoWindows {
    fn observe(&mut self, seen: &Observation<'_>) -> u32 {
        self.counts.add(seen);
        self.past.push_back(self.counts.sums.clone());
        if self.past.len() <= LONG {
            return 0;
        }
        let long = self.past.pop_front().unwrap_or_default();
        if !self.on {
            self.learn();
        }
        let short = &self.past[self.past.len() - 1 - SHORT];
        let both = self.deviate(&long, DELTA, Z) & self.deviate(short, DELTA, Z);
        if both != 0 && !self.on {
            self.on = true;
            self.calm = 0;
            return 1;
        }
        if self.on {
            let calm = self.deviate(short, DELTA / 2.0, 0.0) == 0;
            self.calm = if calm { self.calm + 1 } else { 0 };
            self.on = self.calm < 3 * SHORT as u32;
        }
        0
    }

    fn learn(&mut self) {
        let last = &self.past[self.past.len() - 2];
        let members = || self.counts.since(last).filter(|(_, e)| *e > 0.0);
        let statistic: f64 = members().map(|(got, e)| (got - e).powi(2) / e).sum();
        let degrees = (members().count() as f64 - 1.0).max(1.0);
        if members().count() > 1 {
            self.phi += (statistic / degrees - self.phi) / 60.0;
        }
    }

    /// Which members deviate in the window since then: a bit for up, and one for down, of each of the first 64.
    fn deviate(&self, then: &Sums, delta: f64, z: f64) -> u128 {
        let all: f64 = self.counts.since(then).map(|(got, _)| got).sum();
        let phi = self.phi.max(1.0);
        let members = self.counts.since(then).enumerate();
        members.fold(0, |bits, (member, (got, expected))| {
            let share = expected / all.max(1.0);
            let width = z * (phi * got * (1.0 - share)).sqrt();
            let over = expected > 0.0 && (got - width) / expected > 1.0 + delta;
            let under = expected > 0.0 && (got + width) / expected < 1.0 / (1.0 + delta);
            let place = (member % 64) as u32;
            bits | (u128::from(over) << place)
                | (u128::from(under && z > 0.0 && got > 0.0) << (64 + place))
        })
    }
}
