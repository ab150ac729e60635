//! Bytes and packets against shares.
//!
//! They are heavy-tailed: one flow can be a thousand others, and no formula for the variance holds. So each
//! second only says yes or no (does the member get a multiple of its share, and enough for it to
//! matter?), and a finding needs a majority of yes, `volume_s` more than no. That many seconds tell a chance meeting of large
//! flows from a lasting skew. Where sampled flows show that it is no meeting, but one or a few that are large by
//! themselves, a second says as much as four.
//!
//! Established flows stay where they are when the ring changes. What a member may carry is therefore the
//! larger of its share of the table and its part of the new flows of the last hour.

use super::{
    Thresholds,
    counts::{Came, Step, rearranged},
};

/// Observations that the present is averaged over.
const PRESENT: f64 = 5.0;
/// Observations that the past is averaged over.
const PAST: f64 = 3600.0;

/// Flows that are few.
const FEW: usize = 3;
/// Times the floor that a few flows must have together to be large by themselves.
const LARGE: f64 = 2.0;
/// What a second counts in which they have half of what is too much.
const SEEN: u32 = 4;

/// A large flow: the place of its member, and what it has a second, in the order of [`Unit`].
pub(super) type Flow = (usize, [f64; 2]);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Bytes,
    Packets,
}

impl Unit {
    pub(super) const ALL: [Self; 2] = [Self::Bytes, Self::Packets];

    fn of(self, came: &Came) -> f64 {
        match self {
            Self::Bytes => came.bytes,
            Self::Packets => came.packets,
        }
    }

    fn floor(self, thresholds: &Thresholds) -> f64 {
        match self {
            Self::Bytes => thresholds.bytes_floor_per_s,
            Self::Packets => thresholds.packets_floor_per_s,
        }
    }
}

/// A member with too many bytes or packets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heavy {
    pub(super) since_s: f64,
    pub(super) raised_s: f64,
}

/// How much a member has now, and should have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// A second.
    pub(super) rate: f64,
    pub(super) observed_share: f64,
    pub(super) expected_share: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Scale {
    now: f64,
    yes: u32,
    since_s: f64,
    heavy: Option<Heavy>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Loads {
    units: [Scale; 2],
    past_flows: f64,
}

/// The watch over bytes and packets.
#[derive(Clone, Debug, Default)]
pub(super) struct Volume {
    members: Vec<Loads>,
    total: [f64; 2],
    past_flows: f64,
    any: bool,
}

impl Volume {
    pub(super) fn rearrange(&mut self, places: &[Option<usize>]) {
        self.members = rearranged(&self.members, places);
    }

    pub(super) fn heavy(&self, unit: Unit) -> impl Iterator<Item = (usize, &Heavy)> {
        let members = if self.any { &*self.members } else { &[] };
        members
            .iter()
            .enumerate()
            .filter_map(move |(member, loads)| {
                Some((member, loads.units[unit as usize].heavy.as_ref()?))
            })
    }

    pub(super) fn load(&self, unit: Unit, member: usize, step: &Step) -> Load {
        let loads = &self.members[member];
        let now = loads.units[unit as usize].now;
        let past = loads.past_flows / self.past_flows.max(1e-9);
        Load {
            rate: now,
            observed_share: now / self.total[unit as usize].max(1e-9),
            expected_share: step.members[member].most_share.max(past),
        }
    }

    pub(super) fn observe(&mut self, step: &Step, flows: &[Flow], thresholds: &Thresholds) {
        self.past_flows += (step.flows - self.past_flows) / PAST;
        if !step.has_volume && self.total[1] < 1.0 {
            return;
        }
        self.total = [0.0; 2];
        for (loads, came) in self.members.iter_mut().zip(&step.members) {
            loads.past_flows += (came.flows - loads.past_flows) / PAST;
            for unit in Unit::ALL {
                let scale = &mut loads.units[unit as usize];
                scale.now += (unit.of(came) / step.length_s - scale.now) / PRESENT;
                self.total[unit as usize] += scale.now;
            }
        }
        self.any = false;
        for member in 0..self.members.len() {
            for unit in Unit::ALL {
                let idle = self.members[member].units[unit as usize].yes == 0;
                let floor = unit.floor(thresholds);
                if idle && self.members[member].units[unit as usize].now < floor {
                    continue;
                }
                let load = self.load(unit, member, step);
                let more = load.expected_share * (thresholds.volume_ratio - 1.0);
                let limit = load.expected_share + more.min((1.0 - load.expected_share) / 2.0);
                let yes = step.eligible > 1 && load.rate >= floor && load.observed_share > limit;
                let few = of_few(flows, member, unit);
                let excess =
                    load.rate * (1.0 - load.expected_share / load.observed_share.max(1e-9));
                let votes = match yes {
                    false => 0,
                    true if few >= LARGE * floor && few >= excess / 2.0 => SEEN,
                    true => 1,
                };
                let scale = &mut self.members[member].units[unit as usize];
                scale.judge(votes, step.now_s, thresholds.volume_s);
                self.any |= scale.heavy.is_some();
            }
        }
    }
}

/// What the largest few flows of a member have together.
fn of_few(flows: &[Flow], member: usize, unit: Unit) -> f64 {
    let theirs = flows.iter().filter(|(place, _)| *place == member);
    let mut rates: Vec<f64> = theirs.map(|(_, rates)| rates[unit as usize]).collect();
    rates.sort_by(|a, b| b.total_cmp(a));
    rates.iter().take(FEW).sum()
}

impl Scale {
    fn judge(&mut self, votes: u32, now_s: f64, wanted: u32) {
        if self.yes == 0 {
            self.since_s = now_s;
        }
        self.yes = if votes > 0 {
            (self.yes + votes).min(wanted)
        } else {
            self.yes.saturating_sub(1)
        };
        if self.yes >= wanted && self.heavy.is_none() {
            self.heavy = Some(Heavy {
                since_s: self.since_s,
                raised_s: now_s,
            });
        } else if self.yes == 0 {
            self.heavy = None;
        }
    }
}
