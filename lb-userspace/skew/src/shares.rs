//! Overload and starvation: compares new flows with the table share.
//!
//! A finding needs two conditions. The evidence ([`super::evidence`]) must exclude chance, over an
//! interval as long as the deviation. The ratio must exceed the tolerance in that interval and in
//! the short window. The finding names the member that explains most; deviations of others that
//! follow from it are not reported.

use super::{
    Thresholds,
    counts::{Step, rearranged},
    deviation::Deviation,
    dispersion::{Dispersion, Residuals},
    evidence::{Alternatives, Bounds, Cusum, Direction, Expected, MemberTests},
    short_window::{ShortWindow, WindowCounts},
};

/// Multiple of the wanted evidence at which a sum is capped.
const HEADROOM: f64 = 1.5;

/// A member with evidence of a deviation.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    member: usize,
    direction: Direction,
    cusum: Cusum,
}

/// Detects overload and starvation.
#[derive(Clone, Debug)]
pub(super) struct Shares {
    alternatives: Alternatives,
    tests: Vec<MemberTests>,
    residuals: Vec<Residuals>,
    short_window: ShortWindow,
    raised: Vec<Option<Deviation>>,
    any_raised: bool,
    /// Since when shares deviate because existing flows are counted as new.
    transition_s: Option<f64>,
    dispersion: Dispersion,
}

impl Shares {
    pub(super) fn new(thresholds: &Thresholds, independent: bool) -> Self {
        Self {
            alternatives: Alternatives::new(thresholds.tolerance),
            tests: Vec::new(),
            residuals: Vec::new(),
            short_window: ShortWindow::new(thresholds.short_s.max(1) as usize, 0),
            raised: Vec::new(),
            any_raised: false,
            transition_s: None,
            dispersion: Dispersion::new(independent, thresholds.short_s, thresholds.long_s),
        }
    }

    pub(super) fn rearrange(&mut self, places: &[Option<usize>]) {
        self.tests = rearranged(&self.tests, places);
        self.residuals = rearranged(&self.residuals, places);
        self.raised = rearranged(&self.raised, places);
        self.short_window = self.short_window.rearranged(places);
        self.dispersion.interrupt();
    }

    pub(super) fn phi(&self) -> f64 {
        self.dispersion.phi()
    }

    /// Expected flows of the member, without the allowance for heavy sources and reused ports.
    pub(super) fn expected(&self, raised: &Deviation, share: f64, thresholds: &Thresholds) -> f64 {
        let allowance = self
            .dispersion
            .allowance(share, thresholds.widest_tolerance);
        match raised.direction {
            Direction::Over => raised.expected / allowance,
            Direction::Under => raised.expected * allowance,
        }
    }

    /// Members with a finding.
    pub(super) fn raised(&self) -> impl Iterator<Item = (usize, &Deviation)> {
        let raised = if self.any_raised { &*self.raised } else { &[] };
        raised
            .iter()
            .enumerate()
            .filter_map(|(member, raised)| Some((member, raised.as_ref()?)))
    }

    /// Members that exceed their share while existing flows are counted as new: onset, and counts
    /// of the short window.
    pub(super) fn in_transition(
        &self,
        thresholds: &Thresholds,
    ) -> Option<(f64, Vec<(usize, WindowCounts)>)> {
        let since_s = self.transition_s?;
        let members = (0..self.tests.len()).map(|member| (member, self.short_window.sum(member)));
        let off = members.filter(|(_, counted)| is_far_over(counted, thresholds));
        Some((since_s, off.collect()))
    }

    pub(super) fn observe(&mut self, step: &Step, thresholds: &Thresholds) {
        let wanted = thresholds.evidence(step.eligible);
        if step.suspended {
            self.skip(step, thresholds);
            return;
        }
        self.transition_s = None;
        if !self.alternatives.are_for(thresholds.tolerance) {
            self.alternatives = Alternatives::new(thresholds.tolerance);
        }
        let proof = self.add(step, thresholds, wanted);
        if !self.dispersion.is_known() {
            self.tests.fill(MemberTests::default());
        }
        if self.any_raised {
            self.update_raised(step, thresholds);
        } else {
            self.learn(step);
        }
        if proof && step.eligible > 1 {
            let was_raised = self.any_raised;
            self.raise(step, thresholds, wanted);
            if self.any_raised && !was_raised {
                self.dispersion.drop_block(self.residuals.iter_mut());
            }
        }
    }

