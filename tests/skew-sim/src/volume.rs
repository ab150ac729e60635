//! Packets and bytes: heavy-tailed flows that last for some time.

use lb_skew::Member;

use super::{random::Random, scenario::Scenario};

/// Bytes of the smallest flow, the exponent of the tail, bytes of the largest.
const LEAST: f64 = 20e3;
const ALPHA: f64 = 1.2;
const MOST: f64 = 100e6;
/// Flows above this size are sent over time, not at once.
const LARGE: f64 = 1e6;
/// Bytes per second of one flow.
const SPEED: f64 = 10e6;
/// Bytes of a packet.
const PACKET: f64 = 1200.0;
/// Packets of a flow besides those with payload.
const OVERHEAD: f64 = 5.0;

/// Large flows in progress.
#[derive(Clone, Debug)]
pub(super) struct Volume {
    under_way: Vec<Vec<f64>>,
    next: usize,
    heavy: bool,
}

impl Volume {
    pub(super) fn new(scenario: Scenario, members: usize) -> Option<Self> {
        scenario.has_volume().then(|| Self {
            under_way: vec![Vec::new(); members],
            next: 0,
            heavy: scenario == Scenario::HeavyTailed,
        })
    }

    /// Adds the bytes and packets of the flows of the next member.
    pub(super) fn carry(
        &mut self,
        member: &mut Member,
        flows: f64,
        length_s: f64,
        random: &mut Random,
    ) {
        let mut bytes = flows * 2000.0;
        if self.heavy {
            let large = random.poisson(flows * (LEAST / LARGE).powf(ALPHA)) as usize;
            let here = &mut self.under_way[self.next];
            here.extend((0..large).map(|_| random.pareto(LARGE, ALPHA, MOST)));
            // The mean of flows below LARGE; their variance is negligible.
            bytes =
                flows * LEAST * ALPHA / (ALPHA - 1.0) * (1.0 - (LEAST / LARGE).powf(ALPHA - 1.0));
            for left in here.iter_mut() {
                let sent = left.min(SPEED * length_s);
                *left -= sent;
                bytes += sent;
            }
            here.retain(|left| *left > 0.0);
        }
        self.next += 1;
        member.bytes += bytes as u64;
        member.packets += (random.poisson(flows * OVERHEAD) + flows + (bytes / PACKET)) as u64;
    }

    /// Goes back to the first member.
    pub(super) fn restart(&mut self) {
        self.next = 0;
    }
}
