//! Random numbers that can be had again: the seed is printed, and `EVENKEEL_SEED` sets it.

use std::time::{Duration, SystemTime};

pub(crate) struct Chance(u64);

impl Chance {
    /// Prints the seed.
    pub(crate) fn new(test: &str) -> Self {
        let given = std::env::var("EVENKEEL_SEED").ok();
        let seed = given.and_then(|text| text.parse().ok()).unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            now.unwrap().as_nanos() as u64
        });
        println!("{test}: EVENKEEL_SEED={seed}");
        Self(seed)
    }

    /// Another one, for another thread.
    pub(crate) fn of(&mut self, thread: u64) -> Self {
        Self(self.next() ^ thread)
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to `end`, without `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Up to `most`.
    pub(crate) fn delay(&mut self, most: Duration) -> Duration {
        Duration::from_micros(self.below(most.as_micros() as u64 + 1))
    }
}