    /// Adds the step to all sums. Returns whether any has the wanted evidence.
    fn add(&mut self, step: &Step, thresholds: &Thresholds, wanted: f64) -> bool {
        let phi = self.dispersion.phi();
        let bounds = Bounds {
            step: wanted / f64::from(thresholds.least_seconds.max(1)),
            sum: wanted * HEADROOM,
        };
        self.short_window.advance();
        let mut any = false;
        for (member, (counts, tests)) in step.members.iter().zip(&mut self.tests).enumerate() {
            let allowance = self
                .dispersion
                .allowance(counts.share, thresholds.widest_tolerance);
            let expected = Expected {
                expected_max: step.flows * counts.most_share * allowance,
                expected_min: step.flows * counts.least_share / allowance,
            };
            tests.add(
                &self.alternatives,
                counts.flows,
                expected,
                phi,
                bounds,
                step.began_s(),
            );
            let counted = WindowCounts {
                observed: counts.flows,
                expected_max: expected.expected_max,
                expected_min: expected.expected_min,
            };
            self.short_window.set(member, counted);
            any |= tests.has_proof(wanted);
        }
        any
    }

    /// Handles a step whose shares are not evaluated.
    fn skip(&mut self, step: &Step, thresholds: &Thresholds) {
        self.short_window.advance();
        let mut any = false;
        for (member, counts) in step.members.iter().enumerate() {
            let counted = WindowCounts {
                observed: counts.flows,
                expected_max: step.flows * counts.most_share,
                expected_min: step.flows * counts.least_share,
            };
            self.short_window.set(member, counted);
            any |= is_far_over(&self.short_window.sum(member), thresholds);
        }
        self.transition_s = any.then(|| self.transition_s.unwrap_or(step.now_s));
        self.dispersion.interrupt();
    }

    fn learn(&mut self, step: &Step) {
        if !step.stable {
            self.dispersion.interrupt();
            return;
        }
        let flows = step.flows;
        let members = step.members.iter().zip(&mut self.residuals);
        let residuals =
            members.map(|(counts, kept)| (counts.flows - flows * counts.share, counts.share, kept));
        self.dispersion.learn(flows, residuals);
        if self.dispersion.is_block_full() {
            let shares = step.members.iter().map(|counts| counts.share);
            self.dispersion
                .close_blocks(shares.zip(&mut self.residuals));
        }
    }

    fn raise(&mut self, step: &Step, thresholds: &Thresholds, wanted: f64) {
        let candidates = self.candidates(step, thresholds, wanted);
        for mut candidate in self.explaining(candidates, step, thresholds, wanted) {
            if let Some(other) = self.overloaded_peer(&candidate, step, thresholds) {
                candidate = other;
            }
            self.raised[candidate.member] = Some(Deviation::new(
                candidate.direction,
                candidate.cusum,
                step.now_s,
            ));
            self.any_raised = true;
        }
    }

