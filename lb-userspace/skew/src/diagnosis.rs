//! Finds the likeliest cause of a deviation, with its evidence.
//!
//! Causes are tested from the most to the least certain: differing table shares, a black hole, a
//! source that explains the excess, a revision shortly before. Otherwise the cause is unknown.

use std::sync::Arc;

use super::{
    Cause, Change, Elephant, Facts, Observation, Samples, Severity, Thresholds,
    black_holes::{BlackHole, BlackHoles, Sign},
    concentration::Concentrated,
    counts::{MemberIndex, Step},
    deviation::Deviation,
    evidence::Direction,
    spike::Spike,
    volume::{Load, Unit},
};

/// Seconds before and after a revision in which the onset of a deviation is attributed to it.
const BEFORE_S: f64 = 3.0;
const AFTER_S: f64 = 30.0;
/// Part of an excess that is sufficient to explain it.
const MOST: f64 = 0.5;
/// Packets per flow, relative to the other members, that indicate repeated SYNs.
const REPEATED: f64 = 0.75;
/// Most elephants that are named.
const NAMED: usize = 3;

/// Data in which causes are searched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    pub(super) seen: &'a Observation<'a>,
    pub(super) step: &'a Step,
    pub(super) index: &'a MemberIndex,
    pub(super) black_holes: &'a BlackHoles,
    pub(super) spike: &'a Spike,
    pub(super) samples: Option<&'a Samples>,
    pub(super) thresholds: &'a Thresholds,
    pub(super) facts: Facts,
}

#[derive(Clone, Debug)]
pub(super) struct Diagnosis {
    pub(super) cause: Cause,
    pub(super) severity: Severity,
    pub(super) evidence: Vec<String>,
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn by_ratio(ratio: f64) -> Severity {
    if (0.5..2.0).contains(&ratio) {
        Severity::Warning
    } else {
        Severity::Critical
    }
}

impl<'a> Context<'a> {
    fn name(&self, member: usize) -> &'a Arc<str> {
        &self.index.names()[member]
    }

    /// Severity of a deviation from the table share, which a bound mitigates.
    fn of_ratio(&self, ratio: f64) -> Severity {
        let severity = by_ratio(ratio);
        match self.seen.bounded {
            true => severity.min(Severity::Warning),
            false => severity,
        }
    }

    /// Whether a member that the ring assigns too little gets its share by what others spill.
    pub(super) fn is_compensated(&self, member: usize) -> bool {
        let share = self.step.members[member].share / (1.0 + self.thresholds.tolerance);
        self.seen.bounded && self.black_holes.share_of_flows(member) >= share
    }

    /// The latest revision that changed the member's share, with the shares before and after.
    fn moved(&self, member: usize) -> Option<(&'a Change, f64, f64)> {
        let change = self.seen.change?;
        let recent = self.step.now_s - change.at_s <= self.thresholds.revision_memory_s;
        let name = self.name(member);
        let moved = change.moved.iter().find(|moved| moved.name == *name)?;
        recent.then_some((change, moved.before, moved.after))
    }

    /// A revision that changed the member's share around the onset.
    fn revision(&self, member: usize, since_s: f64) -> Option<(Cause, String)> {
        let (change, before, after) = self.moved(member)?;
        let later = since_s - change.at_s;
        (-BEFORE_S..=AFTER_S).contains(&later).then(|| {
            let sentence = format!(
                "started {:.0} s after revision {}, which changed the table share of {} from {} to {}",
                later.max(0.0),
                change.revision,
                self.name(member),
                percent(before),
                percent(after),
            );
            let number = change.revision;
            (Cause::Revision { number }, sentence)
        })
    }

    fn black_hole(&self, member: usize) -> Option<Diagnosis> {
        let black_hole = self.black_holes.black_hole(member)?;
        Some(Diagnosis {
            cause: Cause::BlackHole {
                member: self.name(member).clone(),
            },
            severity: Severity::Critical,
            evidence: vec![self.black_hole_evidence(member, black_hole)],
        })
    }

