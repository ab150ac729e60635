//! Estimates the lasting variance of shares that reused ports cause.
//!
//! Where flows are hashed one by one, shares even out with more flows, unless a few NATs reuse
//! their ports: each pair of address and port selects the same member every time. Then **all**
//! members are off their shares by some percent for hours, while a fault affects only some members.
//! So the estimate uses the median over the members, which no minority can change (P. J. Rousseeuw,
//! C. Croux, "Alternatives to the median absolute deviation", Journal of the American Statistical
//! Association 88, 1993).

/// Decay of the sums per second: a time constant of one hour.
const DECAY: f64 = 1.0 - 1.0 / 3600.0;
/// Fewest members for a meaningful median. With fewer, shares are so large that this variance is
/// far below any tolerance.
const FEWEST: usize = 25;
/// Median of the square of a normal variable with variance 1.
const MEDIAN_OF_SQUARE: f64 = 0.4549;
/// Standard deviation of a variance estimated from a median of squares, times √members.
const NOISE: f64 = 2.33;

/// Exponentially weighted sums over about an hour.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PortReuse {
    flows: f64,
    /// Variance of the residuals (observed minus expected flows) by chance alone, divided by
    /// t(1−t).
    variance: f64,
    kappa: f64,
}

impl PortReuse {
    /// Adds the flows of an observation.
    pub(super) fn learn(&mut self, flows: f64) {
        self.flows = self.flows * DECAY + flows;
        self.variance = self.variance * (DECAY * DECAY) + flows;
    }

    /// Adds a residual (observed minus expected flows) to the decaying sum of a member.
    pub(super) fn add_residual(sum: &mut f64, residual: f64) {
        *sum = *sum * DECAY + residual;
    }

    /// κ: variance of a member's share, divided by t(1−t), that does not decrease with more flows.
    pub(super) fn kappa(&self) -> f64 {
        self.kappa
    }

    /// Updates κ. Takes the share and the residual sum of each member.
    pub(super) fn estimate(&mut self, phi: f64, members: &[(f64, f64)]) {
        let members = members.iter().filter(|&&(t, _)| t > 0.0 && t < 1.0);
        let number = members.clone().count();
        if number < FEWEST || self.flows <= 0.0 {
            self.kappa = 0.0;
            return;
        }
        // A fault of some members shifts all others in common.
        let common = median(members.clone().map(|(t, sum)| sum / t).collect());
        let squares = members.map(|(t, sum)| (sum - common * t).powi(2) / (t * (1.0 - t)));
        let noise = 1.0 + NOISE / (number as f64).sqrt();
        let seen = median(squares.collect()) / MEDIAN_OF_SQUARE / noise;
        self.kappa = (seen - phi * self.variance).max(0.0) / (self.flows * self.flows);
    }
}

/// The upper median of at least one number.
fn median(mut numbers: Vec<f64>) -> f64 {
    let middle = numbers.len() / 2;
    *numbers.select_nth_unstable_by(middle, f64::total_cmp).1
}
