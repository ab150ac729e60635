//! Derives up and down from the results of single checks. Pure: the caller passes the time.
//!
//! - A backend comes up after `rise` consecutive successes and goes down after `fall` consecutive
//!   failures.
//! - While results contradict the state, but too few to change it, the backend is **uncertain** and is
//!   checked every `fast_interval`.
//! - **Damping** (after route flap damping, RFC 2439): each time a backend goes down it gets a penalty
//!   of 1, which decays by half every [`HALF_LIFE`]. Above [`LIMIT`] the backend is held down, whatever
//!   its checks say, until the penalty is below [`RELEASE`]; for [`LONGEST_HOLD`] at most. Daily
//!   restarts, or a few in a row, are not damped; a backend that flaps every few seconds would break
//!   flows each time.

use std::time::Duration;

use lb_model::config::{Fraction, Health};

/// Time in which the penalty decays by half.
pub const HALF_LIFE: Duration = Duration::from_secs(60);
/// Above this penalty a backend is held down.
pub const LIMIT: f64 = 3.0;
/// Below this penalty a backend is no longer held down.
pub const RELEASE: f64 = 1.5;
/// The highest penalty. It takes [`LONGEST_HOLD`] to decay to [`RELEASE`].
const HIGHEST: f64 = 6.0;
/// The longest time that a backend is held down after it last went down.
pub const LONGEST_HOLD: Duration = Duration::from_secs(120);

/// The settings of a check that the judge needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Consecutive successes after which a backend is up.
    pub rise: u32,
    /// Consecutive failures after which it is down.
    pub fall: u32,
    /// Time between the starts of two checks.
    pub interval: Duration,
    /// The same while the backend is uncertain.
    pub fast_interval: Duration,
    /// Fraction by which intervals vary at random.
    pub jitter: Fraction,
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

/// The effect of a check on the state of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Same,
    Up,
    Down,
}

/// The judge of one backend.
#[derive(Clone, Debug, PartialEq)]
pub struct Judge {
    healthy: bool,
    /// Consecutive results that contradict the state.
    against: u32,
    penalty: f64,
    /// When `penalty` had its value.
    penalty_at: Duration,
    held: bool,
}

impl Judge {
    #[must_use]
    pub const fn new(healthy: bool) -> Self {
        Self {
            healthy,
            against: 0,
            penalty: 0.0,
            penalty_at: Duration::ZERO,
            held: false,
        }
    }

    /// Records the result of a check that ended at `now`, counted from any fixed time. `now` never
    /// decreases.
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

    #[must_use]
    pub const fn is_healthy(&self) -> bool {
        self.healthy
    }

    /// Whether the backend is held down because it is flapping.
    #[must_use]
    pub const fn is_damped(&self) -> bool {
        self.held
    }

    /// Whether results contradict the state, but too few to change it.
    #[must_use]
    pub const fn is_uncertain(&self) -> bool {
        self.against > 0 && !self.held
    }

    /// Returns the time from the start of a check to the start of the next. `random` is in 0..1.
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
        let passed = now.saturating_sub(self.penalty_at).as_secs_f64();
        self.penalty *= (-passed / HALF_LIFE.as_secs_f64()).exp2();
        self.penalty_at = now;
    }

    fn penalize(&mut self, rules: &Rules, now: Duration) {
        self.decay(now);
        self.penalty = (self.penalty + 1.0).min(HIGHEST);
        self.held = rules.damping && self.penalty > LIMIT;
    }

    fn release(&mut self, rules: &Rules, now: Duration) {
        self.decay(now);
        if !rules.damping || self.penalty < RELEASE {
            self.held = false;
        }
    }
}

/// Returns the delay of a target's first check. It spreads the checks of many targets; `random` is in
/// 0..1.
pub(super) fn first_delay(rules: &Rules, healthy: bool, random: f64) -> Duration {
    // A backend that is up can wait; one that is down may be able to serve.
    let within = if healthy {
        rules.interval
    } else {
        rules.fast_interval.min(Duration::from_millis(100))
    };
    within.mul_f64(random)
}