    fn black_hole_evidence(&self, member: usize, black_hole: &BlackHole) -> String {
        let name = self.name(member);
        let (own, others) = self.black_holes.packets_per_flow(member);
        match black_hole.sign {
            Sign::OnlySyns => format!(
                "nothing follows the SYNs to {name}: {own:.1} packets per new flow, {others:.1} on the other members"
            ),
            Sign::FewPackets => format!(
                "{name} accepts connections but does not serve them: {own:.1} packets per new flow, {others:.1} on the other members"
            ),
            Sign::Sampled => {
                format!(
                    "nearly all sampled flows of {name} get no reply: nothing follows their request or SYN"
                )
            }
        }
    }

    /// A source that explains the excess of a member.
    fn source(&self, member: usize, excess: f64) -> Option<(Cause, String)> {
        let name = self.name(member);
        let sources = &self.samples?.sources;
        let source = sources
            .iter()
            .filter(|source| source.member == *name && source.at_member >= 0.8)
            .max_by(|a, b| a.share.total_cmp(&b.share))?;
        (source.share * source.at_member >= MOST * excess).then(|| {
            let cause = Cause::NarrowHashInput {
                prefix: source.prefix.clone(),
                share: source.share,
            };
            let sentence = format!(
                "{} has {} of the sampled flows, {} of them on {name}",
                source.prefix,
                percent(source.share),
                percent(source.at_member),
            );
            (cause, sentence)
        })
    }

    /// Why a member gets more or less than its table share.
    pub(super) fn of_share(&self, member: usize, raised: &Deviation, expected: f64) -> Diagnosis {
        let ratio = raised.observed / expected.max(f64::MIN_POSITIVE);
        let share = self.step.members[member].share;
        let name = self.name(member);
        let got = match self.seen.bounded {
            true => "would have got, without its bound,",
            false => "got",
        };
        let observed = format!(
            "{name} {got} {:.0} new flows in {:.0} s; expected {:.0} (table share {})",
            raised.observed,
            self.step.now_s - raised.since_s,
            expected,
            percent(share),
        );
        let mut diagnosis = self
            .black_hole(member)
            .or_else(|| self.of_known(member, raised, ratio))
            .unwrap_or_else(|| self.of_unknown(member, raised, ratio));
        diagnosis.evidence.insert(0, observed);
        diagnosis
    }

    fn of_known(&self, member: usize, raised: &Deviation, ratio: f64) -> Option<Diagnosis> {
        let severity = self.of_ratio(ratio);
        let excess = self.step.members[member].share * (ratio - 1.0);
        let over = raised.direction == Direction::Over;
        let source = over.then(|| self.source(member, excess)).flatten();
        let (cause, sentence) = source.or_else(|| self.revision(member, raised.since_s))?;
        Some(Diagnosis {
            cause,
            severity,
            evidence: vec![sentence],
        })
    }

    fn of_unknown(&self, member: usize, raised: &Deviation, ratio: f64) -> Diagnosis {
        let (own, others) = self.black_holes.packets_per_flow(member);
        let repeats = self.facts.tcp && others > 0.0 && own < REPEATED * others;
        let slow = raised.direction == Direction::Over && repeats;
        let severity = self.of_ratio(ratio);
        if !slow && raised.direction == Direction::Over && !self.facts.independent {
            return Diagnosis {
                cause: Cause::HeavySources,
                // Uneven sources are inherent in this affinity: below capacity, no reason for a
                // critical alert.
                severity: severity
                    .min(Severity::Warning)
                    .max(self.over_capacity(member)),
                evidence: vec!["no sampled source, revision or transition explains it".to_owned()],
            };
        }
        let (cause, sentence) = if slow {
            (
                Cause::SlowBackend {
                    member: self.name(member).clone(),
                },
                format!(
                    "{own:.1} packets per new flow, {others:.1} on the other members: clients reconnect before they are served"
                ),
            )
        } else {
            (
                Cause::Unknown,
                "the table matches the weights, and no revision, source or transition explains it"
                    .to_owned(),
            )
        };
        Diagnosis {
            cause,
            severity,
            evidence: vec![sentence],
        }
    }

