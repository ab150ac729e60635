//! Cumulative sums (CUSUM) of log likelihood ratios: evidence that a member gets more or less than
//! its share.
//!
//! For a member with `e` expected and `x` observed new flows in a second, the log likelihood ratio
//! of "ρ times its share" against "its share" is `x·ln ρ − e·(ρ−1)`, in nats. The sum is bounded
//! below by zero (E. S. Page, "Continuous inspection schemes", Biometrika 41, 1954). It is the
//! evidence of the **best interval that ends now**, of any length: one second at a million flows
//! per second, a quarter of an hour at ten per minute. The start of the interval estimates the
//! onset.
//!
//! The formula assumes Poisson counts. For a given total, counts are multinomial and vary less: the
//! expected likelihood ratio, `(1 + t(ρ−1))^n · exp(−n·t(ρ−1))`, is below 1, so the bound on false
//! alarms holds for them too.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Over,
    Under,
}

/// A cumulative sum, with the flows of its interval.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cusum {
    /// Log likelihood ratio, nats.
    pub(super) llr: f64,
    /// Flows in the interval.
    pub(super) observed: f64,
    /// Expected flows in the interval.
    pub(super) expected: f64,
    /// Start of the interval.
    pub(super) since_s: f64,
}

/// An alternative hypothesis: a member gets `ratio` times its share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alternative {
    ln_ratio: f64,
    less_one: f64,
}

impl Alternative {
    pub(super) fn new(ratio: f64) -> Self {
        Self {
            ln_ratio: ratio.ln(),
            less_one: ratio - 1.0,
        }
    }

    pub(super) fn gain(self, observed: f64, expected: f64) -> f64 {
        observed * self.ln_ratio - expected * self.less_one
    }
}

/// Limits of a cumulative sum.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Highest contribution of one observation, so that no single one raises a finding.
    pub(super) step: f64,
    /// Highest value of the sum, so that it falls again soon after the deviation ends.
    pub(super) sum: f64,
}

impl Cusum {
    /// Adds an observation that started at `from_s`.
    pub(super) fn add(
        &mut self,
        gain: f64,
        observed: f64,
        expected: f64,
        bounds: Bounds,
        from_s: f64,
    ) {
        let llr = self.llr + gain.min(bounds.step);
        if llr > 0.0 {
            if self.llr == 0.0 {
                self.since_s = from_s;
            }
            self.llr = llr.min(bounds.sum);
            self.observed += observed;
            self.expected += expected;
        } else {
            *self = Self::default();
        }
    }

    /// Observed divided by expected flows.
    pub(super) fn ratio(&self) -> f64 {
        self.observed / self.expected.max(f64::MIN_POSITIVE)
    }
}

/// The sums of a member: a large and a small deviation in each direction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MemberTests {
    over: [Cusum; 2],
    under: [Cusum; 2],
}

/// The alternative hypotheses.
///
/// A sum grows where the ratio exceeds `(ρ−1) / ln ρ`, about √ρ. With ρ = (1+δ)² that is the
/// tolerance δ: deviations within it never become evidence, whatever the number of flows, and
/// larger ones always do. The large alternative is fastest for members at twice or half their
/// share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alternatives {
    tolerance: f64,
    over: [Alternative; 2],
    under: [Alternative; 2],
}

impl Alternatives {
    pub(super) fn new(tolerance: f64) -> Self {
        let small = (1.0 + tolerance) * (1.0 + tolerance);
        let large = f64::max(2.0, 1.5 * small);
        Self {
            tolerance,
            over: [Alternative::new(large), Alternative::new(small)],
            under: [Alternative::new(1.0 / large), Alternative::new(1.0 / small)],
        }
    }

    /// The evidence of an interval for a different number of expected flows.
    pub(super) fn evidence(&self, direction: Direction, observed: f64, expected: f64) -> f64 {
        let alternatives = match direction {
            Direction::Over => &self.over,
            Direction::Under => &self.under,
        };
        let gain = |alternative: &Alternative| alternative.gain(observed, expected);
        alternatives.iter().map(gain).fold(0.0, f64::max)
    }

    pub(super) fn are_for(&self, tolerance: f64) -> bool {
        self.tolerance == tolerance
    }
}

/// Bounds of the expected flows of a member.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    pub(super) expected_max: f64,
    pub(super) expected_min: f64,
}

impl MemberTests {
    pub(super) fn add(
        &mut self,
        alternatives: &Alternatives,
        observed: f64,
        expected: Expected,
        dispersion: f64,
        bounds: Bounds,
        from_s: f64,
    ) {
        let Expected {
            expected_max,
            expected_min,
        } = expected;
        for (cusum, alternative) in self.over.iter_mut().zip(&alternatives.over) {
            let gain = alternative.gain(observed, expected_max) / dispersion;
            cusum.add(gain, observed, expected_max, bounds, from_s);
        }
        for (cusum, alternative) in self.under.iter_mut().zip(&alternatives.under) {
            let gain = alternative.gain(observed, expected_min) / dispersion;
            cusum.add(gain, observed, expected_min, bounds, from_s);
        }
    }

    /// The first sum in this direction that has reached `wanted`.
    pub(super) fn proof(&self, direction: Direction, wanted: f64) -> Option<Cusum> {
        let cusums = match direction {
            Direction::Over => &self.over,
            Direction::Under => &self.under,
        };
        cusums.iter().copied().find(|cusum| cusum.llr >= wanted)
    }

    /// Whether any sum has reached `wanted`.
    pub(super) fn has_proof(&self, wanted: f64) -> bool {
        self.over[0].llr >= wanted
            || self.over[1].llr >= wanted
            || self.under[0].llr >= wanted
            || self.under[1].llr >= wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        step: 10.0,
        sum: 40.0,
    };

    #[test]
    fn a_sum_starts_at_the_onset() {
        let twice = Alternative::new(2.0);
        let mut cusum = Cusum::default();
        for second in 1..=20 {
            let observed = if second <= 12 { 9.0 } else { 20.0 };
            cusum.add(
                twice.gain(observed, 10.0),
                observed,
                10.0,
                BOUNDS,
                f64::from(second - 1),
            );
        }
        assert_eq!(cusum.since_s, 12.0);
        assert_eq!(cusum.ratio(), 2.0);
        let expected = 8.0 * (20.0 * std::f64::consts::LN_2 - 10.0);
        assert!((cusum.llr - expected).abs() < 1e-9, "{}", cusum.llr);
    }

    #[test]
    fn one_second_is_bounded() {
        let mut cusum = Cusum::default();
        cusum.add(1e6, 2e6, 1e6, BOUNDS, 1.0);
        assert_eq!(cusum.llr, BOUNDS.step);
    }

    #[test]
    fn a_sum_is_bounded() {
        let mut cusum = Cusum::default();
        for second in 1..100 {
            cusum.add(9.0, 20.0, 10.0, BOUNDS, f64::from(second));
        }
        assert_eq!(cusum.llr, BOUNDS.sum);
    }
}
