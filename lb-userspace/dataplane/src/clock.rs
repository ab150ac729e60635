//! The data path's clock in userspace.
//!
//! The data path shifts jiffies right to get seconds, because reading jiffies is almost free. The
//! tick rate is fixed when a kernel is built and has no reliable interface (`USER_HZ` is another
//! number, and not every kernel exposes its configuration). So it is measured: a small program, only
//! run by test runs, reads both clocks twice.

use std::time::Duration;

use aya::{
    Ebpf,
    programs::{TestRun, TestRunOptions, Xdp},
};
use lb_common::node;
use nix::time::{ClockId, clock_gettime};

use super::{
    error::{DataplaneError, PRIVILEGE_HINT, Result},
    object,
};

const PROGRAM: &str = "evenkeel_clock";

/// Tick rates that kernels are built with (`CONFIG_HZ`).
const USUAL_HZ: [u64; 4] = [100, 250, 300, 1000];

/// Time between the two readings.
const INTERVAL: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub struct Clock {
    ebpf: Ebpf,
    shift: u32,
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
struct Reading {
    jiffies: u64,
    now_ns: u64,
}

/// The monotonic clock in nanoseconds, as `bpf_ktime_get_ns` gives it.
pub(super) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    now.map_or(0, |now| now.as_nanos() as u64)
}

impl Clock {
    /// Loads the clock's program and measures the tick rate, unless the shift is given.
    pub fn start(shift: Option<u32>) -> Result<Self> {
        let mut ebpf = object::open_without_tables()?;
        let program = ebpf
            .program_mut(PROGRAM)
            .and_then(|program| <&mut Xdp>::try_from(program).ok())
            .ok_or(DataplaneError::Missing {
                kind: "program",
                name: PROGRAM,
            })?;
        program
            .load()
            .map_err(|error| DataplaneError::program("load", PROGRAM, &error, PRIVILEGE_HINT))?;
        // The program uses no maps.
        let maps: Vec<String> = ebpf.maps().map(|(name, _)| name.to_owned()).collect();
        for map in maps {
            drop(ebpf.take_map(&map));
        }
        let mut clock = Self {
            ebpf,
            shift: shift.unwrap_or_default(),
        };
        if shift.is_none() {
            clock.shift = clock.measure()?;
        }
        Ok(clock)
    }

    /// Seconds are jiffies shifted right by this.
    #[must_use]
    pub const fn jiffies_shift(&self) -> u32 {
        self.shift
    }

    /// Current time of the data path in seconds.
    pub fn now_s(&self) -> Result<u64> {
        Ok(node::seconds(self.read()?.jiffies, self.shift))
    }

    /// Reads the clocks twice and derives the shift from the difference.
    fn measure(&self) -> Result<u32> {
        let start = self.read()?;
        std::thread::sleep(INTERVAL);
        let end = self.read()?;
        let ticks = end.jiffies.wrapping_sub(start.jiffies);
        let elapsed_ns = end.now_ns.wrapping_sub(start.now_ns);
        shift_of(ticks, elapsed_ns).ok_or(DataplaneError::Clock { ticks, elapsed_ns })
    }

    fn read(&self) -> Result<Reading> {
        let program = self
            .ebpf
            .program(PROGRAM)
            .and_then(|program| <&Xdp>::try_from(program).ok())
            .ok_or(DataplaneError::Missing {
                kind: "program",
                name: PROGRAM,
            })?;
        let (frame, mut answer) = ([0; 64], [0; 64]);
        let options = TestRunOptions {
            data_in: Some(&frame),
            data_out: Some(&mut answer),
            ..TestRunOptions::new()
        };
        program
            .test_run(options)
            .map_err(|error| DataplaneError::program("run", PROGRAM, &error, PRIVILEGE_HINT))?;
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&answer[at..at + 8]);
            u64::from_ne_bytes(word)
        };
        Ok(Reading {
            jiffies: word(0),
            now_ns: word(8),
        })
    }
}

/// The shift that turns jiffies into seconds. Takes the usual tick rate that is nearest by ratio, so
/// that a few ticks more or less do not matter.
fn shift_of(ticks: u64, elapsed_ns: u64) -> Option<u32> {
    let measured_hz = ticks as f64 * 1e9 / elapsed_ns as f64;
    if !(50.0..2000.0).contains(&measured_hz) {
        return None;
    }
    let distance = |hz: u64| (hz as f64 / measured_hz).ln().abs();
    let hz = USUAL_HZ
        .into_iter()
        .min_by(|&a, &b| distance(a).total_cmp(&distance(b)))?;
    // The power of two nearest to `hz` by ratio.
    Some((hz as f64).log2().round() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derives_the_tick_rate_from_a_rough_measurement() {
        for (hz, shift) in [(100, 7), (250, 8), (300, 8), (1000, 10)] {
            for error in [-1, 0, 1] {
                let ticks = (hz / 20 + error) as u64;
                assert_eq!(shift_of(ticks, 50_000_000), Some(shift), "{hz} Hz, {error}");
            }
            // The documentation says: a second is between 0.85 and 1.28 s.
            let second = f64::from(1 << shift) / f64::from(hz);
            assert!((0.85..=1.281).contains(&second), "{hz} Hz: {second}");
        }
        assert_eq!(shift_of(0, 50_000_000), None);
        assert_eq!(shift_of(500, 50_000_000), None);
        assert_eq!(shift_of(5, 0), None);
    }
}
