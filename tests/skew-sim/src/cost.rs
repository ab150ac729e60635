//! CPU time of the share monitor.

use std::{sync::Arc, time::Instant};

use lb_skew::{Change, Detector, MovedMember, SampledFlows, Samples, Thresholds};

use super::{
    scenario::Scenario,
    world::{Setting, World},
};

/// One line of the result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    pub vips: usize,
    /// Members of each VIP.
    pub members: usize,
    pub load: Load,
    /// Microseconds of CPU time per second for all VIPs, median.
    pub median_us: f64,
}

/// State of the monitored VIPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Normal traffic.
    Normal,
    /// Every VIP has a fault.
    Faults,
    /// A revision changed the shares of all members, and flows of all are sampled.
    Revision,
}

impl Load {
    #[must_use]
    pub fn description(self) -> &'static str {
        match self {
            Self::Normal => "",
            Self::Faults => "each with a fault",
            Self::Revision => "a revision moved all, all are sampled",
        }
    }
}

/// Simulated seconds.
const SECONDS: usize = 100;

/// A revision that doubled the share of every other member, and samples of all members.
fn all_moved(members: usize) -> (Change, Samples) {
    let even = 1.0 / members as f64;
    let name = |number: usize| Arc::from(format!("b{number}"));
    let moved = |number: usize| MovedMember {
        name: name(number),
        before: even / (1.0 + (number % 2) as f64),
        after: even,
    };
    let sampled_flows = |number: usize| SampledFlows {
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
        flows_by_member: (0..members).map(sampled_flows).collect(),
        ..Samples::default()
    };
    (change, samples)
}

fn measure(vips: usize, members: usize, load: Load) -> Line {
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
            if load == Load::Faults && second == SECONDS / 4 {
                world.set_fault(Some((0, 2.0)));
            }
            world.advance();
            let mut seen = world.observation();
            if load == Load::Revision {
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
        load,
        median_us: times_us[times_us.len() / 2],
    }
}

/// Measures 4,096 members in one VIP and in many.
#[must_use]
pub fn run() -> Vec<Line> {
    vec![
        measure(1, 4096, Load::Normal),
        measure(64, 64, Load::Normal),
        measure(1024, 4, Load::Normal),
        measure(64, 64, Load::Faults),
        measure(1, 4096, Load::Revision),
    ]
}
