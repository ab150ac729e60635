//! The detector of one VIP.

use super::{
    Affected, Cause, Elephant, Facts, Finding, Kind, Observation, Samples, Severity, Thresholds,
    black_holes::BlackHoles,
    concentration::Concentration,
    counts::{MemberIndex, Step},
    diagnosis::{Context, Diagnosis},
    evidence::Direction,
    intended::Intended,
    shares::Shares,
    spike::Spike,
    volume::{Flow, Unit, Volume},
};

/// How long sampled flows are used, seconds.
const SAMPLES_FOR_S: f64 = 60.0;

/// Monitors one VIP: counts in, findings out.
#[derive(Clone, Debug)]
pub struct Detector {
    thresholds: Thresholds,
    facts: Facts,
    index: MemberIndex,
    step: Step,
    shares: Shares,
    concentration: Concentration,
    intended: Intended,
    black_holes: BlackHoles,
    volume: Volume,
    spike: Spike,
    samples: Option<(f64, Samples)>,
    findings: Vec<Finding>,
}

impl Detector {
    /// A detector without history.
    #[must_use]
    pub fn new(thresholds: Thresholds, facts: Facts) -> Self {
        let shares = Shares::new(&thresholds, facts.independent);
        Self {
            thresholds,
            facts,
            index: MemberIndex::default(),
            step: Step::default(),
            shares,
            concentration: Concentration::default(),
            intended: Intended::default(),
            black_holes: BlackHoles::default(),
            volume: Volume::default(),
            spike: Spike::default(),
            samples: None,
            findings: Vec::new(),
        }
    }

    /// Adds an observation and returns the current findings: new ones and those that are not
    /// cleared yet.
    pub fn observe(&mut self, seen: &Observation<'_>) -> &[Finding] {
        self.take_members(seen);
        if !self.index.step(seen, self.facts, &mut self.step) {
            return &self.findings;
        }
        self.take_samples(seen);
        let (step, thresholds) = (&self.step, &self.thresholds);
        self.spike.observe(step, thresholds);
        let samples = self.samples.as_ref().map(|(_, samples)| samples);
        let flows: Vec<Flow> = samples.map_or_else(Vec::new, |samples| {
            let flows = samples.elephants.iter();
            let place = |flow: &Elephant| {
                let rates = [flow.bytes_per_s, flow.packets_per_s];
                Some((self.index.place(&flow.member)?, rates))
            };
            flows.filter_map(place).collect()
        });
        self.volume.observe(step, &flows, thresholds);
        if self.facts.tcp {
            self.black_holes.observe(step, thresholds);
        }
        self.intended.observe(seen, step);
        if !step.suspended {
            self.concentration.observe(seen, step, thresholds);
        }
        self.shares.observe(step, thresholds);
        self.report(seen);
        &self.findings
    }

    /// The current findings.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Overdispersion of the VIP (φ): 1 if all flows are independent.
    #[must_use]
    pub fn dispersion(&self) -> f64 {
        self.shares.phi()
    }

    /// Replaces the thresholds. Estimates, findings and the lengths of the windows stay.
    pub fn set_thresholds(&mut self, thresholds: Thresholds) {
        self.thresholds = thresholds;
    }

    #[must_use]
    pub fn facts(&self) -> Facts {
        self.facts
    }

    fn take_members(&mut self, seen: &Observation<'_>) {
        if let Some(places) = self.index.take(seen.members) {
            self.shares.rearrange(&places);
            self.concentration.rearrange(&places);
            self.intended.rearrange();
            self.black_holes.rearrange(&places);
            self.volume.rearrange(&places);
        }
    }

    fn take_samples(&mut self, seen: &Observation<'_>) {
        if let Some(samples) = seen.samples {
            if self.facts.tcp {
                let eligible = self.step.eligible;
                self.black_holes
                    .take_samples(samples, &self.index, eligible, &self.thresholds);
            }
            self.samples = Some((seen.at_s, samples.clone()));
        }
        if let Some((at_s, _)) = self.samples
            && seen.at_s - at_s > SAMPLES_FOR_S
        {
            self.samples = None;
        }
    }

