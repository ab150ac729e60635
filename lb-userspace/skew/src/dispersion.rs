//! How much more the counts vary than flows that choose by themselves would.
//!
//! Two numbers are learned here, for two of the ways in which flows can depend on each other; the third has a
//! file of its own ([`super::unevenness`]):
//!
//! - **φ**, bunches: some flows of one second or some seconds go to one member together. The variance of a count is φ
//!   times that of independent flows. Where whole sources are hashed that is common; elsewhere it is SYNs that are sent again
//!   after 1, 3, 7, 15 s, and count each time. It is estimated from **differences between neighbouring seconds**, and blocks of them (J. von
//!   Neumann, "Distribution of the ratio of the mean square successive difference to the variance",
//!   Annals of Mathematical Statistics 12, 1941), since a member that gets too much all the time is no
//!   dispersion but what is looked for: X²/(k−1) would grow by the very fault and hide it.
//! - **κ**, heavy sources: where a source is hashed as a whole, a large one stays on its member for long, and more flows
//!   do not even it out. κ is the chance that two flows have one source (Σ of the squared shares of the
//!   sources); the variance of a member's share then has a floor, κ·t(1−t).
//!
//! The sums of squares of all members are divided once, not member by member: the mean is the same, and
//! members with tiny shares, whose (x−e)²/e is either nothing or enormous, don't make noise.

use super::unevenness::Unevenness;

/// Observations that φ remembers.
const MEMORY: f64 = 300.0;
/// Blocks that φ remembers.
const BLOCK_MEMORY: f64 = 60.0;
/// Short windows in a block, where flows are hashed one by one: SYNs are repeated for half a minute and more.
const BLOCK_OF_REPEATS: usize = 6;
/// Times the excess that differences of such blocks show, for what of the repeats is in the neighbour.
const BLOCK_MARGIN: f64 = 1.5;
/// Blocks of the long window that κ remembers: twelve hours of two minutes each. Few sources make few
/// independent samples, and those of the night say little of the day.
const SOURCE_MEMORY: f64 = 360.0;
/// What κ is taken for at least: some forty sources of half a percent to one, before any was seen.
const LEAST_KAPPA: f64 = 0.002;
/// Times what was learned that κ may be: large sources are few, and few samples say little of their tail.
const KAPPA_MARGIN: f64 = 1.5;
/// Times its mean that one observation may count: the onset of a fault must not pass for dispersion.
const CLIP: f64 = 8.0;
/// The same for blocks of repeats, of which few are remembered.
const BLOCK_CLIP: f64 = 3.0;
/// Expected flows before which φ is taken for 1.
const ENOUGH: f64 = 50.0;
/// What φ may be above 1 by its own noise.
const NOISE: f64 = 0.1;
/// Standard deviations of the share of sources that are tolerated.
const SOURCE_Z: f64 = 3.0;

/// A ratio of two means, each over about the last `memory` observations.
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

/// What a member adds to the estimate.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Residuals {
    last: f64,
    block: f64,
    last_block: f64,
    long: f64,
    /// For [`Unevenness`].
    lasting: f64,
}

/// What is learned of a VIP.
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
    unevenness: Unevenness,
    /// Members that vary freely, as many as it would be if all had the same share.
    freedom: f64,
}

/// A block of observations that is being filled.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    observations: usize,
    variance: f64,
    flows: f64,
    /// Σ t(1−t), as it was last.
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
            unevenness: Unevenness::default(),
            freedom: 1.0,
        }
    }

    /// φ.
    pub(super) fn phi(&self) -> f64 {
        let blocks = if self.independent {
            // Blocks are few: what they show must be more than their own noise.
            let noise = (3.0 / (self.freedom * self.blocks.count.max(1.0))).sqrt();
            1.0 + BLOCK_MARGIN * (self.blocks.value() / (1.0 + noise) - 1.0)
        } else {
            self.blocks.value()
        };
        (self.seconds.value().max(blocks) - NOISE).max(1.0)
    }

    /// κ, with a margin for what was not seen yet.
    fn kappa(&self) -> f64 {
        if self.independent {
            self.unevenness.kappa()
        } else {
            LEAST_KAPPA + KAPPA_MARGIN * self.learned_kappa()
        }
    }

    fn learned_kappa(&self) -> f64 {
        self.kappa.max(0.0)
    }

    /// Whether enough was seen to judge by it.
    pub(super) fn is_known(&self) -> bool {
        self.independent || self.kappas >= 1.0
    }

    /// Times its share that a member with this share may get for flows that always choose it; `widest` bounds it.
    pub(super) fn allowance(&self, share: f64, widest: f64) -> f64 {
        let kappa = self.kappa();
        if kappa == 0.0 || share <= 0.0 {
            return 1.0;
        }
        1.0 + (SOURCE_Z * (kappa * (1.0 - share) / share).sqrt()).min(widest)
    }

    /// Learns from an observation: what each member got less what it should have got, its share, and
    /// what it keeps here. `flows` is the sum over the members.
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
                Unevenness::keep(&mut kept.lasting, residual);
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
            self.unevenness.learn(flows);
        } else {
            self.long_block.add(variance, flows, spread);
        }
    }

    /// Whether [`Self::close_blocks`] has something to do.
    pub(super) fn is_block_full(&self) -> bool {
        self.block.observations >= self.short
            || (!self.independent && self.long_block.observations >= self.long)
    }

    /// Learns from blocks that are full; of each member its share and what is kept of it.
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
            self.unevenness.judge(self.phi(), &lasting);
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
        // Each block counts alike, whatever its flows: what is looked for is a property of the sources.
        let kappa = excess.min(most) / whole.max(f64::MIN_POSITIVE);
        self.kappas = (self.kappas + 1.0).min(SOURCE_MEMORY);
        self.kappa += (kappa - self.kappa) / self.kappas;
    }

    /// Forgets the block that is being filled: what is in it is a fault's doing.
    pub(super) fn drop_block<'a>(&mut self, members: impl Iterator<Item = &'a mut Residuals>) {
        self.block = Block::default();
        self.last_block = None;
        for kept in members {
            kept.block = 0.0;
        }
    }

    /// Forgets the neighbours of the next observation: something lies between that says nothing.
    pub(super) fn interrupt(&mut self) {
        self.last_variance = None;
    }
}
