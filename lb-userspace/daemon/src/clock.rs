//! Wall-clock time for deadlines, silences and the age of alerts.
//!
//! The system clock may be set by hours in either direction, but ten minutes must stay ten minutes. So
//! this clock runs on its own, and only the engine makes it [`follow`] the system clock, once per second;
//! it then shifts all stored times by the same amount.
//!
//! Times that are neither shown nor stored use [`Instant`].

use std::{
    sync::{LazyLock, Mutex, PoisonError},
    time::Instant,
};

use jiff::{SignedDuration, Timestamp};

/// The smallest difference to follow. Smaller ones come from reading two clocks in turn and from
/// slewing.
const JUMP: SignedDuration = SignedDuration::from_millis(500);

static CLOCK: LazyLock<Mutex<Anchor>> = LazyLock::new(|| {
    let (wall, steady) = read();
    Mutex::new(Anchor { wall, steady })
});

/// Both clocks at the same moment.
#[derive(Clone, Copy, Debug)]
struct Anchor {
    wall: Timestamp,
    steady: Instant,
}

impl Anchor {
    fn at(self, steady: Instant) -> Timestamp {
        let signed = |time| SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
        let passed = steady.saturating_duration_since(self.steady);
        let missing = self.steady.saturating_duration_since(steady);
        later(self.wall, signed(passed) - signed(missing))
    }

    /// Returns how far the system clock is ahead, if that is at least [`JUMP`].
    fn jump(self, wall: Timestamp, steady: Instant) -> Option<SignedDuration> {
        let ahead = wall.duration_since(self.at(steady));
        (ahead.abs() >= JUMP).then_some(ahead)
    }
}

/// Returns a time shifted by a duration, which may be negative; saturates.
#[must_use]
pub fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    let end = if by.is_negative() {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    };
    at.checked_add(by).unwrap_or(end)
}

/// Returns the time. It jumps only in [`follow`].
#[must_use]
pub fn now() -> Timestamp {
    at(Instant::now())
}

/// Returns the wall-clock time of a moment, by the current setting of the clock.
#[must_use]
pub fn at(moment: Instant) -> Timestamp {
    let anchor = CLOCK.lock().unwrap_or_else(PoisonError::into_inner);
    anchor.at(moment)
}

/// Follows the system clock. Returns how far it was set, if it was; all times taken before must be
/// shifted by that.
#[must_use]
pub fn follow() -> Option<SignedDuration> {
    let mut anchor = CLOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let (wall, steady) = read();
    let jump = anchor.jump(wall, steady);
    if jump.is_some() {
        *anchor = Anchor { wall, steady };
    }
    jump
}

fn read() -> (Timestamp, Instant) {
    let steady = Instant::now();
    (later(Timestamp::now(), set_by_test()), steady)
}

/// Release builds always use the system clock.
#[cfg(not(debug_assertions))]
const fn set_by_test() -> SignedDuration {
    SignedDuration::ZERO
}

/// Returns the offset that a test has set, in seconds, in the file named by `EVENKEEL_TEST_CLOCK`.
#[cfg(debug_assertions)]
fn set_by_test() -> SignedDuration {
    let file = std::env::var_os("EVENKEEL_TEST_CLOCK");
    let text = file.and_then(|file| std::fs::read_to_string(file).ok());
    let seconds = text.and_then(|text| text.trim().parse().ok());
    SignedDuration::from_secs(seconds.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn follows_a_clock_that_is_set_but_not_drift() {
        let anchor = Anchor {
            wall: Timestamp::UNIX_EPOCH,
            steady: Instant::now(),
        };
        let steady = anchor.steady + Duration::from_secs(100);
        let wall = |ms| later(anchor.wall, SignedDuration::from_millis(ms));
        assert_eq!(anchor.at(steady), wall(100_000));
        let later = Anchor {
            wall: wall(0),
            steady,
        };
        assert_eq!(later.at(anchor.steady), wall(-100_000));
        for (shown, jump) in [
            (100_000, None),
            (100_400, None),
            (99_600, None),
            (3_700_000, Some(3_600_000)),
            (40_000, Some(-60_000)),
            (100_500, Some(500)),
        ] {
            let jump = jump.map(SignedDuration::from_millis);
            assert_eq!(anchor.jump(wall(shown), steady), jump, "{shown}");
        }
    }

    #[test]
    fn shifted_times_saturate() {
        let (min, max) = (Timestamp::MIN, Timestamp::MAX);
        assert_eq!(later(max, SignedDuration::from_secs(1)), max);
        assert_eq!(later(min, SignedDuration::from_secs(-1)), min);
    }
}
