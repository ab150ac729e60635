//! What the watch costs.

use std::time::Instant;

use lb_skew::{Detector, Thresholds};

use super::{
    scenario::Scenario,
    world::{Setting, World},
};

/// One line of the result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// VIPs that are watched.
    pub vips: usize,
    /// Members of each.
    pub members: usize,
    /// Whether every VIP has a fault.
    pub faulty: bool,
    /// Microseconds for one second of all of them, median.
    pub median_us: f64,
}

/// Seconds that are watched.
const SECONDS: usize = 100;

fn measure(vips: usize, members: usize, faulty: bool) -> Line {
    let setting = Setting {
        scenario: Scenario::HeavyTailed,
        members,
        flows_per_s: 1e6 / vips as f64,
    };
    let mut watched: Vec<(World, Detector)> = (0..vips)
        .map(|vip| {
            let world = World::new(setting, vip as u64);
            let detector = Detector::new(Thresholds::default(), world.facts());
            (world, detector)
        })
        .collect();
    let mut times_us = Vec::new();
    for second in 0..SECONDS {
        let mut spent_us = 0.0;
        for (world, detector) in &mut watched {
            if faulty && second == SECONDS / 4 {
                world.set_fault(Some((0, 2.0)));
            }
            world.advance();
            let seen = world.observation();
            let begun = Instant::now();
            std::hint::black_box(detector.observe(&seen));
            spent_us += begun.elapsed().as_secs_f64() * 1e6;
        }
        if second >= SECONDS / 2 {
            times_us.push(spent_us);
        }
    }
    times_us.sort_by(f64::total_cmp);
    Line {
        vips,
        members,
        faulty,
        median_us: times_us[times_us.len() / 2],
    }
}

/// Measures 4,096 members in one VIP and in many.
#[must_use]
pub fn run() -> Vec<Line> {
    vec![
        measure(1, 4096, false),
        measure(64, 64, false),
        measure(1024, 4, false),
        measure(64, 64, true),
    ]
}