    /// Rebuilds the findings: their causes may become more certain over time.
    fn report(&mut self, seen: &Observation<'_>) {
        self.findings.clear();
        let context = Context {
            seen,
            step: &self.step,
            index: &self.index,
            black_holes: &self.black_holes,
            spike: &self.spike,
            samples: self.samples.as_ref().map(|(_, samples)| samples),
            thresholds: &self.thresholds,
            facts: self.facts,
        };
        let mut report = Report {
            context,
            findings: &mut self.findings,
        };
        report.table(&self.intended);
        report.concentration(&self.concentration);
        report.black_holes(&self.black_holes);
        report.shares(&self.shares);
        report.transition(&self.shares);
        report.volume(&self.volume);
        report.spike(&self.spike);
    }
}

struct Report<'a> {
    context: Context<'a>,
    findings: &'a mut Vec<Finding>,
}

impl Report<'_> {
    /// Adds a member to the finding of its kind and cause.
    fn add(
        &mut self,
        kind: Kind,
        affected: Affected,
        since_s: f64,
        raised_s: f64,
        diagnosis: Diagnosis,
    ) {
        let Diagnosis {
            cause,
            severity,
            evidence,
        } = diagnosis;
        let same = |finding: &&mut Finding| finding.kind == kind && finding.cause == cause;
        if let Some(finding) = self.findings.iter_mut().find(same) {
            finding.members.push(affected);
            finding
                .members
                .sort_by(|a, b| b.z.abs().total_cmp(&a.z.abs()));
            finding.severity = finding.severity.max(severity);
            finding.since_s = finding.since_s.min(since_s);
            finding.raised_s = finding.raised_s.min(raised_s);
            finding.evidence.extend(evidence);
            return;
        }
        self.findings.push(Finding {
            kind,
            severity,
            members: vec![affected],
            since_s,
            raised_s,
            cause,
            evidence,
            bounded: self.context.seen.bounded,
        });
    }

    fn affected(
        &self,
        member: usize,
        observed: f64,
        expected: f64,
        expected_share: f64,
    ) -> Affected {
        let ratio = observed / expected.max(f64::MIN_POSITIVE);
        let spread = (expected * (1.0 - expected_share)).max(1.0).sqrt();
        Affected {
            name: self.context.index.names()[member].clone(),
            ratio,
            observed_share: (ratio * expected_share).min(1.0),
            expected_share,
            z: (observed - expected) / spread,
        }
    }

    fn shares(&mut self, shares: &Shares) {
        for (member, raised) in shares.raised() {
            let kind = match raised.direction {
                Direction::Over => Kind::Overload,
                Direction::Under if self.context.is_compensated(member) => continue,
                Direction::Under => Kind::Starvation,
            };
            let share = self.context.step.members[member].share;
            let expected = shares.expected(raised, share, self.context.thresholds);
            let mut affected = self.affected(member, raised.observed, expected, share);
            affected.z /= shares.phi().sqrt();
            let diagnosis = self.context.of_share(member, raised, expected);
            self.add(kind, affected, raised.since_s, raised.raised_s, diagnosis);
        }
    }

    fn transition(&mut self, shares: &Shares) {
        let Some((since_s, off)) = shares.in_transition(self.context.thresholds) else {
            return;
        };
        for (member, counted) in off {
            let share = self.context.step.members[member].share;
            let affected = self.affected(member, counted.observed, counted.expected_max, share);
            let diagnosis = Context::of_transition();
            self.add(Kind::Overload, affected, since_s, since_s, diagnosis);
        }
    }

    fn concentration(&mut self, concentration: &Concentration) {
        for (member, concentrated) in concentration.raised() {
            let raised = &concentrated.raised;
            let reference = concentrated.criterion.reference;
            let affected = Affected {
                observed_share: concentrated.share(),
                ..self.affected(member, raised.observed, raised.expected, reference)
            };
            let diagnosis = self.context.of_concentration(member, concentrated);
            let (since_s, raised_s) = (raised.since_s, raised.raised_s);
            self.add(Kind::Concentration, affected, since_s, raised_s, diagnosis);
        }
    }

    fn table(&mut self, intended: &Intended) {
        let Some((since_s, raised_s, deviations)) = intended.raised() else {
            return;
        };
        for deviation in deviations {
            let name = self.context.index.names()[deviation.member].clone();
            let severity = match deviation.ratio() {
                _ if !deviation.matters(self.context.thresholds) => Severity::Note,
                ratio if (0.5..2.0).contains(&ratio) => Severity::Warning,
                _ => Severity::Critical,
            };
            let evidence = vec![format!(
                "{name} has {:.2} % of the table; intended {:.2} %",
                deviation.table * 100.0,
                deviation.intended * 100.0
            )];
            let affected = Affected {
                name,
                ratio: deviation.ratio(),
                observed_share: deviation.table,
                expected_share: deviation.intended,
                z: (deviation.table - deviation.intended)
                    * f64::from(self.context.seen.ring_size).sqrt(),
            };
            let cause = Cause::TableNotIntended;
            let diagnosis = Diagnosis {
                cause,
                severity,
                evidence,
            };
            self.add(Kind::TableSkew, affected, since_s, raised_s, diagnosis);
        }
    }

    fn black_holes(&mut self, black_holes: &BlackHoles) {
        for (member, found) in black_holes.raised() {
            let (own, others) = black_holes.packets_per_flow(member);
            let share = self.context.step.members[member].share;
            let affected = Affected {
                name: self.context.index.names()[member].clone(),
                ratio: own / others.max(f64::MIN_POSITIVE),
                observed_share: share,
                expected_share: share,
                z: 0.0,
            };
            let diagnosis = self.context.of_black_hole(member);
            self.add(
                Kind::BlackHole,
                affected,
                found.since_s,
                found.raised_s,
                diagnosis,
            );
        }
    }

    fn volume(&mut self, volume: &Volume) {
        for (unit, kind) in [
            (Unit::Bytes, Kind::ByteSkew),
            (Unit::Packets, Kind::PacketSkew),
        ] {
            for (member, heavy) in volume.heavy(unit) {
                let name = &self.context.index.names()[member];
                // Bytes and packets follow flows: this is one finding, not two.
                let has_flows = self.findings.iter().any(|finding| {
                    matches!(finding.kind, Kind::Overload | Kind::Concentration)
                        && finding
                            .members
                            .iter()
                            .any(|affected| affected.name == *name)
                });
                if has_flows {
                    continue;
                }
                let load = volume.load(unit, member, self.context.step);
                let affected = Affected {
                    name: name.clone(),
                    ratio: load.observed_share / load.expected_share.max(f64::MIN_POSITIVE),
                    observed_share: load.observed_share,
                    expected_share: load.expected_share,
                    z: 0.0,
                };
                let diagnosis = self.context.of_volume(unit, member, &load, heavy.since_s);
                self.add(kind, affected, heavy.since_s, heavy.raised_s, diagnosis);
            }
        }
    }

    fn spike(&mut self, spike: &Spike) {
        let Some((raised_s, times)) = spike.raised() else {
            return;
        };
        let (usual, now) = spike.rates();
        self.findings.push(Finding {
            kind: Kind::Spike,
            severity: Severity::Note,
            members: Vec::new(),
            since_s: raised_s,
            raised_s,
            cause: Cause::Spike { times },
            evidence: vec![format!(
                "{now:.0} new flows/s, usually {usual:.0}, for all members alike"
            )],
            bounded: false,
        });
    }
}
