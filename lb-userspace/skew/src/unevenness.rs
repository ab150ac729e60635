//! How unevenly all members get their flows, for longer than chance would have it.
//!
//! Where flows are hashed one by one, more of them even out; but not when a few NATs use their ports again and again: each pair of
//! address and port goes to the same member every time. Then **all** members are off their shares, by some
//! percent, for hours. A fault is with some of them. So what is usual is asked of the members' median: no minority
//! changes it, whatever happens to it (P. J. Rousseeuw, C. Croux, "Alternatives to the median absolute deviation",
//! Journal of the American Statistical Association 88, 1993).

/// What is kept from one second to the next: an hour is remembered.
const KEPT: f64 = 1.0 - 1.0 / 3600.0;
/// Members below which a median says little. With so few, shares are so large that chance of this kind is far
/// below any tolerance.
const FEWEST: usize = 25;
/// Median of the square of a normal variable with variance 1.
const MEDIAN_OF_SQUARE: f64 = 0.4549;
/// Standard deviation of a variance that is taken from the median of so many squares, times √members.
const NOISE: f64 = 2.33;

/// Sums over about the last hour.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unevenness {
    flows: f64,
    /// The variance of what members got less what they should have got is this times t(1−t), by chance alone.
    variance: f64,
    kappa: f64,
}

impl Unevenness {
    /// Learns from an observation.
    pub(super) fn learn(&mut self, flows: f64) {
        self.flows = self.flows * KEPT + flows;
        self.variance = self.variance * (KEPT * KEPT) + flows;
    }

    /// Adds what a member got less what it should have got to what is kept of it.
    pub(super) fn keep(kept: &mut f64, residual: f64) {
        *kept = *kept * KEPT + residual;
    }

    /// κ: the variance of a member's share, over t(1−t), that more flows do not take away.
    pub(super) fn kappa(&self) -> f64 {
        self.kappa
    }

    /// Finds κ anew. Of each member its share and what is kept of it.
    pub(super) fn judge(&mut self, phi: f64, members: &[(f64, f64)]) {
        let members = members.iter().filter(|&&(t, _)| t > 0.0 && t < 1.0);
        let number = members.clone().count();
        if number < FEWEST || self.flows <= 0.0 {
            self.kappa = 0.0;
            return;
        }
        // What some have more because of a fault, all others have less.
        let common = median(members.clone().map(|(t, kept)| kept / t).collect());
        let squares = members.map(|(t, kept)| (kept - common * t).powi(2) / (t * (1.0 - t)));
        let noise = 1.0 + NOISE / (number as f64).sqrt();
        let seen = median(squares.collect()) / MEDIAN_OF_SQUARE / noise;
        self.kappa = (seen - phi * self.variance).max(0.0) / (self.flows * self.flows);
    }
}

/// The upper median; there is at least one number.
fn median(mut numbers: Vec<f64>) -> f64 {
    let middle = numbers.len() / 2;
    *numbers.select_nth_unstable_by(middle, f64::total_cmp).1
}
