//! Slow start: the weight of a backend that came up recently.

use std::time::Duration;

/// Steps of a slow start. Each step builds a ring.
const STEPS: u128 = 10;

/// Returns the effective weight of a backend that has been up for `up_for`.
///
/// It starts at a tenth of `weight` and grows by a tenth in every tenth of `slow_start`; it is 0 only
/// if `weight` is. With a `slow_start` of zero it is `weight` at once.
#[must_use]
pub fn effective_weight(weight: u32, up_for: Duration, slow_start: Duration) -> u32 {
    if up_for >= slow_start || weight == 0 {
        return weight;
    }
    // Less than STEPS, since up_for < slow_start.
    let step = up_for.as_nanos() * STEPS / slow_start.as_nanos() + 1;
    let part = u128::from(weight) * step / STEPS;
    u32::try_from(part).unwrap_or(weight).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn slow_start_has_ten_steps() {
        let seen: Vec<_> = (0..=100)
            .map(|s| effective_weight(50, S(s), S(100)))
            .collect();
        let mut steps = seen.clone();
        steps.dedup();
        assert_eq!(steps, [5, 10, 15, 20, 25, 30, 35, 40, 45, 50]);
        assert_eq!((seen[9], seen[10], seen[89], seen[90]), (5, 10, 45, 50));
        assert_eq!(effective_weight(3, S(0), S(100)), 1);
        assert_eq!(effective_weight(0, S(0), S(100)), 0);
        assert_eq!(effective_weight(7, S(0), S(0)), 7);
    }

    proptest! {
        #[test]
        fn the_weight_grows_to_its_full_value(
            weight in 0u32..=u32::MAX,
            ms in 0u64..200_000,
            later_ms in 0u64..200_000,
            ramp_ms in 0u64..100_000,
        ) {
            let ramp = Duration::from_millis(ramp_ms);
            let at = |ms| effective_weight(weight, Duration::from_millis(ms), ramp);
            prop_assert!(at(ms) <= at(ms + later_ms));
            prop_assert!(at(ms + later_ms) <= weight);
            prop_assert_eq!(at(ms) == 0, weight == 0);
            prop_assert_eq!(at(ramp_ms), weight);
        }
    }
}
