//! Random numbers: fast, and identical for a seed on every machine.
//!
//! Written by hand because recorded results (`docs/skew.md`) depend on the exact sequence of
//! numbers, which `rand` and `rand_distr` do not keep across versions.

use std::f64::consts::TAU;

/// xoshiro256++ (D. Blackman and S. Vigna, "Scrambled linear pseudorandom number generators", ACM
/// Transactions on Mathematical Software 47, 2021), seeded by SplitMix64.
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut mixed = seed;
        let state = std::array::from_fn(|_| {
            mixed = mixed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = mixed;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^ (word >> 31)
        });
        Self { state }
    }

    fn word(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let word = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        word
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in 0..`bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.unit() * bound as f64) as usize
    }

    /// Exponential with the given mean.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }

    /// Normal with mean 0 and variance 1.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (TAU * self.unit()).cos()
    }

    /// Pareto with tail index `alpha`, from `least` to `most`.
    pub fn pareto(&mut self, least: f64, alpha: f64, most: f64) -> f64 {
        (least * (1.0 - self.unit()).powf(-1.0 / alpha)).min(most)
    }

    /// Gamma with the given shape and mean (G. Marsaglia and W. W. Tsang, "A simple method for
    /// generating gamma variables", ACM Transactions on Mathematical Software 26, 2000).
    pub fn gamma(&mut self, shape: f64, mean: f64) -> f64 {
        if shape < 1.0 {
            let boost = (1.0 - self.unit()).powf(1.0 / shape);
            return self.gamma(shape + 1.0, (shape + 1.0) * mean / shape) * boost;
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && (1.0 - self.unit()).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d * v * mean / shape;
            }
        }
    }

    /// Poisson with the given mean: by inversion if it is small, otherwise by transformed rejection
    /// (W. Hörmann, "The transformed rejection method for generating Poisson random variables",
    /// Insurance: Mathematics and Economics 12, 1993).
    pub fn poisson(&mut self, mean: f64) -> f64 {
        if mean < 12.0 {
            return self.small_poisson(mean);
        }
        let b = 0.931 + 2.53 * mean.sqrt();
        let a = -0.059 + 0.02483 * b;
        let inverse_alpha = 1.1239 + 1.1328 / (b - 3.4);
        let v_r = 0.9277 - 3.6224 / (b - 2.0);
        loop {
            let u = self.unit() - 0.5;
            let v = 1.0 - self.unit();
            let us = 0.5 - u.abs();
            let k = ((2.0 * a / us + b) * u + mean + 0.43).floor();
            if us >= 0.07 && v <= v_r {
                return k;
            }
            if k < 0.0 || (us < 0.013 && v > us) {
                continue;
            }
            let left = (v * inverse_alpha / (a / (us * us) + b)).ln();
            if left <= k * mean.ln() - mean - ln_factorial(k) {
                return k;
            }
        }
    }

    fn small_poisson(&mut self, mean: f64) -> f64 {
        if mean <= 0.0 {
            return 0.0;
        }
        let mut probability = (-mean).exp();
        let mut rest = self.unit() - probability;
        let mut k = 0.0;
        while rest >= 0.0 && k < 200.0 {
            k += 1.0;
            probability *= mean / k;
            rest -= probability;
        }
        k
    }
}

/// `ln k!`, by Stirling's series.
fn ln_factorial(k: f64) -> f64 {
    if k < 10.0 {
        return (2..=k as u32).map(|factor| f64::from(factor).ln()).sum();
    }
    let n = k + 1.0;
    (n - 0.5) * n.ln() - n + 0.5 * TAU.ln() + 1.0 / (12.0 * n) - 1.0 / (360.0 * n.powi(3))
}

/// Draws from a discrete distribution in constant time by the alias method (A. J. Walker, "An
/// efficient method for generating discrete random variables with general distributions", ACM
/// Transactions on Mathematical Software 3, 1977).
#[derive(Clone, Debug, Default)]
pub struct Alias {
    cells: Vec<(f64, usize)>,
}

impl Alias {
    /// `odds` must have the sum 1.
    #[must_use]
    pub fn new(odds: &[f64]) -> Self {
        let count = odds.len();
        let mut left: Vec<f64> = odds.iter().map(|odd| odd * count as f64).collect();
        let mut cells: Vec<(f64, usize)> = (0..count).map(|cell| (1.0, cell)).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..count).partition(|&cell| left[cell] < 1.0);
        while let (Some(less), Some(&more)) = (small.pop(), large.last()) {
            cells[less] = (left[less], more);
            left[more] -= 1.0 - left[less];
            if left[more] < 1.0 {
                large.pop();
                small.push(more);
            }
        }
        Self { cells }
    }

    /// The index that was drawn.
    pub fn draw(&self, random: &mut Random) -> usize {
        let place = random.unit() * self.cells.len() as f64;
        let cell = place as usize;
        let (odds, other) = self.cells[cell];
        if place - (cell as f64) < odds {
            cell
        } else {
            other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(mut draw: impl FnMut() -> f64) -> (f64, f64) {
        let draws: Vec<f64> = (0..200_000).map(|_| draw()).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        (mean, variance)
    }

    #[test]
    fn poisson_has_its_mean_and_variance() {
        for mean in [0.01, 0.5, 3.0, 11.9, 12.1, 40.0, 1e3, 1e6] {
            let mut random = Random::new(7);
            let (got, variance) = moments(|| random.poisson(mean));
            let error = (mean / 200_000.0).sqrt();
            assert!((got - mean).abs() < 5.0 * error, "{mean}: mean {got}");
            let error = ((2.0 * mean * mean + mean) / 200_000.0).sqrt();
            assert!(
                (variance - mean).abs() < 5.0 * error,
                "{mean}: variance {variance}"
            );
        }
    }

    #[test]
    fn poisson_has_its_tail() {
        // P(X ≥ 33) of mean 16 is 1.3e-4; from tables, by summing the probabilities.
        let tail = |mean: f64, from: i32| -> f64 {
            1.0 - (0..from)
                .map(|k| (f64::from(k) * mean.ln() - mean - ln_factorial(f64::from(k))).exp())
                .sum::<f64>()
        };
        let mut random = Random::new(8);
        let draws = 3_000_000;
        let got = (0..draws).filter(|_| random.poisson(16.0) >= 33.0).count() as f64;
        let expected = tail(16.0, 33) * f64::from(draws);
        assert!(
            (got - expected).abs() < 5.0 * expected.sqrt(),
            "{got} of {expected}"
        );
    }

    #[test]
    fn gamma_has_its_mean_and_variance() {
        for (shape, mean) in [(0.4, 2.0), (1.0, 1.0), (9.0, 3.0)] {
            let mut random = Random::new(9);
            let (got, variance) = moments(|| random.gamma(shape, mean));
            assert!((got / mean - 1.0).abs() < 0.02, "{shape}: mean {got}");
            assert!(
                (variance * shape / mean / mean - 1.0).abs() < 0.05,
                "{shape}: {variance}"
            );
        }
    }

    #[test]
    fn alias_draws_by_odds() {
        let odds = [0.5, 0.0, 0.3, 0.2];
        let alias = Alias::new(&odds);
        let mut random = Random::new(10);
        let mut counts = [0.0; 4];
        for _ in 0..100_000 {
            counts[alias.draw(&mut random)] += 1.0 / 100_000.0;
        }
        for (got, odd) in counts.iter().zip(odds) {
            assert!((got - odd).abs() < 0.01, "{counts:?}");
        }
    }
}