    /// Members for which the evidence and both windows agree.
    fn candidates(&self, step: &Step, thresholds: &Thresholds, wanted: f64) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        for (member, tests) in self.tests.iter().enumerate() {
            if self.raised[member].is_some() {
                continue;
            }
            for direction in [Direction::Over, Direction::Under] {
                let matters = |cusum: &Cusum| {
                    exceeds(direction, cusum.ratio(), thresholds.tolerance)
                        && self.is_current(member, direction, thresholds)
                        && (direction == Direction::Over || step.members[member].eligible)
                };
                if let Some(cusum) = tests.proof(direction, wanted).filter(matters) {
                    candidates.push(Candidate {
                        member,
                        direction,
                        cusum,
                    });
                }
            }
        }
        candidates
    }

    /// Whether the short window shows the deviation, or has too few flows to contradict it.
    fn is_current(&self, member: usize, direction: Direction, thresholds: &Thresholds) -> bool {
        let WindowCounts {
            observed,
            expected_max,
            expected_min,
        } = self.short_window.sum(member);
        let doubt = (self.dispersion.phi() * observed).sqrt();
        match direction {
            Direction::Over => {
                observed + doubt + 1.0 >= expected_max * (1.0 + thresholds.tolerance)
            }
            Direction::Under => {
                observed - doubt - 1.0 <= expected_min / (1.0 + thresholds.tolerance)
            }
        }
    }

    /// Table share, and share of the flows, of the members with a finding.
    fn explained(&self, step: &Step, thresholds: &Thresholds) -> (f64, f64) {
        let mut share = 0.0;
        let mut flows = 0.0;
        for (member, raised) in self.raised() {
            let recent = self.short_window.sum(member);
            // The short window is not usable while it still includes time before the fault.
            let ratio = if step.now_s - raised.since_s < 2.0 * f64::from(thresholds.short_s) {
                raised.ratio()
            } else {
                recent.observed / recent.expected_max.max(1.0)
            };
            share += step.members[member].share;
            flows += step.members[member].share * ratio;
        }
        (share, flows)
    }

    /// Selects the candidates that explain the deviation: the strongest first, then those that
    /// still deviate from the shares that it leaves for the others.
    fn explaining(
        &self,
        mut candidates: Vec<Candidate>,
        step: &Step,
        thresholds: &Thresholds,
        wanted: f64,
    ) -> Vec<Candidate> {
        let (mut share, mut flows) = self.explained(step, thresholds);
        let mut chosen = Vec::new();
        while !candidates.is_empty() && share < 0.999 {
            let left = ((1.0 - flows) / (1.0 - share)).max(0.01);
            // Size and evidence must hold against the corrected expectation.
            candidates.retain(|candidate| {
                let Cusum {
                    observed, expected, ..
                } = candidate.cusum;
                let direction = candidate.direction;
                let evidence = self
                    .alternatives
                    .evidence(direction, observed, expected * left);
                exceeds(
                    direction,
                    observed / (expected * left),
                    thresholds.tolerance,
                ) && (share == 0.0 || evidence / self.dispersion.phi() >= wanted)
            });
            let strength = |candidate: &Candidate| {
                let expected = candidate.cusum.expected * left;
                let observed = candidate.cusum.observed;
                (observed - expected).abs() / expected.max(1.0).sqrt()
            };
            let Some(place) = (0..candidates.len())
                .max_by(|&a, &b| strength(&candidates[a]).total_cmp(&strength(&candidates[b])))
            else {
                break;
            };
            let best = candidates.swap_remove(place);
            share += step.members[best.member].share;
            flows += step.members[best.member].share * best.cusum.ratio();
            chosen.push(best);
        }
        chosen
    }

    /// Of two members, one is overloaded if the other is starved: names the overloaded one.
    fn overloaded_peer(
        &self,
        candidate: &Candidate,
        step: &Step,
        thresholds: &Thresholds,
    ) -> Option<Candidate> {
        if candidate.direction == Direction::Over || step.eligible != 2 {
            return None;
        }
        let other = (0..step.members.len())
            .find(|&member| member != candidate.member && step.members[member].eligible)?;
        let short_window = self.short_window.sum(other);
        let cusum = Cusum {
            llr: candidate.cusum.llr,
            observed: short_window.observed,
            expected: short_window.expected_max,
            since_s: candidate.cusum.since_s,
        };
        let over = exceeds(Direction::Over, cusum.ratio(), thresholds.tolerance);
        (over && self.raised[other].is_none()).then_some(Candidate {
            member: other,
            direction: Direction::Over,
            cusum,
        })
    }

    /// Updates raised deviations and clears those that have ended.
    fn update_raised(&mut self, step: &Step, thresholds: &Thresholds) {
        let mut any = false;
        for ((slot, counts), member) in self.raised.iter_mut().zip(&step.members).zip(0..) {
            let Some(raised) = slot else { continue };
            let counted = self.short_window.latest(member);
            let expected = match raised.direction {
                Direction::Over => counted.expected_max,
                Direction::Under => counted.expected_min,
            };
            raised.add(counted.observed, expected);
            let half = thresholds.tolerance / 2.0;
            let gone = raised.direction == Direction::Under && !counts.eligible;
            if gone
                || raised.is_cleared(thresholds, |raised, ratio| {
                    !exceeds(raised.direction, ratio, half)
                })
            {
                *slot = None;
            } else {
                any = true;
            }
        }
        if self.any_raised && !any {
            // Sums collected meanwhile are effects of the fault.
            self.tests.fill(MemberTests::default());
            self.dispersion.interrupt();
        }
        self.any_raised = any;
    }
}

/// Whether the excess is beyond chance (about four standard deviations) and the tolerance.
fn is_far_over(counted: &WindowCounts, thresholds: &Thresholds) -> bool {
    counted.observed - 4.0 * counted.observed.sqrt()
        > counted.expected_max * (1.0 + thresholds.tolerance)
}

fn exceeds(direction: Direction, ratio: f64, tolerance: f64) -> bool {
    match direction {
        Direction::Over => ratio > 1.0 + tolerance,
        Direction::Under => ratio < 1.0 / (1.0 + tolerance),
    }
}
