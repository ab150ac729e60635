//! Dispersion: how much more the counts vary than those of independent flows.
//!
//! Two kinds of dependence are estimated here, a third in [`super::port_reuse`]:
//!
//! - **φ**, bursts: flows of one or a few seconds go to the same member together. The variance of a
//!   count is φ times that of independent flows. This is common where the hash covers only the
//!   source; elsewhere it is caused by SYNs repeated after 1, 3, 7, 15 s. φ is estimated from
//!   **differences between adjacent seconds** and adjacent blocks (J. von Neumann, "Distribution of
//!   the ratio of the mean square successive difference to the variance", Annals of Mathematical
//!   Statistics 12, 1941): X²/(k−1) would grow with the very deviation that is to be detected.
//! - **κ**, heavy sources: where the hash covers only the source, a large source stays on its
//!   member, and more flows do not average it out. κ is the probability that two flows have the
//!   same source (Σ of the squared shares of the sources, cf. J. E. Mosimann, Biometrika 49, 1962);
//!   the variance of a member's share is then at least κ·t(1−t).
//!
//! Sums of squares over all members are divided once: the mean is the same, and members with tiny
//! shares, whose (x−e)²/e is either nothing or enormous, add no noise.

use super::port_reuse::PortReuse;

/// Memory of φ, observations.
const MEMORY: f64 = 300.0;
/// Memory of φ, blocks.
const BLOCK_MEMORY: f64 = 60.0;
/// Short windows per block where flows are hashed one by one: SYNs are repeated for half a minute
/// or more.
const BLOCK_OF_REPEATS: usize = 6;
/// Factor on the excess of such blocks, for repeats that fall into the adjacent block.
const BLOCK_MARGIN: f64 = 1.5;
/// Memory of κ, long blocks: twelve hours of two minutes each. Few sources give few independent
/// samples, and traffic at night differs from that of the day.
const SOURCE_MEMORY: f64 = 360.0;
/// Added to the estimate of κ: about forty sources of 0.5 to 1 % that were not seen yet.
const LEAST_KAPPA: f64 = 0.002;
/// Factor on the estimate of κ: few samples of few large sources underestimate their tail.
const KAPPA_MARGIN: f64 = 1.5;
/// Highest contribution of one observation, as a multiple of the mean, so that the onset of a fault
/// does not raise the estimate.
const CLIP: f64 = 8.0;
/// The same for blocks of repeats.
const BLOCK_CLIP: f64 = 3.0;
/// Expected flows below which φ is 1.
const ENOUGH: f64 = 50.0;
/// Noise of the estimate of φ.
const NOISE: f64 = 0.1;
/// Tolerated standard deviations of a share due to κ.
const SOURCE_Z: f64 = 3.0;

/// A ratio of two means over about the last `memory` observations.
#[derive(Clone, Copy, Debug, Default)]
struct RatioOfMeans {
    above: f64,
    below: f64,
    count: f64,
}

impl RatioOfMeans {
    fn add(&mut self, above: f64, below: f64, memory: f64, clip: f64) {
        self.count = (self.count + 1.0).min(memory);
        let clipped = if self.below * self.count > ENOUGH {
            above.min(clip * self.value().max(1.0) * below)
        } else {
            above
        };
        self.above += (clipped - self.above) / self.count;
        self.below += (below - self.below) / self.count;
    }

    fn value(&self) -> f64 {
        if self.below * self.count > ENOUGH {
            self.above / self.below
        } else {
            1.0
        }
    }
}

/// Residuals (observed minus expected flows) of a member.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Residuals {
    last: f64,
    block: f64,
    last_block: f64,
    long: f64,
    /// For [`PortReuse`].
    lasting: f64,
}

/// Estimates of a VIP.
#[derive(Clone, Debug)]
pub(super) struct Dispersion {
    independent: bool,
    short: usize,
    long: usize,
    seconds: RatioOfMeans,
    blocks: RatioOfMeans,
    kappa: f64,
    kappas: f64,
    last_variance: Option<f64>,
    block: Block,
    last_block: Option<f64>,
    long_block: Block,
    port_reuse: PortReuse,
    /// Effective degrees of freedom: those of equal shares with the same spread.
    freedom: f64,
}

/// An incomplete block of observations.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    observations: usize,
    variance: f64,
    flows: f64,
    /// Latest Σ t(1−t).
    spread: f64,
}

impl Block {
    fn add(&mut self, variance: f64, flows: f64, spread: f64) {
        self.observations += 1;
        self.variance += variance;
        self.flows += flows;
        self.spread = spread;
    }
}

impl Dispersion {
    pub(super) fn new(independent: bool, short: u32, long: u32) -> Self {
        Self {
            independent,
            short: short as usize * if independent { BLOCK_OF_REPEATS } else { 1 },
            long: long as usize,
            seconds: RatioOfMeans::default(),
            blocks: RatioOfMeans::default(),
            kappa: 0.0,
            kappas: 0.0,
            last_variance: None,
            block: Block::default(),
            last_block: None,
            long_block: Block::default(),
            port_reuse: PortReuse::default(),
            freedom: 1.0,
        }
    }

