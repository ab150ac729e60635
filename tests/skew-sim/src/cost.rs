//! What the watch costs.

use std::{sync::Arc, time::Instant};

use lb_skew::{Change, Detector, Moved, Openings, Samples, Thresholds};

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
    /// What is the matter.
    pub what: What,
    /// Microseconds for one second of all of them, median.
    pub median_us: f64,
}

/// What is the matter with the VIPs that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Nothing.
    Nothing,
    /// Every VIP has a fault.
    Faults,
    /// A revision moved every member, and flows of every one are sampled.
    Revision,
}

impl What {
    /// In a table.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Nothing => "",
            Self::Faults => "each with a fault",
            Self::Revision => "a revision moved all, all are sampled",
        }
    }
}

/// Seconds that are watched.
const SECONDS: usize = 100;

/// A revision that doubled the share of every other member, and what was sampled of all.
fn all_moved(members: usize) -> (Change, Samples) {
    let even = 1.0 / members as f64;
    let name = |number: usize| Arc::from(format!("b{number}"));
    let moved = |number: usize| Moved {
        name: name(number),
        before: even / (1.0 + (number % 2) as f64),
        after: even,
    };
    let openings = |number: usize| Openings {
        member: name(number),
        flows: 32,
        unanswered: 1,
    };
    let change = Change {
        revision: 2,
        at_s: 0.0,
        moved: (0..members).map(moved).collect(),
    };
    let samples = Samples {
        openings: (0..members).map(openings).collect(),
        ..Samples::default()
    };
    (change, samples)
}

fn measure(vips: usize, members: usize, what: What) -> Line {
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
    let (change, samples) = all_moved(members);
    for second in 0..SECONDS {
        let mut spent_us = 0.0;
        for (world, detector) in &mut watched {
            if what == What::Faults && second == SECONDS / 4 {
                world.set_fault(Some((0, 2.0)));
            }
            world.advance();
            let mut seen = world.observation();
            if what == What::Revision {
                seen.change = Some(&change);
                seen.samples = Some(&samples);
            }
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
        what,
        median_us: times_us[times_us.len() / 2],
    }
}

/// Measures 4,096 members in one VIP and in many.
#[must_use]
pub fn run() -> Vec<Line> {
    vec![
        measure(1, 4096, What::Nothing),
        measure(64, 64, What::Nothing),
        measure(1024, 4, What::Nothing),
        measure(64, 64, What::Faults),
        measure(1, 4096, What::Revision),
    ]
}
