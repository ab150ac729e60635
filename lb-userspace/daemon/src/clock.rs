//! The time of the calendar, for what lasts: deadlines, silences, the age of an alert.
//!
//! The system's clock may be set, by hours and in either direction; what was to last ten minutes lasts ten
//! minutes all the same. So the clock of this process runs on by itself, and nobody but the engine makes it
//! [`follow`] the system's: once a second, and when it does, the engine moves everything that it remembers by
//! as much.
//!
//! What is never shown and never kept on disk is timed by [`Instant`] alone.

use std::{
    sync::{LazyLock, Mutex, PoisonError},
    time::Instant,
};

use jiff::{SignedDuration, Timestamp};

/// Differences that are followed. Less comes from reading two clocks one after the other, and from one that is
/// being slewed.
const JUMP: SignedDuration = SignedDuration::from_millis(500);

static CLOCK: LazyLock<Mutex<Anchor>> = LazyLock::new(|| {
    let (wall, steady) = read();
    Mutex::new(Anchor { wall, steady })
});

/// What both clocks showed at one moment.
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

    /// By how much the system's clock is ahead, if that is worth following.
    fn jump(self, wall: Timestamp, steady: Instant) -> Option<SignedDuration> {
        let ahead = wall.duration_since(self.at(steady));
        (ahead.abs() >= JUMP).then_some(ahead)
    }
}

/// A time moved by a duration, which may be negative.
#[must_use]
pub fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    let end = if by.is_negative() {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    };
    at.checked_add(by).unwrap_or(end)
}

/// The time. It never jumps but in [`follow`].
#[must_use]
pub fn now() -> Timestamp {
    at(Instant::now())
}

/// The time of the calendar at a moment, by the system's clock as it is set now.
#[must_use]
pub fn at(moment: Instant) -> Timestamp {
    let anchor = CLOCK.lock().unwrap_or_else(PoisonError::into_inner);
    anchor.at(moment)
}

/// Follows the system's clock. Says by how much it was set, if it was: by that much everything must be moved
/// that was told the time before.
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

/// In release builds the system's clock is the only one.
#[cfg(not(debug_assertions))]
const fn set_by_test() -> SignedDuration {
    SignedDuration::ZERO
}

/// Seconds by which a test has set the clock, in the file that `EVENKEEL_TEST_CLOCK` names.
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
    fn a_clock_that_is_set_is_followed_and_one_that_runs_is_not() {
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
    fn times_end_where_the_calendar_does() {
        let (min, max) = (Timestamp::MIN, Timestamp::MAX);
        assert_eq!(later(max, SignedDuration::from_secs(1)), max);
        assert_eq!(later(min, SignedDuration::from_secs(-1)), min);
    }
}
