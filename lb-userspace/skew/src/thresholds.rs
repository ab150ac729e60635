//! All thresholds of the watch, in one place.

use serde::{Deserialize, Serialize};

/// What counts as skew, and how sure one must be; per VIP. `docs/skew.md` says how the defaults were found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Thresholds {
    /// How far from its share of the table a member may be before it matters (δ): 0.15 is 15 %
    /// over, or as many times under.
    pub tolerance: f64,
    /// How many false alarms a VIP may give a day, by chance alone. Sets how much evidence is asked for.
    pub false_alarms_per_day: f64,
    /// The short window, seconds: what is asked whether the skew is there now.
    pub short_s: u32,
    /// The long window, seconds: from which dispersion is learned, and what is remembered of ended trouble.
    pub long_s: u32,
    /// Fewest seconds that a skew must show itself in: no single second can raise a finding.
    pub least_seconds: u32,
    /// Windows in a row within half the tolerance until a finding is cleared.
    pub clear_windows: u32,
    /// How far the tolerance may widen by itself where whole sources are hashed (see
    /// [`super::Facts::independent`]), or ports that are used again set all members off their shares: 0.6 is up to 60 %
    /// more than the share.
    pub widest_tolerance: f64,
    /// Times a fair or the former share that are concentration: 2 is twice, or half of what
    /// belongs to the others where that is less.
    pub concentration: f64,
    /// How long a revision is remembered as what may have caused a finding, seconds.
    pub revision_memory_s: f64,
    /// Times its share of bytes or packets that matters.
    pub volume_ratio: f64,
    /// Bytes a second of a member below which skew of bytes does not matter.
    pub bytes_floor_per_s: f64,
    /// Packets a second of a member below which skew of packets does not matter.
    pub packets_floor_per_s: f64,
    /// How long a skew of bytes or packets must last, seconds.
    pub volume_s: u32,
    /// Times the usual rate of new flows of the whole VIP that is a spike.
    pub spike: f64,
    /// New flows a second below which nothing is a spike.
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
    /// The evidence (natural logarithm of a likelihood ratio) that raises a finding in a VIP of this many members.
    ///
    /// A test that adds up log likelihood ratios and starts again at zero raises by chance once in
    /// `e^h` steps at the most (G. Lorden, "Procedures for reacting to a change in distribution",
    /// Annals of Mathematical Statistics 42, 1971). `tests` of them run for each member, 86,400
    /// steps a day.
    #[must_use]
    pub fn evidence(&self, members: usize) -> f64 {
        let tests = (members.max(1) * TESTS_PER_MEMBER) as f64;
        (tests * SECONDS_PER_DAY / self.false_alarms_per_day).ln()
    }

    /// The share from which on a member that should have `reference` is concentration.
    #[must_use]
    pub fn concentrated(&self, reference: f64) -> f64 {
        let more = reference * (self.concentration - 1.0);
        reference + more.min((1.0 - reference) / 2.0)
    }
}

/// Tests that run side by side for each member: two sizes of overload, two of starvation.
const TESTS_PER_MEMBER: usize = 4;
const SECONDS_PER_DAY: f64 = 86_400.0;
