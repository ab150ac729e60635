//! The watch over one VIP.

use super::{
    Affected, Cause, Elephant, Facts, Finding, Kind, Observation, Samples, Thresholds, Weight,
    concentration::Concentration,
    counts::{Roster, Step},
    diagnosis::{Context, Diagnosis},
    evidence::Direction,
    intended::Intended,
    shares::Shares,
    silence::Silence,
    spike::Spike,
    volume::{Flow, Unit, Volume},
};

/// How long sampled flows are believed, seconds.
const SAMPLES_FOR_S: f64 = 60.0;

/// The watch over one VIP: counts in, findings out.
#[derive(Clone, Debug)]
pub struct Detector {
    thresholds: Thresholds,
    facts: Facts,
    roster: Roster,
    step: Step,
    shares: Shares,
    concentration: Concentration,
    intended: Intended,
    silence: Silence,
    volume: Volume,
    spike: Spike,
    samples: Option<(f64, Samples)>,
    findings: Vec<Finding>,
}

impl Detector {
    /// A watch that has seen nothing yet.
    #[must_use]
    pub fn new(thresholds: Thresholds, facts: Facts) -> Self {
        let shares = Shares::new(&thresholds, facts.independent);
        Self {
            thresholds,
            facts,
            roster: Roster::default(),
            step: Step::default(),
            shares,
            concentration: Concentration::default(),
            intended: Intended::default(),
            silence: Silence::default(),
            volume: Volume::default(),
            spike: Spike::default(),
            samples: None,
            findings: Vec::new(),
        }
    }

    /// Takes what was counted, and returns the findings that are on: those raised now and those that
    /// stay; what ended is not among them any more.
    pub fn observe(&mut self, seen: &Observation<'_>) -> &[Finding] {
        self.take_members(seen);
        if !self.roster.step(seen, self.facts, &mut self.step) {
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
                Some((self.roster.place(&flow.member)?, rates))
            };
            flows.filter_map(place).collect()
        });
        self.volume.observe(step, &flows, thresholds);
        if self.facts.tcp {
            self.silence.observe(step, thresholds);
        }
        self.intended.observe(seen, step);
        if !step.suspended {
            self.concentration.observe(seen, step, thresholds);
        }
        self.shares.observe(step, thresholds);
        self.report(seen);
        &self.findings
    }

    /// The findings that are on.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Overdispersion of the VIP (φ): 1 when every flow chooses by itself.
    #[must_use]
    pub fn dispersion(&self) -> f64 {
        self.shares.phi()
    }

    /// Other thresholds from now on; what was learned and what is on stays. The lengths of the windows
    /// stay as they were.
    pub fn set_thresholds(&mut self, thresholds: Thresholds) {
        self.thresholds = thresholds;
    }

    /// What does not change while the VIP lives.
    #[must_use]
    pub fn facts(&self) -> Facts {
        self.facts
    }

    fn take_members(&mut self, seen: &Observation<'_>) {
        if let Some(places) = self.roster.take(seen.members) {
            self.shares.rearrange(&places);
            self.concentration.rearrange(&places);
            self.intended.rearrange();
            self.silence.rearrange(&places);
            self.volume.rearrange(&places);
        }
    }

    fn take_samples(&mut self, seen: &Observation<'_>) {
        if let Some(samples) = seen.samples {
            if self.facts.tcp {
                let eligible = self.step.eligible;
                self.silence
                    .take_samples(samples, &self.roster, eligible, &self.thresholds);
            }
            self.samples = Some((seen.at_s, samples.clone()));
        }
        if let Some((at_s, _)) = self.samples
            && seen.at_s - at_s > SAMPLES_FOR_S
        {
            self.samples = None;
        }
    }

    /// Makes the findings anew: what a finding says may become more certain while it is on.
    fn report(&mut self, seen: &Observation<'_>) {
        self.findings.clear();
        let context = Context {
            seen,
            step: &self.step,
            roster: &self.roster,
            silence: &self.silence,
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
        report.holes(&self.silence);
        report.shares(&self.shares);
        report.transition(&self.shares);
        report.volume(&self.volume);
        report.spike(&self.spike);
    }
}

