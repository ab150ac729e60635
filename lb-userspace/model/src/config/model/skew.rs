//! `[vip.skew]`: when a distribution of traffic counts as skewed. `docs/skew.md` explains the test.

use std::time::Duration;

use super::{Factor, Fraction};
use crate::config::kind;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

table! {
    /// When a distribution of traffic counts as skewed. `docs/skew.md` explains the test.
    #[derive(Copy)]
    Skew as TypedSkew, "vip.skew", with Default;
    keys {
        /// How far a backend may be from its share of the ring: 0.15 allows 15 % more, or less by
        /// the same factor.
        tolerance: Fraction, [default Fraction::from_millionths(150_000)], kind::share(), Live;
        /// How far the tolerance may widen by itself: with `affinity = "source"`, and where ports
        /// that clients reuse shift the shares of all backends.
        widest_tolerance: Fraction, [default Fraction::from_millionths(600_000)], kind::share(), Live;
        /// The VIP raises one false alarm in this many days on average.
        days_per_false_alarm: u32, [default 100_000], kind::integer(1..=1_000_000_000), Live;
        /// The short window: is the traffic skewed now?
        short: Duration, [default seconds(10)], kind::duration(seconds(2)..=seconds(120)), Live;
        /// The long window: what is usual? At least twice `short`.
        long: Duration, [default seconds(120)], kind::duration(seconds(10)..=seconds(3600)), Live;
        /// Fewest seconds of a window in which skew must show.
        least_seconds: u32, [default 4], kind::integer(1..=60), Live;
        /// Consecutive short windows without skew after which the alert is resolved.
        clear_windows: u32, [default 3], kind::integer(1..=100), Live;
        /// Multiple of a fair or the former share at which a source counts as concentrated.
        concentration: Factor, [default Factor::from_thousandths(2000)], kind::factor(1.01..=1000.0), Live;
        /// How long a revision counts as a possible cause of skew.
        revision_memory: Duration, [default seconds(3600)], kind::duration(seconds(1)..=seconds(86_400)), Live;
        /// Multiple of its share of bytes or packets at which a backend counts as skewed.
        volume_ratio: Factor, [default Factor::from_thousandths(2000)], kind::factor(1.01..=1000.0), Live;
        /// Bytes per second of a backend below which skew of bytes is ignored.
        bytes_floor: u32, [default 10_000_000], kind::integer(0..=u32::MAX), Live;
        /// Packets per second of a backend below which skew of packets is ignored.
        packets_floor: u32, [default 10_000], kind::integer(0..=u32::MAX), Live;
        /// How long skew of bytes or packets must last.
        volume_for: Duration, [default seconds(30)], kind::duration(seconds(1)..=seconds(3600)), Live;
        /// Multiple of the usual rate of new flows that counts as a spike.
        spike: Factor, [default Factor::from_thousandths(3000)], kind::factor(1.01..=1000.0), Live;
        /// New flows per second of the VIP below which nothing counts as a spike.
        spike_floor: u32, [default 20], kind::integer(0..=u32::MAX), Live;
    }
}
