//! Overload and starvation: new flows against the share of the table.
//!
//! Two questions, two windows. *Is it chance?* is asked of the evidence ([`super::evidence`]): the long
//! window, which is as long as the trouble. *Does it matter, and is it so now?* is asked of the ratio, in
//! that stretch and in the short window. A finding is raised when both say yes, for the member that
//! explains most; what the others have more or less because of it is no finding.

use super::{
    Thresholds,
    counts::{Step, rearranged},
    dispersion::{Dispersion, Residuals},
    evidence::{Alternatives, Bounds, Direction, Expected, Stretch, Tests},
    raised::Raised,
    recent::{Counted, Recent},
};

/// Times the wanted evidence that a sum may hold.
const HEADROOM: f64 = 1.5;

/// A member that seems to get more or less than its share.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    member: usize,
    direction: Direction,
    stretch: Stretch,
}

/// The watch over the shares of new flows.
#[derive(Clone, Debug)]
pub(super) struct Shares {
    alternatives: Alternatives,
    tests: Vec<Tests>,
    residuals: Vec<Residuals>,
    recent: Recent,
    raised: Vec<Option<Raised>>,
    any_raised: bool,
    /// Since when shares are off because old flows are counted again.
    transition_s: Option<f64>,
    dispersion: Dispersion,
}