/// Findings that are being written.
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
            weight,
            evidence,
        } = diagnosis;
        let same = |finding: &&mut Finding| finding.kind == kind && finding.cause == cause;
        if let Some(finding) = self.findings.iter_mut().find(same) {
            finding.members.push(affected);
            finding
                .members
                .sort_by(|a, b| b.z.abs().total_cmp(&a.z.abs()));
            finding.weight = finding.weight.max(weight);
            finding.since_s = finding.since_s.min(since_s);
            finding.raised_s = finding.raised_s.min(raised_s);
            finding.evidence.extend(evidence);
            return;
        }
        self.findings.push(Finding {
            kind,
            weight,
            members: vec![affected],
            since_s,
            raised_s,
            cause,
            evidence,
        });
    }

    fn affected(&self, member: usize, got: f64, expected: f64, expected_share: f64) -> Affected {
        let ratio = got / expected.max(f64::MIN_POSITIVE);
        let spread = (expected * (1.0 - expected_share)).max(1.0).sqrt();
        Affected {
            name: self.context.roster.names()[member].clone(),
            ratio,
            observed_share: (ratio * expected_share).min(1.0),
            expected_share,
            z: (got - expected) / spread,
        }
    }

    fn shares(&mut self, shares: &Shares) {
        for (member, raised) in shares.raised() {
            let kind = match raised.direction {
                Direction::Over => Kind::Overload,
                Direction::Under => Kind::Starvation,
            };
            let share = self.context.step.members[member].share;
            let expected = shares.expected(raised, share, self.context.thresholds);
            let mut affected = self.affected(member, raised.got, expected, share);
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
            let affected = self.affected(member, counted.got, counted.most, share);
            let diagnosis = Context::of_transition();
            self.add(Kind::Overload, affected, since_s, since_s, diagnosis);
        }
    }

    fn concentration(&mut self, concentration: &Concentration) {
        for (member, concentrated) in concentration.raised() {
            let raised = &concentrated.raised;
            let reference = concentrated.held.reference;
            let affected = self.affected(member, raised.got, raised.expected, reference);
            let diagnosis = self.context.of_concentration(member, concentrated);
            let (since_s, raised_s) = (raised.since_s, raised.raised_s);
            self.add(Kind::Concentration, affected, since_s, raised_s, diagnosis);
        }
    }

    fn table(&mut self, intended: &Intended) {
        let Some((since_s, raised_s, off)) = intended.raised() else {
            return;
        };
        for off in off {
            let name = self.context.roster.names()[off.member].clone();
            let weight = match off.ratio() {
                _ if !off.matters(self.context.thresholds) => Weight::Note,
                ratio if (0.5..2.0).contains(&ratio) => Weight::Warning,
                _ => Weight::Critical,
            };
            let evidence = vec![format!(
                "{name} has {:.2} % of the table; {:.2} % is intended",
                off.table * 100.0,
                off.intended * 100.0
            )];
            let affected = Affected {
                name,
                ratio: off.ratio(),
                observed_share: off.table,
                expected_share: off.intended,
                z: (off.table - off.intended) * f64::from(self.context.seen.ring_size).sqrt(),
            };
            let cause = Cause::TableNotIntended;
            let diagnosis = Diagnosis {
                cause,
                weight,
                evidence,
            };
            self.add(Kind::TableSkew, affected, since_s, raised_s, diagnosis);
        }
    }

    fn holes(&mut self, silence: &Silence) {
        for (member, hole) in silence.holes() {
            let (own, others) = silence.packets_per_flow(member);
            let share = self.context.step.members[member].share;
            let affected = Affected {
                name: self.context.roster.names()[member].clone(),
                ratio: own / others.max(f64::MIN_POSITIVE),
                observed_share: share,
                expected_share: share,
                z: 0.0,
            };
            let diagnosis = self.context.of_hole(member);
            self.add(
                Kind::BlackHole,
                affected,
                hole.since_s,
                hole.raised_s,
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
                let name = &self.context.roster.names()[member];
                // Bytes follow flows: that is one finding, not two.
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
            weight: Weight::Note,
            members: Vec::new(),
            since_s: raised_s,
            raised_s,
            cause: Cause::Spike { times },
            evidence: vec![format!(
                "{now:.0} new flows a second, usually {usual:.0}, for all members alike"
            )],
        });
    }
}
