//! The likeliest cause of what was found, with its evidence.
//!
//! Causes are asked for from the most certain to the least: two numbers that differ, a member that
//! answers nothing, a source that is the excess, a revision that came just before. What is left has no known cause.

use std::sync::Arc;

use super::{
    Cause, Change, Elephant, Facts, Observation, Samples, Thresholds, Weight,
    concentration::Concentrated,
    counts::{Roster, Step},
    evidence::Direction,
    raised::Raised,
    silence::{Hole, Sign, Silence},
    spike::Spike,
    volume::{Load, Unit},
};

/// How long before and after a revision something may begin that it caused, seconds.
const BEFORE_S: f64 = 3.0;
const AFTER_S: f64 = 30.0;
/// Part of an excess that explains it.
const MOST: f64 = 0.5;
/// Packets for each flow, over those of others, that tell of repeated SYNs.
const REPEATED: f64 = 0.75;
/// Flows that are named.
const NAMED: usize = 3;

/// What a cause is looked for in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    pub(super) seen: &'a Observation<'a>,
    pub(super) step: &'a Step,
    pub(super) roster: &'a Roster,
    pub(super) silence: &'a Silence,
    pub(super) spike: &'a Spike,
    pub(super) samples: Option<&'a Samples>,
    pub(super) thresholds: &'a Thresholds,
    pub(super) facts: Facts,
}

/// A cause, how much it matters, and why it is thought to be the one.
#[derive(Clone, Debug)]
pub(super) struct Diagnosis {
    pub(super) cause: Cause,
    pub(super) weight: Weight,
    pub(super) evidence: Vec<String>,
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn by_ratio(ratio: f64) -> Weight {
    if (0.5..2.0).contains(&ratio) {
        Weight::Warning
    } else {
        Weight::Critical
    }
}

impl<'a> Context<'a> {
    fn name(&self, member: usize) -> &'a Arc<str> {
        &self.roster.names()[member]
    }

    /// The revision that is remembered, and the member's shares in it.
    fn moved(&self, member: usize) -> Option<(&'a Change, f64, f64)> {
        let change = self.seen.change?;
        let recent = self.step.now_s - change.at_s <= self.thresholds.revision_memory_s;
        let name = self.name(member);
        let moved = change.moved.iter().find(|moved| moved.name == *name)?;
        recent.then_some((change, moved.before, moved.after))
    }

    /// A revision that moved the member just before it began.
    fn revision(&self, member: usize, since_s: f64) -> Option<(Cause, String)> {
        let (change, before, after) = self.moved(member)?;
        let later = since_s - change.at_s;
        (-BEFORE_S..=AFTER_S).contains(&later).then(|| {
            let sentence = format!(
                "it began {:.0} s after revision {}, which moved {} from {} to {} of the table",
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

    fn hole(&self, member: usize) -> Option<Diagnosis> {
        let hole = self.silence.hole(member)?;
        Some(Diagnosis {
            cause: Cause::BlackHole {
                member: self.name(member).clone(),
            },
            weight: Weight::Critical,
            evidence: vec![self.silent(member, hole)],
        })
    }

    fn silent(&self, member: usize, hole: &Hole) -> String {
        let name = self.name(member);
        let (own, others) = self.silence.packets_per_flow(member);
        match hole.sign {
            Sign::OnlySyns => format!(
                "nothing follows the SYNs to {name}: {own:.1} packets for each new flow, {others:.1} at the others"
            ),
            Sign::FewPackets => format!(
                "{name} is opened and not served: {own:.1} packets for each new flow, {others:.1} at the others"
            ),
            Sign::Sampled => {
                format!(
                    "of the sampled flows of {name}, nearly all get no answer: nothing follows their request, or their SYN"
                )
            }
        }
    }

    /// A source that is most of what a member has too much.
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
                "{} has {} of the sampled flows, {} of them at {name}",
                source.prefix,
                percent(source.share),
                percent(source.at_member),
            );
            (cause, sentence)
        })
    }

    /// Why a member gets more or less than its share of the table.
    pub(super) fn of_share(&self, member: usize, raised: &Raised, expected: f64) -> Diagnosis {
        let ratio = raised.got / expected.max(f64::MIN_POSITIVE);
        let share = self.step.members[member].share;
        let name = self.name(member);
        let got = format!(
            "{name} got {:.0} new flows in {:.0} s; {:.0} is its share of the table ({})",
            raised.got,
            self.step.now_s - raised.since_s,
            expected,
            percent(share),
        );
        let mut diagnosis = self
            .hole(member)
            .or_else(|| self.of_known(member, raised, ratio))
            .unwrap_or_else(|| self.of_unknown(member, raised, ratio));
        diagnosis.evidence.insert(0, got);
        diagnosis
    }

