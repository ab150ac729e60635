//! Evidence that a member gets more or less than it should: sums of log likelihood ratios.
//!
//! For a member that should get `e` of the new flows of a second and gets `x`, the logarithm of the
//! likelihood ratio of "ρ times its share" against "its share" is `x·ln ρ − e·(ρ−1)`. The sum of these is kept
//! from falling below zero (E. S. Page, "Continuous inspection schemes", Biometrika 41, 1954). So
//! it is the evidence of the **best stretch that ends now**, however long that is: one second at a million
//! flows a second, a quarter of an hour at ten a minute; and where the stretch began is when the trouble began.
//!
//! The formula is that of Poisson counts. Given the flows of the VIP, the counts are multinomial, which varies less:
//! the expectation of the likelihood ratio, `(1 + t(ρ−1))^n · exp(−n·t(ρ−1))`, is then below 1, and the
//! bound on false alarms holds all the more.

/// The direction of a deviation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Over,
    Under,
}

/// The best stretch that ends now.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stretch {
    /// Evidence.
    pub(super) llr: f64,
    /// What came in it.
    pub(super) got: f64,
    /// What should have come.
    pub(super) expected: f64,
    /// When it began.
    pub(super) since_s: f64,
}

/// A size of deviation that is tested for.
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

    pub(super) fn gain(self, got: f64, expected: f64) -> f64 {
        got * self.ln_ratio - expected * self.less_one
    }
}

/// How much a sum may grow and hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Evidence that one observation may give: more must be seen more than once.
    pub(super) step: f64,
    /// Where a sum ends: it need not grow without end to be forgotten again.
    pub(super) sum: f64,
}

impl Stretch {
    /// Adds an observation that began at `from_s`.
    pub(super) fn add(&mut self, gain: f64, got: f64, expected: f64, bounds: Bounds, from_s: f64) {
        let llr = self.llr + gain.min(bounds.step);
        if llr > 0.0 {
            if self.llr == 0.0 {
                self.since_s = from_s;
            }
            self.llr = llr.min(bounds.sum);
            self.got += got;
            self.expected += expected;
        } else {
            *self = Self::default();
        }
    }

    /// What came over what should have come.
    pub(super) fn ratio(&self) -> f64 {
        self.got / self.expected.max(f64::MIN_POSITIVE)
    }
}

/// The tests of a member: a large and a small deviation, up and down.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tests {
    over: [Stretch; 2],
    under: [Stretch; 2],
}

/// The sizes that are tested for.
///
/// A sum grows where the ratio is beyond `(ρ−1) / ln ρ`, about √ρ. With ρ = (1+δ)² that is the tolerance: what is within
/// it never becomes evidence, however many flows there are, and what is beyond it always does. The large
/// size is quickest for members at twice and half their share.
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

    /// The evidence of a stretch in which other than it was told should have come.
    pub(super) fn evidence(&self, direction: Direction, got: f64, expected: f64) -> f64 {
        let alternatives = match direction {
            Direction::Over => &self.over,
            Direction::Under => &self.under,
        };
        let gain = |alternative: &Alternative| alternative.gain(got, expected);
        alternatives.iter().map(gain).fold(0.0, f64::max)
    }

    /// Whether they are those of this tolerance.
    pub(super) fn are_for(&self, tolerance: f64) -> bool {
        self.tolerance == tolerance
    }
}

/// What a member should have got.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// At most.
    pub(super) most: f64,
    /// At least.
    pub(super) least: f64,
}

impl Tests {
    /// Adds an observation.
    pub(super) fn add(
        &mut self,
        alternatives: &Alternatives,
        got: f64,
        expected: Expected,
        dispersion: f64,
        bounds: Bounds,
        from_s: f64,
    ) {
        let Expected { most, least } = expected;
        for (stretch, alternative) in self.over.iter_mut().zip(&alternatives.over) {
            let gain = alternative.gain(got, most) / dispersion;
            stretch.add(gain, got, most, bounds, from_s);
        }
        for (stretch, alternative) in self.under.iter_mut().zip(&alternatives.under) {
            let gain = alternative.gain(got, least) / dispersion;
            stretch.add(gain, got, least, bounds, from_s);
        }
    }

    /// The stretch in this direction that has the evidence, if one has.
    pub(super) fn proof(&self, direction: Direction, wanted: f64) -> Option<Stretch> {
        let stretches = match direction {
            Direction::Over => &self.over,
            Direction::Under => &self.under,
        };
        stretches
            .iter()
            .copied()
            .find(|stretch| stretch.llr >= wanted)
    }

    /// Whether any test has the evidence.
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
    fn a_stretch_begins_where_the_trouble_begins() {
        let twice = Alternative::new(2.0);
        let mut stretch = Stretch::default();
        for second in 1..=20 {
            let got = if second <= 12 { 9.0 } else { 20.0 };
            stretch.add(
                twice.gain(got, 10.0),
                got,
                10.0,
                BOUNDS,
                f64::from(second - 1),
            );
        }
        assert_eq!(stretch.since_s, 12.0);
        assert_eq!(stretch.ratio(), 2.0);
        let expected = 8.0 * (20.0 * std::f64::consts::LN_2 - 10.0);
        assert!((stretch.llr - expected).abs() < 1e-9, "{}", stretch.llr);
    }

    #[test]
    fn one_second_is_never_enough() {
        let mut stretch = Stretch::default();
        stretch.add(1e6, 2e6, 1e6, BOUNDS, 1.0);
        assert_eq!(stretch.llr, BOUNDS.step);
    }

    #[test]
    fn a_sum_is_bounded_so_that_it_can_be_forgotten() {
        let mut stretch = Stretch::default();
        for second in 1..100 {
            stretch.add(9.0, 20.0, 10.0, BOUNDS, f64::from(second));
        }
        assert_eq!(stretch.llr, BOUNDS.sum);
    }
}
