//! Thresholds of the share monitor.

use serde::{Deserialize, Serialize};

/// What counts as skew, and the required evidence; per VIP. `docs/skew.md` explains the defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Thresholds {
    /// δ: deviation from the table share that is ignored. 0.15 is 1.15 times the share, or the
    /// share divided by 1.15.
    pub tolerance: f64,
    /// False alarms per VIP-day by chance alone. Determines [`Self::evidence`].
    pub false_alarms_per_day: f64,
    /// Length of the short window, seconds: the skew must be present in it.
    pub short_s: u32,
    /// Length of the blocks from which the dispersion of sources is estimated, seconds.
    pub long_s: u32,
    /// Fewest observations that raise a finding.
    pub least_seconds: u32,
    /// Consecutive windows within half the tolerance that clear a finding.
    pub clear_windows: u32,
    /// Limit of the tolerance when it is widened for sources that are hashed as a whole (see
    /// [`super::Facts::independent`]) or for reused ports: 0.6 is 1.6 times the share.
    pub widest_tolerance: f64,
    /// Multiple of the fair or former share that is concentration: 2 is twice, or the share plus
    /// half of what the others should get, if that is less.
    pub concentration: f64,
    /// How long a revision can be named as a cause, seconds.
    pub revision_memory_s: f64,
    /// Multiple of the expected share of bytes or packets that is skew.
    pub volume_ratio: f64,
    /// Rate of a member below which skew of bytes is ignored.
    pub bytes_floor_per_s: f64,
    /// Rate of a member below which skew of packets is ignored.
    pub packets_floor_per_s: f64,
    /// Duration of a skew of bytes or packets before it is raised, seconds.
    pub volume_s: u32,
    /// Multiple of the usual rate of new flows of the VIP that is a spike.
    pub spike: f64,
    /// Rate of new flows below which nothing is a spike.
    pub spike_floor_per_s: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            tolerance: 0.15,
            false_alarms_per_day: 1e-5,
            short_s: 10,
            long_s: 120,
            least_seconds: 4,
            clear_windows: 3,
            widest_tolerance: 0.6,
            concentration: 2.0,
            revision_memory_s: 3600.0,
            volume_ratio: 2.0,
            bytes_floor_per_s: 10e6,
            packets_floor_per_s: 10e3,
            volume_s: 30,
            spike: 3.0,
            spike_floor_per_s: 20.0,
        }
    }
}

impl Thresholds {
    /// The evidence (log likelihood ratio, nats) that raises a finding in a VIP with this number of
    /// members.
    ///
    /// A cumulative sum of log likelihood ratios bounded below by zero exceeds `h` by chance at
    /// most once in `e^h` steps (G. Lorden, "Procedures for reacting to a change in distribution",
    /// Annals of Mathematical Statistics 42, 1971). Four such sums run for each member, 86,400
    /// steps per day.
    #[must_use]
    pub fn evidence(&self, members: usize) -> f64 {
        let tests = (members.max(1) * TESTS_PER_MEMBER) as f64;
        (tests * SECONDS_PER_DAY / self.false_alarms_per_day).ln()
    }

    /// The share above which a member that should have `reference` is a concentration.
    #[must_use]
    pub fn concentrated(&self, reference: f64) -> f64 {
        multiple_of(reference, self.concentration)
    }
}

/// `times` a share, but at most the share plus half of what the others should get.
pub(super) fn multiple_of(share: f64, times: f64) -> f64 {
    let more = share * (times - 1.0);
    share + more.min((1.0 - share) / 2.0)
}

/// Cumulative sums of each member: two sizes of overload, two of starvation.
const TESTS_PER_MEMBER: usize = 4;
const SECONDS_PER_DAY: f64 = 86_400.0;
