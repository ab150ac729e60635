//! What clients do after their SYN, as far as a balancer sees it: with direct server return these are the packets from the client, and
//! no others. Of some of the flows more is known: those that are sampled.

use std::{collections::VecDeque, sync::Arc};

use lb_skew::{Member, Openings, Samples};

use super::{random::Random, scenario::Scenario};

/// Seconds ahead that packets are planned.
const HORIZON: usize = 64;
/// Seconds after which a sampled flow is judged, and for which the verdict is kept; flows of a member that are kept.
const JUDGED_AFTER: u64 = 4;
const KEPT_FOR: u64 = 60;
const KEPT: usize = 32;
/// Flows of a VIP that are sampled in a second, about.
const SAMPLED_PER_S: f64 = 20.0;
/// When a SYN that is not answered is sent again, seconds after the first.
const REPEATS: [usize; 5] = [1, 3, 7, 15, 31];

/// What the client of a flow does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Asks, is answered, and closes.
    Browse,
    /// Asks, is answered after 20 to 50 s, asks again, ten times on average.
    Poll,
    /// Opens for later: asks every half minute, for five minutes.
    Keep,
    /// Listens: acknowledges what comes, every two seconds, for ten minutes.
    Listen,
    /// Vanishes after its request, as mobiles do that change their network.
    Vanish,
    /// Never finishes the handshake, and sends its SYN again and again.
    HalfOpen,
    /// Asks, is answered after 5 to 30 s, and closes.
    Wait,
    /// One SYN, and nothing ever again.
    Scan,
}

/// How a member fails to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deafness {
    /// Nothing comes back: clients repeat their SYNs.
    Dead,
    /// It accepts, and says nothing: clients close after ten seconds.
    Mute,
}

/// The clients of a VIP.
#[derive(Clone, Debug)]
pub(super) struct Clients {
    habits: &'static [(Habit, f64)],
    lines: Vec<Lines>,
    sampled: f64,
    second: u64,
    deaf: Option<(usize, Deafness)>,
    samples: Samples,
}

/// The flows of a member.
#[derive(Clone, Debug)]
struct Lines {
    packets: [f64; HORIZON],
    syns: [f64; HORIZON],
    polls: [f64; HORIZON],
    kept: f64,
    listening: f64,
    judged: VecDeque<(u64, bool)>,
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            packets: [0.0; HORIZON],
            syns: [0.0; HORIZON],
            polls: [0.0; HORIZON],
            kept: 0.0,
            listening: 0.0,
            judged: VecDeque::new(),
        }
    }
}

/// Parts of the flows by habit.
fn habits(scenario: Scenario) -> Option<&'static [(Habit, f64)]> {
    use Habit as H;
    Some(match scenario {
        Scenario::LongPolling => &[(H::Poll, 0.7), (H::Browse, 0.3)],
        Scenario::IdleKeepAlive | Scenario::KeepAliveDeploy => &[(H::Keep, 0.8), (H::Browse, 0.2)],
        Scenario::ServerPush => &[(H::Listen, 0.6), (H::Browse, 0.4)],
        Scenario::HalfOpenMobiles => &[(H::Browse, 0.85), (H::HalfOpen, 0.05), (H::Vanish, 0.1)],
        Scenario::SlowAnswers => &[(H::Wait, 0.9), (H::Browse, 0.1)],
        Scenario::Scanned => &[(H::Scan, 0.65), (H::Browse, 0.35)],
        Scenario::Browsing => &[(H::Browse, 1.0)],
        _ => return None,
    })
}

impl Clients {
    pub(super) fn new(scenario: Scenario, members: usize, flows_per_s: f64) -> Option<Self> {
        Some(Self {
            habits: habits(scenario)?,
            lines: vec![Lines::default(); members],
            sampled: (SAMPLED_PER_S / flows_per_s).min(1.0),
            second: 0,
            deaf: None,
            samples: Samples::default(),
        })
    }

    /// Makes a member deaf.
    pub(super) fn set_deaf(&mut self, deaf: (usize, Deafness)) {
        let lines = &mut self.lines[deaf.0];
        let judged = std::mem::take(&mut lines.judged);
        *lines = Lines {
            judged,
            ..Lines::default()
        };
        self.deaf = Some(deaf);
    }

    /// The connections of a member end.
    pub(super) fn cut(&mut self, member: usize) {
        self.lines[member] = Lines::default();
    }

    /// Goes on to a second: what was planned for it comes.
    pub(super) fn pass(&mut self, now_s: f64, members: &mut [Member], random: &mut Random) {
        while self.second < now_s as u64 {
            self.second += 1;
            let cell = self.second as usize % HORIZON;
            for (lines, member) in self.lines.iter_mut().zip(&mut *members) {
                lines.come(cell, member, random);
            }
        }
    }

