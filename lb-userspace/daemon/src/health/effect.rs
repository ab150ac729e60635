//! What health does to a ring: the weight of a backend that starts slowly, and panic.

use std::time::Duration;

use lb_model::config::Fraction;

/// Steps of a slow start. Each is a new ring, so they are few.
const STEPS: u128 = 10;

/// The weight in force of a backend that has been up for `up_for`.
///
/// It begins with a tenth of `weight` and grows by a tenth in every tenth of `slow_start`. Never 0
/// unless `weight` is. Zero `slow_start`: all of it at once.
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

/// When [`effective_weight`] will be different next; `None` when it has reached `weight`.
#[must_use]
pub fn next_step(up_for: Duration, slow_start: Duration) -> Option<Duration> {
    if up_for >= slow_start {
        return None;
    }
    let step = up_for.as_nanos() * STEPS / slow_start.as_nanos() + 1;
    let at = (slow_start.as_nanos() * step).div_ceil(STEPS);
    u64::try_from(at)
        .ok()
        .map(|at| Duration::from_nanos(at) - up_for)
}

/// Whether so few of `total` backends are eligible that the checks are not to be believed, and traffic
/// is to be spread over all: less than `threshold` of them. With a threshold of 0: never.
#[must_use]
pub fn is_panicking(eligible: usize, total: usize, threshold: Fraction) -> bool {
    // Both in millionths of a backend, so that nothing is rounded.
    let wanted = total as u128 * u128::from(threshold.millionths());
    (eligible as u128 * u128::from(Fraction::ALL.millionths())) < wanted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn a_slow_start_has_ten_steps() {
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

    #[test]
    fn panic_begins_below_the_threshold() {
        let half = Fraction::HALF;
        assert!(!is_panicking(2, 4, half));
        assert!(is_panicking(1, 4, half));
        assert!(is_panicking(1, 3, half));
        assert!(is_panicking(0, 1, half));
        assert!(!is_panicking(0, 4, Fraction::new(0.0).unwrap()));
        assert!(!is_panicking(0, 0, half));
        assert!(is_panicking(3, 4, Fraction::ALL));
    }

    proptest! {
        /// It never falls, stays within its bounds, and changes when it is said to.
        #[test]
        fn weights_grow(weight in 0u32..=u32::MAX, ms in 0u64..200_000, ramp in 0u64..100_000) {
            let (up, ramp) = (Duration::from_millis(ms), Duration::from_millis(ramp));
            let now = effective_weight(weight, up, ramp);
            prop_assert!(now <= weight);
            prop_assert_eq!(now == 0, weight == 0);
            match next_step(up, ramp) {
                None => prop_assert_eq!(now, weight),
                Some(wait) => {
                    prop_assert!(!wait.is_zero());
                    let just_before = up + wait - Duration::from_nanos(1);
                    prop_assert_eq!(effective_weight(weight, just_before, ramp), now);
                    prop_assert!(effective_weight(weight, up + wait, ramp) >= now);
                }
            }
        }
    }
}