    pub(super) fn phi(&self) -> f64 {
        let blocks = if self.independent {
            // Blocks are few: only an excess beyond their noise counts.
            let noise = (3.0 / (self.freedom * self.blocks.count.max(1.0))).sqrt();
            1.0 + BLOCK_MARGIN * (self.blocks.value() / (1.0 + noise) - 1.0)
        } else {
            self.blocks.value()
        };
        (self.seconds.value().max(blocks) - NOISE).max(1.0)
    }

    /// κ with a margin for sources that were not seen yet.
    fn kappa(&self) -> f64 {
        if self.independent {
            self.port_reuse.kappa()
        } else {
            LEAST_KAPPA + KAPPA_MARGIN * self.learned_kappa()
        }
    }

    fn learned_kappa(&self) -> f64 {
        self.kappa.max(0.0)
    }

    /// Whether the estimate is usable.
    pub(super) fn is_known(&self) -> bool {
        self.independent || self.kappas >= 1.0
    }

    /// Multiple of its share that a member may get because of κ: at most `1 + widest`.
    pub(super) fn allowance(&self, share: f64, widest: f64) -> f64 {
        let kappa = self.kappa();
        if kappa == 0.0 || share <= 0.0 {
            return 1.0;
        }
        1.0 + (SOURCE_Z * (kappa * (1.0 - share) / share).sqrt()).min(widest)
    }

    /// Adds an observation: the residual of each member, its share, and its stored residuals.
    /// `flows` is the sum over all members.
    pub(super) fn learn<'a>(
        &mut self,
        flows: f64,
        members: impl Iterator<Item = (f64, f64, &'a mut Residuals)>,
    ) {
        let mut squares = 0.0;
        let mut spread = 0.0;
        let mut spread_squares = 0.0;
        let independent = self.independent;
        for (residual, share, kept) in members {
            let difference = residual - kept.last;
            squares += difference * difference;
            let own = share * (1.0 - share);
            spread += own;
            spread_squares += own * own;
            kept.last = residual;
            kept.block += residual;
            if independent {
                PortReuse::add_residual(&mut kept.lasting, residual);
            } else {
                kept.long += residual;
            }
        }
        self.freedom =
            (spread * spread / f64::max(spread_squares, f64::MIN_POSITIVE) - 1.0).max(1.0);
        let variance = flows * spread;
        if let Some(last) = self.last_variance
            && variance + last > 0.0
        {
            self.seconds.add(squares, variance + last, MEMORY, CLIP);
        }
        self.last_variance = Some(variance);
        self.block.add(variance, flows, spread);
        if independent {
            self.port_reuse.learn(flows);
        } else {
            self.long_block.add(variance, flows, spread);
        }
    }

    /// Whether [`Self::close_blocks`] must be called.
    pub(super) fn is_block_full(&self) -> bool {
        self.block.observations >= self.short
            || (!self.independent && self.long_block.observations >= self.long)
    }

    /// Adds complete blocks to the estimates. Takes the share and the stored residuals of each
    /// member.
    pub(super) fn close_blocks<'a>(
        &mut self,
        members: impl Iterator<Item = (f64, &'a mut Residuals)>,
    ) {
        let short = self.block.observations >= self.short;
        let long = !self.independent && self.long_block.observations >= self.long;
        let (mut differences, mut squares) = (0.0, 0.0);
        let mut lasting = Vec::new();
        for (share, kept) in members {
            if self.independent {
                lasting.push((share, kept.lasting));
            }
            if short {
                let difference = kept.block - kept.last_block;
                differences += difference * difference;
                kept.last_block = std::mem::take(&mut kept.block);
            }
            if long {
                squares += kept.long * kept.long;
                kept.long = 0.0;
            }
        }
        if short {
            let variance = std::mem::take(&mut self.block).variance;
            if let Some(last) = self.last_block.replace(variance)
                && variance + last > 0.0
            {
                let clip = if self.independent { BLOCK_CLIP } else { CLIP };
                self.blocks
                    .add(differences, variance + last, BLOCK_MEMORY, clip);
            }
        }
        if self.independent {
            self.port_reuse.estimate(self.phi(), &lasting);
        }
        if long {
            self.close_long(squares);
        }
    }

    fn close_long(&mut self, squares: f64) {
        let block = std::mem::take(&mut self.long_block);
        if block.flows <= 0.0 {
            return;
        }
        let excess = squares - self.phi() * block.variance;
        let whole = block.flows * block.flows * block.spread;
        let most = if self.kappas >= 3.0 {
            CLIP * self.kappa() * whole + block.variance
        } else {
            f64::INFINITY
        };
        // Each block has the same weight: κ is a property of the sources, not of the number of
        // flows.
        let kappa = excess.min(most) / whole.max(f64::MIN_POSITIVE);
        self.kappas = (self.kappas + 1.0).min(SOURCE_MEMORY);
        self.kappa += (kappa - self.kappa) / self.kappas;
    }

    /// Discards the incomplete block, which a fault has affected.
    pub(super) fn drop_block<'a>(&mut self, members: impl Iterator<Item = &'a mut Residuals>) {
        self.block = Block::default();
        self.last_block = None;
        for kept in members {
            kept.block = 0.0;
        }
    }

    /// Marks a gap: the next observation has no adjacent one before it.
    pub(super) fn interrupt(&mut self) {
        self.last_variance = None;
    }
}