    fn of_known(&self, member: usize, raised: &Raised, ratio: f64) -> Option<Diagnosis> {
        let weight = by_ratio(ratio);
        let excess = self.step.members[member].share * (ratio - 1.0);
        let over = raised.direction == Direction::Over;
        let source = over.then(|| self.source(member, excess)).flatten();
        let (cause, sentence) = source.or_else(|| self.revision(member, raised.since_s))?;
        Some(Diagnosis {
            cause,
            weight,
            evidence: vec![sentence],
        })
    }

    fn of_unknown(&self, member: usize, raised: &Raised, ratio: f64) -> Diagnosis {
        let (own, others) = self.silence.packets_per_flow(member);
        let repeats = self.facts.tcp && others > 0.0 && own < REPEATED * others;
        let slow = raised.direction == Direction::Over && repeats;
        let weight = by_ratio(ratio);
        if !slow && raised.direction == Direction::Over && !self.facts.independent {
            return Diagnosis {
                cause: Cause::HeavySources,
                // That sources are uneven is what whoever hashes them must live with: no reason to wake anybody, below capacity.
                weight: weight.min(Weight::Warning).max(self.over_capacity(member)),
                evidence: vec![
                    "no sampled source explains it, no revision and no transition".to_owned(),
                ],
            };
        }
        let (cause, sentence) = if slow {
            (
                Cause::SlowBackend {
                    member: self.name(member).clone(),
                },
                format!(
                    "{own:.1} packets for each new flow, {others:.1} at the others: clients open again before they are served"
                ),
            )
        } else {
            (
                Cause::Unknown,
                "the table is as intended, and no revision, source or transition explains it"
                    .to_owned(),
            )
        };
        Diagnosis {
            cause,
            weight,
            evidence: vec![sentence],
        }
    }

    /// Why the table gives a member so much.
    pub(super) fn of_concentration(&self, member: usize, concentrated: &Concentrated) -> Diagnosis {
        let Concentrated { raised, held } = concentrated;
        let name = self.name(member);
        let measure = if held.by_capacity {
            "its part of the capacity"
        } else {
            "an even share, or what it had"
        };
        let mut evidence = vec![format!(
            "{name} gets {} of the new flows; {measure} is {}",
            percent(raised.ratio() * held.reference),
            percent(held.reference),
        )];
        let mut cause = Cause::Unknown;
        if let Some((change, before, after)) = self.moved(member)
            && after > before
        {
            cause = Cause::Revision {
                number: change.revision,
            };
            evidence.push(format!(
                "revision {} moved it from {} to {} of the table",
                change.revision,
                percent(before),
                percent(after),
            ));
        } else {
            evidence.push("the weights say so, and no revision in memory changed them".to_owned());
        }
        let (usual, now) = self.spike.rates();
        if self.spike.raised().is_some() {
            evidence.push(format!(
                "a spike at the same time: {now:.0} new flows a second, usually {usual:.0}"
            ));
        }
        Diagnosis {
            cause,
            weight: by_ratio(raised.ratio()).max(self.over_capacity(member)),
            evidence,
        }
    }

    fn over_capacity(&self, member: usize) -> Weight {
        let rate = self.step.members[member].flows / self.step.length_s;
        match self.seen.members[member].capacity {
            Some(capacity) if rate > capacity => Weight::Critical,
            _ => Weight::Warning,
        }
    }

    /// Why a member has so many bytes or packets.
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
        let weight =
            by_ratio(load.observed_share / load.expected_share.max(1e-9)).min(Weight::Warning);
        let mut evidence = vec![format!(
            "{name} gets {} of the {word}, {:.0} a second; its share is {}",
            percent(load.observed_share),
            load.rate,
            percent(load.expected_share),
        )];
        let cause = self
            .elephants(unit, member, load)
            .or_else(|| self.revision(member, since_s));
        let (cause, sentence) = cause.unwrap_or_else(|| {
            let sentence = "no sampled flow and no revision explains it".to_owned();
            (Cause::Unknown, sentence)
        });
        evidence.push(sentence);
        Diagnosis {
            cause,
            weight,
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
            // Only those without which it would not be explained.
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
                "{} of what {name} gets is of large flows: {}",
                percent((named / load.rate).min(1.0)),
                flows.len(),
            );
            (Cause::Elephants { flows }, sentence)
        })
    }

    /// Why shares are off while old flows are counted again.
    pub(super) fn of_transition() -> Diagnosis {
        Diagnosis {
            cause: Cause::RingInTransition,
            weight: Weight::Note,
            evidence: vec![
                "slots are in transition: flows without an entry still go to previous members, and are \
                 counted once more; shares are judged again when it ends"
                    .to_owned(),
            ],
        }
    }

    /// That nothing comes back from a member.
    pub(super) fn of_hole(&self, member: usize) -> Diagnosis {
        self.hole(member).unwrap_or(Diagnosis {
            cause: Cause::BlackHole {
                member: self.name(member).clone(),
            },
            weight: Weight::Critical,
            evidence: Vec::new(),
        })
    }
}
