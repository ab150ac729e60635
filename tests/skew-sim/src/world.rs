//! A VIP, its members and its traffic, second by second.
//!
//! Flows are not made one by one. Given the shares, independent flows make multinomial counts, and these come of a
//! Poisson count for each member (or of a draw for each flow, where flows are fewer than members): exact, and
//! a day of a small VIP takes a few milliseconds. What depends on what (bunches, heavy sources, repeated
//! SYNs, elephants, flows of before a change) is added on top.

use std::sync::Arc;

use lb_skew::{Change, Facts, Member, Moved, Observation, Phase};

use super::{
    clients::{Clients, Deafness},
    random::{Alias, Random},
    scenario::{Bearing, Scenario, Shape},
    sources::Sources,
    volume::Volume,
};

/// Slots of the ring.
const RING_SIZE: u32 = 65_537;
/// Flows for each member below which flows are drawn one by one.
const FEW_FLOWS: f64 = 4.0;
/// How long a ring is in transition after a change, seconds.
const TRANSITION_S: f64 = 60.0;

/// What is simulated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    /// The kind of traffic and events.
    pub scenario: Scenario,
    /// Members of the VIP.
    pub members: usize,
    /// New flows a second, as a mean over the day.
    pub flows_per_s: f64,
}

/// A VIP that lives.
#[derive(Debug)]
pub struct World {
    pub(super) random: Random,
    pub(super) setting: Setting,
    pub(super) now_s: f64,
    pub(super) weights: Vec<f64>,
    pub(super) members: Vec<Member>,
    odds: Vec<f64>,
    alias: Option<Alias>,
    /// What of the ring itself misses the table: ports of large NATs that are used again and again.
    reused: Vec<f64>,
    shape: Shape,
    sources: Option<Sources>,
    volume: Option<Volume>,
    clients: Option<Clients>,
    observed: u64,
    pub(super) bearing: Bearing,
    change: Option<Change>,
    changed_s: f64,
    /// Flows of before a change that have no entry yet, for each member that had them.
    stragglers: Vec<f64>,
    fault: Option<(usize, f64)>,
}

impl World {
    /// A VIP as it is at midnight.
    #[must_use]
    pub fn new(setting: Setting, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let scenario = setting.scenario;
        let weights: Vec<f64> = (0..setting.members)
            .map(|member| scenario.weight(member, &mut random))
            .collect();
        let members = (0..setting.members).map(|member| Member {
            name: Arc::from(format!("b{member}")),
            table_share: 0.0,
            intended_share: 0.0,
            capacity: None,
            phase: Phase::Serving,
            new_flows: 0,
            packets: 0,
            bytes: 0,
        });
        let reused = (0..setting.members)
            .map(|_| random.normal() * scenario.reused_ports(setting.flows_per_s))
            .collect();
        let members: Vec<Member> = members.collect();
        let mut world = Self {
            shape: Shape::new(scenario, &mut random),
            sources: Sources::new(scenario, &mut random),
            volume: Volume::new(scenario, setting.members),
            clients: Clients::new(scenario, setting.members, setting.flows_per_s),
            observed: 0,
            bearing: Bearing::new(scenario, setting.members, &mut random),
            members,
            weights,
            odds: Vec::new(),
            alias: None,
            reused,
            now_s: 0.0,
            change: None,
            changed_s: -1e9,
            stragglers: vec![0.0; setting.members],
            fault: None,
            setting,
            random,
        };
        world.spread();
        world
    }

    /// What the watch is told of the VIP.
    #[must_use]
    pub fn facts(&self) -> Facts {
        Facts {
            tcp: self.setting.scenario.is_tcp(),
            independent: self.sources.is_none(),
        }
    }

    /// Whether a member really gets that many times its share now, because of who the clients are.
    #[must_use]
    pub fn is_heavy(&self, name: &str, times: f64) -> bool {
        let members = self.members.iter().zip(&self.odds);
        members
            .filter(|(member, _)| *member.name == *name)
            .any(|(member, odd)| *odd > times * member.table_share)
    }

    /// Gives a member so many times its share, until told otherwise.
    pub fn set_fault(&mut self, fault: Option<(usize, f64)>) {
        self.fault = fault;
        self.set_odds();
    }

    /// Makes a member deaf, for good. Only where clients have habits.
    pub fn set_deaf(&mut self, member: usize, deafness: Deafness) {
        if let Some(clients) = &mut self.clients {
            clients.set_deaf((member, deafness));
        }
    }

    /// The connections of a member end.
    pub(super) fn cut(&mut self, member: usize) {
        if let Some(clients) = &mut self.clients {
            clients.cut(member);
        }
    }