    /// Why the table concentrates flows on a member.
    pub(super) fn of_concentration(&self, member: usize, concentrated: &Concentrated) -> Diagnosis {
        let Concentrated {
            raised, criterion, ..
        } = concentrated;
        let name = self.name(member);
        let measure = if criterion.by_capacity {
            "its share of the capacity"
        } else {
            "an even or its former share"
        };
        let mut evidence = vec![format!(
            "{name} gets {} of new flows; {measure} is {}",
            percent(concentrated.share()),
            percent(criterion.reference),
        )];
        let mut cause = Cause::Unknown;
        if let Some((change, before, after)) = self.moved(member)
            && after > before
            // An older change, to a share within the limit, does not explain this.
            && after > criterion.limit
        {
            cause = Cause::Revision {
                number: change.revision,
            };
            evidence.push(format!(
                "revision {} changed its table share from {} to {}",
                change.revision,
                percent(before),
                percent(after),
            ));
        } else {
            evidence.push(
                "the table matches the weights, and no recent revision changed them".to_owned(),
            );
        }
        let (usual, now) = self.spike.rates();
        if self.spike.raised().is_some() {
            evidence.push(format!(
                "coincides with a spike: {now:.0} new flows/s, usually {usual:.0}"
            ));
        }
        Diagnosis {
            cause,
            severity: by_ratio(raised.ratio()).max(self.over_capacity(member)),
            evidence,
        }
    }

    fn over_capacity(&self, member: usize) -> Severity {
        let rate = self.step.members[member].got / self.step.length_s;
        match self.seen.members[member].capacity {
            Some(capacity) if rate > capacity => Severity::Critical,
            _ => Severity::Warning,
        }
    }

    /// Why a member has too many bytes or packets.
    pub(super) fn of_volume(
        &self,
        unit: Unit,
        member: usize,
        load: &Load,
        since_s: f64,
    ) -> Diagnosis {
        let name = self.name(member);
        let word = match unit {
            Unit::Bytes => "bytes",
            Unit::Packets => "packets",
        };
        let severity =
            by_ratio(load.observed_share / load.expected_share.max(1e-9)).min(Severity::Warning);
        let mut evidence = vec![format!(
            "{name} gets {} of the {word} ({:.0}/s); expected {}",
            percent(load.observed_share),
            load.rate,
            percent(load.expected_share),
        )];
        let cause = self
            .elephants(unit, member, load)
            .or_else(|| self.revision(member, since_s));
        let (cause, sentence) = cause.unwrap_or_else(|| {
            let sentence = "no sampled flow or revision explains it".to_owned();
            (Cause::Unknown, sentence)
        });
        evidence.push(sentence);
        Diagnosis {
            cause,
            severity,
            evidence,
        }
    }

    fn elephants(&self, unit: Unit, member: usize, load: &Load) -> Option<(Cause, String)> {
        let name = self.name(member);
        let rate = |flow: &Elephant| match unit {
            Unit::Bytes => flow.bytes_per_s,
            Unit::Packets => flow.packets_per_s,
        };
        let mut flows: Vec<&Elephant> = self
            .samples?
            .elephants
            .iter()
            .filter(|flow| flow.member == *name)
            .collect();
        flows.sort_by(|a, b| rate(b).total_cmp(&rate(a)));
        flows.truncate(NAMED);
        let theirs: f64 = flows.iter().copied().map(rate).sum();
        let excess = load.rate * (1.0 - load.expected_share / load.observed_share.max(1e-9));
        (theirs >= MOST * excess && theirs > 0.0).then(|| {
            // Only as many as are needed for the explanation.
            let mut named = 0.0;
            let flows = flows
                .into_iter()
                .take_while(|flow| {
                    let needed = named < MOST * excess;
                    named += rate(flow);
                    needed
                })
                .map(|flow| flow.flow.clone())
                .collect::<Vec<_>>();
            let sentence = format!(
                "large flows carry {} of the traffic of {name}; their number: {}",
                percent((named / load.rate).min(1.0)),
                flows.len(),
            );
            (Cause::Elephants { flows }, sentence)
        })
    }

    pub(super) fn of_transition() -> Diagnosis {
        Diagnosis {
            cause: Cause::RingInTransition,
            severity: Severity::Note,
            evidence: vec![
                "slots are in transition: flows without an entry still go to previous members and are counted \
                 again; shares are evaluated again when it ends"
                    .to_owned(),
            ],
        }
    }

    pub(super) fn of_black_hole(&self, member: usize) -> Diagnosis {
        self.black_hole(member).unwrap_or(Diagnosis {
            cause: Cause::BlackHole {
                member: self.name(member).clone(),
            },
            severity: Severity::Critical,
            evidence: Vec::new(),
        })
    }
}