impl Shares {
    pub(super) fn new(thresholds: &Thresholds, independent: bool) -> Self {
        Self {
            alternatives: Alternatives::new(thresholds.tolerance),
            tests: Vec::new(),
            residuals: Vec::new(),
            recent: Recent::new(thresholds.short_s.max(1) as usize, 0),
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
        self.recent = self.recent.rearranged(places);
        self.dispersion.interrupt();
    }

    pub(super) fn phi(&self) -> f64 {
        self.dispersion.phi()
    }

    /// What the member should have got, without what it was allowed for flows that always choose it.
    pub(super) fn expected(&self, raised: &Raised, share: f64, thresholds: &Thresholds) -> f64 {
        let allowance = self
            .dispersion
            .allowance(share, thresholds.widest_tolerance);
        match raised.direction {
            Direction::Over => raised.expected / allowance,
            Direction::Under => raised.expected * allowance,
        }
    }

    /// Members that have a finding.
    pub(super) fn raised(&self) -> impl Iterator<Item = (usize, &Raised)> {
        let raised = if self.any_raised { &*self.raised } else { &[] };
        raised
            .iter()
            .enumerate()
            .filter_map(|(member, raised)| Some((member, raised.as_ref()?)))
    }

    /// Members that get more than their share while old flows are counted again: since when, and what came in the
    /// short window.
    pub(super) fn in_transition(
        &self,
        thresholds: &Thresholds,
    ) -> Option<(f64, Vec<(usize, Counted)>)> {
        let since_s = self.transition_s?;
        let members = (0..self.tests.len()).map(|member| (member, self.recent.sum(member)));
        let off = members.filter(|(_, counted)| is_far_over(counted, thresholds));
        Some((since_s, off.collect()))
    }

    pub(super) fn observe(&mut self, step: &Step, thresholds: &Thresholds) {
        let wanted = thresholds.evidence(step.eligible);
        if step.suspended {
            self.wait(step, thresholds);
            return;
        }
        self.transition_s = None;
        if !self.alternatives.are_for(thresholds.tolerance) {
            self.alternatives = Alternatives::new(thresholds.tolerance);
        }
        let proof = self.add(step, thresholds, wanted);
        if !self.dispersion.is_known() {
            self.tests.fill(Tests::default());
        }
        if self.any_raised {
            self.follow(step, thresholds);
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

    /// Adds the step to all tests; whether any has the evidence.
    fn add(&mut self, step: &Step, thresholds: &Thresholds, wanted: f64) -> bool {
        let phi = self.dispersion.phi();
        let bounds = Bounds {
            step: wanted / f64::from(thresholds.least_seconds.max(1)),
            sum: wanted * HEADROOM,
        };
        self.recent.advance();
        let mut any = false;
        for (member, (came, tests)) in step.members.iter().zip(&mut self.tests).enumerate() {
            let allowance = self
                .dispersion
                .allowance(came.share, thresholds.widest_tolerance);
            let expected = Expected {
                most: step.flows * came.most_share * allowance,
                least: step.flows * came.least_share / allowance,
            };
            tests.add(
                &self.alternatives,
                came.flows,
                expected,
                phi,
                bounds,
                step.began_s(),
            );
            let counted = Counted {
                got: came.flows,
                most: expected.most,
                least: expected.least,
            };
            self.recent.set(member, counted);
            any |= tests.has_proof(wanted);
        }
        any
    }

    /// Lets an observation pass of which nothing follows for the shares.
    fn wait(&mut self, step: &Step, thresholds: &Thresholds) {
        self.recent.advance();
        let mut any = false;
        for (member, came) in step.members.iter().enumerate() {
            let counted = Counted {
                got: came.flows,
                most: step.flows * came.most_share,
                least: step.flows * came.least_share,
            };
            self.recent.set(member, counted);
            any |= is_far_over(&self.recent.sum(member), thresholds);
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
            members.map(|(came, kept)| (came.flows - flows * came.share, came.share, kept));
        self.dispersion.learn(flows, residuals);
        if self.dispersion.is_block_full() {
            let shares = step.members.iter().map(|came| came.share);
            self.dispersion
                .close_blocks(shares.zip(&mut self.residuals));
        }
    }

    fn raise(&mut self, step: &Step, thresholds: &Thresholds, wanted: f64) {
        let candidates = self.candidates(step, thresholds, wanted);
        for mut candidate in self.explaining(candidates, step, thresholds, wanted) {
            if let Some(other) = self.instead(&candidate, step, thresholds) {
                candidate = other;
            }
            self.raised[candidate.member] = Some(Raised::new(
                candidate.direction,
                candidate.stretch,
                step.now_s,
            ));
            self.any_raised = true;
        }
    }

    /// Members for which evidence and both windows agree.
    fn candidates(&self, step: &Step, thresholds: &Thresholds, wanted: f64) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        for (member, tests) in self.tests.iter().enumerate() {
            if self.raised[member].is_some() {
                continue;
            }
            for direction in [Direction::Over, Direction::Under] {
                let matters = |stretch: &Stretch| {
                    exceeds(direction, stretch.ratio(), thresholds.tolerance)
                        && self.is_now(member, direction, thresholds)
                        && (direction == Direction::Over || step.members[member].eligible)
                };
                if let Some(stretch) = tests.proof(direction, wanted).filter(matters) {
                    candidates.push(Candidate {
                        member,
                        direction,
                        stretch,
                    });
                }
            }
        }
        candidates
    }

    /// Whether the short window has it too. Where it has few flows it need only not speak against it.
    fn is_now(&self, member: usize, direction: Direction, thresholds: &Thresholds) -> bool {
        let Counted { got, most, least } = self.recent.sum(member);
        let doubt = (self.dispersion.phi() * got).sqrt();
        match direction {
            Direction::Over => got + doubt + 1.0 >= most * (1.0 + thresholds.tolerance),
            Direction::Under => got - doubt - 1.0 <= least / (1.0 + thresholds.tolerance),
        }
    }

    /// Of the candidates, those that remain when what is already explained is taken away: the
    /// strongest first, then those that still deviate from what it leaves for the others.
    fn explaining(
        &self,
        mut candidates: Vec<Candidate>,
        step: &Step,
        thresholds: &Thresholds,
        wanted: f64,
    ) -> Vec<Candidate> {
        let mut share = 0.0;
        let mut flows = 0.0;
        for (member, raised) in self.raised() {
            let recent = self.recent.sum(member);
            // While the short window begins before the fault, it is of two minds.
            let ratio = if step.now_s - raised.since_s < 2.0 * f64::from(thresholds.short_s) {
                raised.ratio()
            } else {
                recent.got / recent.most.max(1.0)
            };
            share += step.members[member].share;
            flows += step.members[member].share * ratio;
        }
        let mut chosen = Vec::new();
        while !candidates.is_empty() && share < 0.999 {
            let left = ((1.0 - flows) / (1.0 - share)).max(0.01);
            // Against what is left, both the size and the evidence must still be there.
            candidates.retain(|candidate| {
                let Stretch { got, expected, .. } = candidate.stretch;
                let direction = candidate.direction;
                let evidence = self.alternatives.evidence(direction, got, expected * left);
                exceeds(direction, got / (expected * left), thresholds.tolerance)
                    && (share == 0.0 || evidence / self.dispersion.phi() >= wanted)
            });
            let strength = |candidate: &Candidate| {
                let expected = candidate.stretch.expected * left;
                let got = candidate.stretch.got;
                (got - expected).abs() / expected.max(1.0).sqrt()
            };
            let Some(place) = (0..candidates.len())
                .max_by(|&a, &b| strength(&candidates[a]).total_cmp(&strength(&candidates[b])))
            else {
                break;
            };
            let best = candidates.swap_remove(place);
            share += step.members[best.member].share;
            flows += step.members[best.member].share * best.stretch.ratio();
            chosen.push(best);
        }
        chosen
    }

    /// Of two members, one gets too much as the other gets too little: the one that carries the load is named.
    fn instead(
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
        let recent = self.recent.sum(other);
        let stretch = Stretch {
            llr: candidate.stretch.llr,
            got: recent.got,
            expected: recent.most,
            since_s: candidate.stretch.since_s,
        };
        let over = exceeds(Direction::Over, stretch.ratio(), thresholds.tolerance);
        (over && self.raised[other].is_none()).then_some(Candidate {
            member: other,
            direction: Direction::Over,
            stretch,
        })
    }

    /// Goes on with what is raised, and clears what is over.
    fn follow(&mut self, step: &Step, thresholds: &Thresholds) {
        let mut any = false;
        for ((slot, came), member) in self.raised.iter_mut().zip(&step.members).zip(0..) {
            let Some(raised) = slot else { continue };
            let counted = self.recent.latest(member);
            let expected = match raised.direction {
                Direction::Over => counted.most,
                Direction::Under => counted.least,
            };
            raised.add(counted.got, expected);
            let half = thresholds.tolerance / 2.0;
            let gone = raised.direction == Direction::Under && !came.eligible;
            if gone
                || raised.is_over(thresholds, |raised, ratio| {
                    !exceeds(raised.direction, ratio, half)
                })
            {
                *slot = None;
            } else {
                any = true;
            }
        }
        if self.any_raised && !any {
            // What the others gathered meanwhile was the fault's doing.
            self.tests.fill(Tests::default());
            self.dispersion.interrupt();
        }
        self.any_raised = any;
    }
}

/// Whether it is more than chance would have it, about.
fn is_far_over(counted: &Counted, thresholds: &Thresholds) -> bool {
    counted.got - 4.0 * counted.got.sqrt() > counted.most * (1.0 + thresholds.tolerance)
}

fn exceeds(direction: Direction, ratio: f64, tolerance: f64) -> bool {
    match direction {
        Direction::Over => ratio > 1.0 + tolerance,
        Direction::Under => ratio < 1.0 / (1.0 + tolerance),
    }
}
