//! A VIP, its members and its traffic, second by second.
//!
//! Flows are not simulated one by one. For given shares, independent flows have multinomial counts,
//! which are drawn as a Poisson count for each member (or a draw for each flow, if there are fewer
//! flows than members). This is exact, and a day of a small VIP takes a few milliseconds. Dependent
//! flows (bursts, heavy sources, repeated SYNs, elephants, flows from before a change) are added.

use std::sync::Arc;

use lb_skew::{Change, Facts, Member, MovedMember, Observation, Phase};

use super::{
    clients::{Clients, Failure},
    random::{Alias, Random},
    scenario::{MemberEvents, RateProfile, Scenario},
    sources::Sources,
    volume::Volume,
};

const RING_SIZE: u32 = 65_537;
/// Flows per member below which flows are drawn one by one.
const FEW_FLOWS: f64 = 4.0;
/// How long a ring is in transition after a change, seconds.
const TRANSITION_S: f64 = 60.0;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    pub scenario: Scenario,
    /// Members of the VIP.
    pub members: usize,
    /// New flows per second, mean over the day.
    pub flows_per_s: f64,
}

/// A simulated VIP.
#[derive(Debug)]
pub struct World {
    pub(super) random: Random,
    pub(super) setting: Setting,
    pub(super) now_s: f64,
    pub(super) weights: Vec<f64>,
    pub(super) members: Vec<Member>,
    odds: Vec<f64>,
    alias: Option<Alias>,
    /// Deviations from the table share due to reused ports of large NATs.
    reused: Vec<f64>,
    profile: RateProfile,
    sources: Option<Sources>,
    volume: Option<Volume>,
    clients: Option<Clients>,
    observed: u64,
    pub(super) events: MemberEvents,
    change: Option<Change>,
    changed_s: f64,
    /// Flows from before a change without an entry, by the member that had them.
    stragglers: Vec<f64>,
    fault: Option<(usize, f64)>,
}

impl World {
    /// A VIP at midnight.
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
            ring_flows: None,
            packets: 0,
            bytes: 0,
        });
        let reused = (0..setting.members)
            .map(|_| random.normal() * scenario.reused_ports(setting.flows_per_s))
            .collect();
        let members: Vec<Member> = members.collect();
        let mut world = Self {
            profile: RateProfile::new(scenario, &mut random),
            sources: Sources::new(scenario, &mut random),
            volume: Volume::new(scenario, setting.members),
            clients: Clients::new(scenario, setting.members, setting.flows_per_s),
            observed: 0,
            events: MemberEvents::new(scenario, setting.members, &mut random),
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
        world.rebuild_ring();
        world
    }

    /// Facts for the detector.
    #[must_use]
    pub fn facts(&self) -> Facts {
        Facts {
            tcp: self.setting.scenario.is_tcp(),
            independent: self.sources.is_none(),
        }
    }

    /// Whether the current clients really give a member more than `times` its share.
    #[must_use]
    pub fn is_heavy(&self, name: &str, times: f64) -> bool {
        let members = self.members.iter().zip(&self.odds);
        members
            .filter(|(member, _)| *member.name == *name)
            .any(|(member, odd)| *odd > times * member.table_share)
    }

    /// Gives a member a multiple of its share until the next call.
    pub fn set_fault(&mut self, fault: Option<(usize, f64)>) {
        self.fault = fault;
        self.set_odds();
    }

    /// Makes a member fail permanently. Only in scenarios with client behaviour.
    pub fn set_failure(&mut self, member: usize, failure: Failure) {
        if let Some(clients) = &mut self.clients {
            clients.set_failure((member, failure));
        }
    }

    /// Ends the connections of a member.
    pub(super) fn close_connections(&mut self, member: usize) {
        if let Some(clients) = &mut self.clients {
            clients.close_connections(member);
        }
    }

    /// The current observation.
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
            bounded: false,
        }
    }

    /// Advances by about a second.
    pub fn advance(&mut self) {
        let length_s = self.setting.scenario.tick(&mut self.random);
        self.advance_by(length_s);
    }

    /// Advances by `length_s`, with a change of the table at a random moment if one is due.
    pub fn advance_by(&mut self, length_s: f64) {
        let mut events = std::mem::take(&mut self.events);
        if events.is_due(self.now_s + length_s) {
            let part = self.random.unit();
            self.generate(length_s * part);
            let before = self.shares();
            let revised = events.apply(self);
            self.rebuild_ring();
            self.note_change(&before, revised);
            self.generate(length_s * (1.0 - part));
        } else {
            self.generate(length_s);
        }
        self.events = events;
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

    /// Rebuilds the ring from the current weights.
    pub(super) fn rebuild_ring(&mut self) {
        let total: f64 = self.weights.iter().sum();
        for (member, weight) in self.members.iter_mut().zip(&self.weights) {
            member.table_share = weight / total.max(f64::MIN_POSITIVE);
            member.intended_share = member.table_share;
        }
        self.set_odds();
    }

    fn note_change(&mut self, before: &[f64], revised: bool) {
        let rate = self.setting.flows_per_s;
        let moved: Vec<MovedMember> = self
            .members
            .iter()
            .zip(before)
            .filter(|(member, before)| member.table_share != **before)
            .map(|(member, &before)| MovedMember {
                name: member.name.clone(),
                before,
                after: member.table_share,
            })
            .collect();
        if !self.setting.scenario.is_tcp() {
            for (late, (member, before)) in self
                .stragglers
                .iter_mut()
                .zip(self.members.iter().zip(before))
            {
                // Flows of the last 20 s that have packets to come.
                *late += 20.0 * rate * (before - member.table_share).max(0.0);
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

    fn generate(&mut self, length_s: f64) {
        let times = self.profile.times(self.now_s, length_s, &mut self.random);
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
        self.add_late_flows();
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
            clients.advance_to(self.now_s + length_s, &mut self.members, random);
            for (place, (member, odd)) in self.members.iter_mut().zip(&self.odds).enumerate() {
                clients.open(place, mean * odd, member, random);
            }
            return;
        }
        let repeated = self.setting.scenario.repeated();
        for (member, odd) in self.members.iter_mut().zip(&self.odds) {
            let random = &mut self.random;
            let mut flows = random.poisson(mean * odd / bunch);
            if bunch > 1.0 && flows > 0.0 {
                // The count is the number of bursts. Their sizes are geometric, so the sum is
                // negative binomial.
                let more = random.gamma(flows, flows * (bunch - 1.0));
                flows += random.poisson(more);
            }
            if repeated > 0.0 {
                flows += 2.0 * random.poisson(flows * repeated);
            }
            member.new_flows += flows as u64;
            if let Some(volume) = &mut self.volume {
                volume.carry(member, flows, length_s, random);
            }
        }
        if let Some(volume) = &mut self.volume {
            volume.restart();
        }
    }

    fn add_late_flows(&mut self) {
        for (late, member) in self.stragglers.iter_mut().zip(&mut self.members) {
            if *late > 0.5 {
                let flows = self.random.poisson(*late * 0.2).min(late.ceil());
                *late -= flows;
                member.new_flows += flows as u64;
            }
        }
    }
}