    /// New flows of a member: so many on average.
    pub(super) fn open(
        &mut self,
        place: usize,
        mean: f64,
        member: &mut Member,
        random: &mut Random,
    ) {
        let deaf = self.deaf.filter(|(member, _)| *member == place);
        for (habit, part) in self.habits {
            let flows = random.poisson(mean * part);
            if flows == 0.0 {
                continue;
            }
            member.new_flows += flows as u64;
            member.packets += flows as u64;
            let lines = &mut self.lines[place];
            let second = self.second as usize;
            match deaf {
                Some((_, deafness)) => lines.is_deaf(deafness, flows, second, member),
                None => lines.begin(*habit, flows, second, member, random),
            }
            let sampled = if self.sampled < 1.0 {
                random.poisson(flows * self.sampled).min(flows)
            } else {
                flows
            };
            for _ in 0..sampled as usize {
                let unanswered = deaf.is_some() || random.unit() < unanswered(*habit);
                lines
                    .judged
                    .push_back((self.second + JUDGED_AFTER, unanswered));
            }
        }
    }

    /// What the sampled flows tell.
    pub(super) fn sample(&mut self, members: &[Member]) {
        let now = self.second;
        let openings = self.lines.iter_mut().zip(members).map(|(lines, member)| {
            let is_old = |(at, _): &(u64, bool)| at + KEPT_FOR < now;
            while lines.judged.front().is_some_and(is_old) {
                lines.judged.pop_front();
            }
            let due = lines.judged.iter().rev().filter(|(at, _)| *at <= now);
            let due = due.take(KEPT);
            let (flows, unanswered) = due.fold((0, 0), |(flows, bad), (_, unanswered)| {
                (flows + 1, bad + u32::from(*unanswered))
            });
            Openings {
                member: Arc::clone(&member.name),
                flows,
                unanswered,
            }
        });
        self.samples.openings = openings.collect();
    }

    pub(super) fn samples(&self) -> &Samples {
        &self.samples
    }
}

/// The chance that nothing follows the request, or the SYN, within three seconds.
fn unanswered(habit: Habit) -> f64 {
    match habit {
        Habit::Browse => 0.005,
        Habit::Keep => 0.9,
        Habit::Listen => 0.48,
        Habit::Poll | Habit::Vanish | Habit::HalfOpen | Habit::Wait | Habit::Scan => 1.0,
    }
}

impl Lines {
    fn come(&mut self, cell: usize, member: &mut Member, random: &mut Random) {
        let syns = std::mem::take(&mut self.syns[cell]);
        let polls = std::mem::take(&mut self.polls[cell]);
        let mut packets = std::mem::take(&mut self.packets[cell]) + syns;
        if polls > 0.0 {
            // An acknowledgement and the next request, or the end.
            packets += 2.0 * polls;
            let again = random.poisson(0.9 * polls).min(polls);
            self.plan_polls(again, cell, random);
        }
        if self.kept > 0.0 {
            packets += 3.0 * random.poisson(self.kept / 30.0);
            self.kept = (self.kept - random.poisson(self.kept / 300.0)).max(0.0);
        }
        if self.listening > 0.0 {
            packets += random.poisson(self.listening / 2.0);
            self.listening = (self.listening - random.poisson(self.listening / 600.0)).max(0.0);
        }
        member.new_flows += syns as u64;
        member.packets += packets as u64;
    }

    fn plan_polls(&mut self, polls: f64, second: usize, random: &mut Random) {
        // Thirty of them at the most, each for its part of the polls: they come at different times.
        let groups = polls.min(30.0);
        for group in 0..groups as usize {
            let size = ((group + 1) as f64 * polls / groups).floor()
                - (group as f64 * polls / groups).floor();
            self.polls[(second + 20 + random.below(30)) % HORIZON] += size;
        }
    }

    fn begin(
        &mut self,
        habit: Habit,
        flows: f64,
        second: usize,
        member: &mut Member,
        random: &mut Random,
    ) {
        let mut planned =
            |after: usize, packets: f64| self.packets[(second + after) % HORIZON] += packets;
        let at_once = match habit {
            Habit::Browse => {
                planned(1, 2.0 * flows);
                2.0
            }
            Habit::Poll => {
                self.plan_polls(flows, second, random);
                2.0
            }
            Habit::Keep => {
                self.kept += flows;
                1.0
            }
            Habit::Listen => {
                self.listening += flows;
                2.0
            }
            Habit::Vanish => 2.0,
            Habit::Wait => {
                for _ in 0..flows.min(30.0) as usize {
                    planned(5 + random.below(25), 3.0 * flows / flows.min(30.0));
                }
                2.0
            }
            Habit::HalfOpen => {
                for after in REPEATS {
                    self.syns[(second + after) % HORIZON] += flows;
                }
                0.0
            }
            Habit::Scan => 0.0,
        };
        member.packets += (at_once * flows) as u64;
    }

    fn is_deaf(&mut self, deafness: Deafness, flows: f64, second: usize, member: &mut Member) {
        match deafness {
            Deafness::Dead => {
                for after in REPEATS {
                    self.syns[(second + after) % HORIZON] += flows;
                }
            }
            Deafness::Mute => {
                member.packets += 2 * flows as u64;
                self.packets[(second + 10) % HORIZON] += flows;
            }
        }
    }
}
