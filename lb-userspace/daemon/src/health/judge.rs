//! The judge: from the results of single checks to up and down. Pure: it is told the time.
//!
//! - A backend that is down comes up after `rise` successes in a row, one that is up goes down after
//!   `fall` failures in a row.
//! - While some results speak against the state, but not enough yet, it is **uncertain**, and checks
//!   come at `fast_interval`.
//! - **Damping**: each time that a backend goes down costs it a point. Points lose half of their value
//!   every [`HALF_LIFE`]. With more than [`LIMIT`] of them it is held down, whatever its checks say,
//!   until there are fewer than [`RELEASE`]; after [`LONGEST_HOLD`] at the latest. (The idea is that of
//!   route flap damping, RFC 2439.) A restart of every backend once a day, or a few in a row, costs
//!   nothing; one that comes and goes every few seconds would otherwise break flows each time.

use std::time::Duration;

use super::random::Random;
use lb_model::config::{Fraction, Health};

/// Time in which points of damping lose half of their value.
pub const HALF_LIFE: Duration = Duration::from_secs(60);
/// A backend with more points than this is held down.
pub const LIMIT: f64 = 3.0;
/// A backend that is held down is let go when it has fewer points than this.
pub const RELEASE: f64 = 1.5;
/// The most points that a backend can have: what takes [`LONGEST_HOLD`] to get below [`RELEASE`].
const MOST: f64 = 6.0;
/// The longest that a backend is held down after it went down for the last time.
pub const LONGEST_HOLD: Duration = Duration::from_secs(120);

/// What the judge goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Successes in a row that make a backend up.
    pub rise: u32,
    /// Failures in a row that make it down.
    pub fall: u32,
    /// Time between two checks.
    pub interval: Duration,
    /// The same, while uncertain.
    pub fast_interval: Duration,
    /// Share by which intervals vary.
    pub jitter: Fraction,
    /// Whether flaps are damped.
    pub damping: bool,
}

impl From<&Health> for Rules {
    fn from(health: &Health) -> Self {
        Self {
            rise: health.rise,
            fall: health.fall,
            interval: health.interval,
            fast_interval: health.fast_interval,
            jitter: health.jitter,
            damping: health.damping,
        }
    }
}

/// What became of a backend by a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing changed.
    Same,
    /// It came up.
    Up,
    /// It went down.
    Down,
}

/// The judge of one backend.
#[derive(Clone, Debug, PartialEq)]
pub struct Judge {
    healthy: bool,
    /// Results in a row that speak against the state.
    against: u32,
    points: f64,
    /// When `points` had that value.
    points_at: Duration,
    held: bool,
}

impl Judge {
    /// A backend with its state before the first check.
    #[must_use]
    pub const fn new(healthy: bool) -> Self {
        Self {
            healthy,
            against: 0,
            points: 0.0,
            points_at: Duration::ZERO,
            held: false,
        }
    }

    /// Takes the result of a check that ended at `now` (since any fixed time; never earlier than the
    /// one before).
    pub fn observe(&mut self, rules: &Rules, now: Duration, ok: bool) -> Verdict {
        self.release(rules, now);
        if ok == self.healthy {
            self.against = 0;
            return Verdict::Same;
        }
        let needed = if ok { rules.rise } else { rules.fall };
        self.against = (self.against + 1).min(needed);
        if self.against < needed || (ok && self.held) {
            return Verdict::Same;
        }
        self.against = 0;
        self.healthy = ok;
        if ok {
            return Verdict::Up;
        }
        self.penalize(rules, now);
        Verdict::Down
    }

    /// Whether it counts as healthy.
    #[must_use]
    pub const fn is_healthy(&self) -> bool {
        self.healthy
    }

    /// Whether it is held down since it goes up and down again and again.
    #[must_use]
    pub const fn is_damped(&self) -> bool {
        self.held
    }

    /// Whether some results speak against the state, but not enough yet.
    #[must_use]
    pub const fn is_uncertain(&self) -> bool {
        self.against > 0 && !self.held
    }

    /// Time from the start of a check to that of the next. `random` is from 0 to 1.
    #[must_use]
    pub fn interval(&self, rules: &Rules, random: f64) -> Duration {
        let interval = if self.is_uncertain() {
            rules.fast_interval
        } else {
            rules.interval
        };
        let jitter = f64::from(rules.jitter.millionths()) / 1e6;
        interval.mul_f64(1.0 + jitter * (2.0 * random - 1.0))
    }

    fn decay(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.points_at).as_secs_f64();
        self.points *= (-passed / HALF_LIFE.as_secs_f64()).exp2();
        self.points_at = now;
    }

    fn penalize(&mut self, rules: &Rules, now: Duration) {
        self.decay(now);
        self.points = (self.points + 1.0).min(MOST);
        self.held = rules.damping && self.points > LIMIT;
    }

    fn release(&mut self, rules: &Rules, now: Duration) {
        self.decay(now);
        if !rules.damping || self.points < RELEASE {
            self.held = false;
        }
    }
}

/// When the first check of a target is made: soon, but not all at the same moment.
pub(super) fn first_delay(rules: &Rules, healthy: bool, random: &mut Random) -> Duration {
    // What is known to serve can wait its turn; what is down waits for us.
    let within = if healthy {
        rules.interval
    } else {
        rules.fast_interval.min(Duration::from_millis(100))
    };
    within.mul_f64(random.fraction())
}