    /// What is to be seen now.
    #[must_use]
    pub fn observation(&self) -> Observation<'_> {
        Observation {
            at_s: self.now_s,
            members: &self.members,
            ring_size: RING_SIZE,
            in_transition: self.now_s - self.changed_s < TRANSITION_S,
            change: self.change.as_ref(),
            // Sampled flows are read every other second.
            samples: self
                .clients
                .as_ref()
                .filter(|_| self.observed.is_multiple_of(2))
                .map(Clients::samples),
        }
    }

    /// Lets about a second go by.
    pub fn advance(&mut self) {
        let length_s = self.setting.scenario.tick(&mut self.random);
        self.advance_by(length_s);
    }

    /// Lets this long go by, with a change of the table somewhere in it if one is due.
    pub fn advance_by(&mut self, length_s: f64) {
        let mut bearing = std::mem::take(&mut self.bearing);
        if bearing.is_due(self.now_s + length_s) {
            let part = self.random.unit();
            self.let_come(length_s * part);
            let before = self.shares();
            let revised = bearing.act(self);
            self.spread();
            self.note_change(&before, revised);
            self.let_come(length_s * (1.0 - part));
        } else {
            self.let_come(length_s);
        }
        self.bearing = bearing;
        self.now_s += length_s;
        self.observed += 1;
        if let Some(clients) = &mut self.clients
            && self.observed.is_multiple_of(2)
        {
            clients.sample(&self.members);
        }
        if let Some(sources) = &mut self.sources
            && sources.pass(self.now_s, &mut self.random)
        {
            self.set_odds();
        }
    }

    fn shares(&self) -> Vec<f64> {
        self.members
            .iter()
            .map(|member| member.table_share)
            .collect()
    }

    /// Builds the ring anew from the weights in force.
    pub(super) fn spread(&mut self) {
        let total: f64 = self.weights.iter().sum();
        for (member, weight) in self.members.iter_mut().zip(&self.weights) {
            member.table_share = weight / total.max(f64::MIN_POSITIVE);
            member.intended_share = member.table_share;
        }
        self.set_odds();
    }

    fn note_change(&mut self, before: &[f64], revised: bool) {
        let rate = self.setting.flows_per_s;
        let moved: Vec<Moved> = self
            .members
            .iter()
            .zip(before)
            .filter(|(member, before)| member.table_share != **before)
            .map(|(member, &before)| Moved {
                name: member.name.clone(),
                before,
                after: member.table_share,
            })
            .collect();
        if !self.setting.scenario.is_tcp() {
            for (left, (member, before)) in self
                .stragglers
                .iter_mut()
                .zip(self.members.iter().zip(before))
            {
                // Flows of the last 20 s that have packets to come.
                *left += 20.0 * rate * (before - member.table_share).max(0.0);
            }
        }
        self.changed_s = self.now_s;
        if revised {
            self.change = Some(Change {
                revision: self.change.as_ref().map_or(2, |change| change.revision + 1),
                at_s: self.now_s,
                moved,
            });
        }
    }

    fn set_odds(&mut self) {
        let faulty = self.fault.map(|(member, times)| {
            let share = self.members[member].table_share;
            let gets = (share * times).min(1.0);
            (member, gets, (1.0 - gets) / (1.0 - share).max(1e-9))
        });
        self.odds.clear();
        for (place, (member, reused)) in self.members.iter().zip(&self.reused).enumerate() {
            let share = member.table_share;
            let odd = match faulty {
                Some((member, gets, _)) if member == place => gets,
                Some((_, _, others)) => share * others,
                None => share + reused * (share * (1.0 - share)).sqrt(),
            };
            self.odds.push(odd.max(0.0));
        }
        if let Some(sources) = &self.sources {
            sources.weigh(&mut self.odds);
        }
        let sum: f64 = self.odds.iter().sum();
        self.odds.iter_mut().for_each(|odd| *odd /= sum);
        self.alias = None;
    }

    fn let_come(&mut self, length_s: f64) {
        let times = self.shape.times(self.now_s, length_s, &mut self.random);
        let mean = self.setting.flows_per_s * times * length_s;
        let bunch = self.setting.scenario.bunch();
        let alone = bunch == 1.0
            && self.volume.is_none()
            && self.clients.is_none()
            && self.members.len() >= 8;
        if alone && mean < FEW_FLOWS * self.members.len() as f64 {
            self.draw_each(mean);
        } else {
            self.draw_counts(mean, bunch, length_s);
        }
        self.let_straggle();
    }

    fn draw_each(&mut self, mean: f64) {
        let flows = self.random.poisson(mean);
        let odds = &self.odds;
        let alias = self.alias.get_or_insert_with(|| Alias::new(odds));
        let repeated = self.setting.scenario.repeated();
        for _ in 0..flows as u64 {
            let member = alias.draw(&mut self.random);
            let again = repeated > 0.0 && self.random.unit() < repeated;
            self.members[member].new_flows += if again { 3 } else { 1 };
        }
    }

    fn draw_counts(&mut self, mean: f64, bunch: f64, length_s: f64) {
        if let Some(clients) = &mut self.clients {
            let random = &mut self.random;
            clients.pass(self.now_s + length_s, &mut self.members, random);
            for (place, (member, odd)) in self.members.iter_mut().zip(&self.odds).enumerate() {
                clients.open(place, mean * odd, member, random);
            }
            return;
        }
        let repeated = self.setting.scenario.repeated();
        for (member, odd) in self.members.iter_mut().zip(&self.odds) {
            let random = &mut self.random;
            let mut came = random.poisson(mean * odd / bunch);
            if bunch > 1.0 && came > 0.0 {
                // So many bunches; the rest of each is geometric, that of all together negative binomial.
                let more = random.gamma(came, came * (bunch - 1.0));
                came += random.poisson(more);
            }
            if repeated > 0.0 {
                came += 2.0 * random.poisson(came * repeated);
            }
            member.new_flows += came as u64;
            if let Some(volume) = &mut self.volume {
                volume.carry(member, came, length_s, random);
            }
        }
        if let Some(volume) = &mut self.volume {
            volume.restart();
        }
    }

    fn let_straggle(&mut self) {
        for (left, member) in self.stragglers.iter_mut().zip(&mut self.members) {
            if *left > 0.5 {
                let came = self.random.poisson(*left * 0.2).min(left.ceil());
                *left -= came;
                member.new_flows += came as u64;
            }
        }
    }
}
