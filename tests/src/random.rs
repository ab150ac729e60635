//! Random choices that can be repeated: a test prints its seed, and `EVENKEEL_SEED` sets it.

use std::time::UNIX_EPOCH;

use rand::{SeedableRng as _, rngs::Xoshiro256PlusPlus};

/// A generator that gives the same numbers for a seed on every machine.
pub type Random = Xoshiro256PlusPlus;

/// Returns a generator with the seed of `EVENKEEL_SEED`, or a new one. Prints the seed.
#[must_use]
pub fn seeded(test: &str) -> Random {
    let given = std::env::var("EVENKEEL_SEED").ok();
    let seed = given
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| UNIX_EPOCH.elapsed().map_or(0, |now| now.as_nanos() as u64));
    println!("{test}: repeat with EVENKEEL_SEED={seed}");
    Random::seed_from_u64(seed)
}
