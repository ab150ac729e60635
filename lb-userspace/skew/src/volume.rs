//! Bytes and packets against shares.
//!
//! Bytes and packets per flow are heavy-tailed, so no formula for their variance holds. Each second
//! is one vote: does the member get more than `volume_ratio` times its share, and more than the
//! floor? A finding needs `volume_s` more votes for than against, which separates large flows that
//! coincide by chance from a lasting skew. If sampled flows show that a few flows cause the excess,
//! a second has four votes.
//!
//! Established flows stay on their member when the ring changes. The expected share is therefore
//! the larger of the table share and the share of new flows in the last hour. Where new flows may spill
//! to other members, so does their traffic: there, the share of new flows of the last seconds counts too.

use super::{
    Thresholds,
    counts::{MemberCounts, Step, rearranged},
    thresholds::multiple_of,
};

/// Observations over which the current rate is averaged.
const PRESENT: f64 = 5.0;
/// Observations over which past flows are averaged.
const PAST: f64 = 3600.0;

/// Number of flows that are large by themselves, at most.
const FEW: usize = 3;
/// Multiple of the floor that these flows must have together.
const LARGE: f64 = 2.0;
/// Votes of a second in which they have half of the excess.
const FEW_FLOWS_VOTES: u32 = 4;

/// A large flow: index of its member, and its rates per second in the order of [`Unit`].
pub(super) type Flow = (usize, [f64; 2]);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Bytes,
    Packets,
}

impl Unit {
    pub(super) const ALL: [Self; 2] = [Self::Bytes, Self::Packets];

    fn of(self, counts: &MemberCounts) -> f64 {
        match self {
            Self::Bytes => counts.bytes,
            Self::Packets => counts.packets,
        }
    }

    fn floor(self, thresholds: &Thresholds) -> f64 {
        match self {
            Self::Bytes => thresholds.bytes_floor_per_s,
            Self::Packets => thresholds.packets_floor_per_s,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct RaisedVolume {
    pub(super) since_s: f64,
    pub(super) raised_s: f64,
}

/// Current and expected load of a member.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Per second.
    pub(super) rate: f64,
    pub(super) observed_share: f64,
    pub(super) expected_share: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct VolumeTest {
    now: f64,
    score: u32,
    since_s: f64,
    heavy: Option<RaisedVolume>,
}

#[derive(Clone, Copy, Debug, Default)]
struct MemberVolume {
    units: [VolumeTest; 2],
    past_flows: f64,
    flows: f64,
}

/// Detects members with too many bytes or packets.
#[derive(Clone, Debug, Default)]
pub(super) struct Volume {
    members: Vec<MemberVolume>,
    total: [f64; 2],
    past_flows: f64,
    flows: f64,
}

impl Volume {
    pub(super) fn rearrange(&mut self, places: &[Option<usize>]) {
        self.members = rearranged(&self.members, places);
    }

    pub(super) fn heavy(&self, unit: Unit) -> impl Iterator<Item = (usize, &RaisedVolume)> {
        self.members
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
        let present = match step.bounded {
            true => loads.flows / self.flows.max(1e-9),
            false => 0.0,
        };
        Load {
            rate: now,
            observed_share: now / self.total[unit as usize].max(1e-9),
            expected_share: step.members[member].most_share.max(past).max(present),
        }
    }

    pub(super) fn observe(&mut self, step: &Step, flows: &[Flow], thresholds: &Thresholds) {
        self.past_flows += (step.flows - self.past_flows) / PAST;
        self.flows += (step.flows - self.flows) / PRESENT;
        if !step.has_volume && self.total[1] < 1.0 {
            return;
        }
        self.total = [0.0; 2];
        for (loads, counts) in self.members.iter_mut().zip(&step.members) {
            loads.past_flows += (counts.got - loads.past_flows) / PAST;
            loads.flows += (counts.got - loads.flows) / PRESENT;
            for unit in Unit::ALL {
                let test = &mut loads.units[unit as usize];
                test.now += (unit.of(counts) / step.length_s - test.now) / PRESENT;
                self.total[unit as usize] += test.now;
            }
        }
        for member in 0..self.members.len() {
            for unit in Unit::ALL {
                let idle = self.members[member].units[unit as usize].score == 0;
                let floor = unit.floor(thresholds);
                if idle && self.members[member].units[unit as usize].now < floor {
                    continue;
                }
                let load = self.load(unit, member, step);
                let limit = multiple_of(load.expected_share, thresholds.volume_ratio);
                let exceeds =
                    step.eligible > 1 && load.rate >= floor && load.observed_share > limit;
                let largest = rate_of_largest(flows, member, unit);
                let excess =
                    load.rate * (1.0 - load.expected_share / load.observed_share.max(1e-9));
                let votes = match exceeds {
                    false => 0,
                    true if largest >= LARGE * floor && largest >= excess / 2.0 => FEW_FLOWS_VOTES,
                    true => 1,
                };
                let test = &mut self.members[member].units[unit as usize];
                test.update(votes, step.now_s, thresholds.volume_s);
            }
        }
    }
}

/// Total rate of the largest few flows of a member.
fn rate_of_largest(flows: &[Flow], member: usize, unit: Unit) -> f64 {
    let theirs = flows.iter().filter(|(place, _)| *place == member);
    let mut rates: Vec<f64> = theirs.map(|(_, rates)| rates[unit as usize]).collect();
    rates.sort_by(|a, b| b.total_cmp(a));
    rates.iter().take(FEW).sum()
}

impl VolumeTest {
    fn update(&mut self, votes: u32, now_s: f64, wanted: u32) {
        if self.score == 0 {
            self.since_s = now_s;
        }
        self.score = if votes > 0 {
            (self.score + votes).min(wanted)
        } else {
            self.score.saturating_sub(1)
        };
        if self.score >= wanted && self.heavy.is_none() {
            self.heavy = Some(RaisedVolume {
                since_s: self.since_s,
                raised_s: now_s,
            });
        } else if self.score == 0 {
            self.heavy = None;
        }
    }
}
