//! Client behaviour after the SYN, as the balancer sees it: with direct server return, only packets
//! from the client. Some flows are sampled, and their outcomes are known.

use std::{collections::VecDeque, sync::Arc};

use lb_skew::{Member, SampledFlows, Samples};

use super::{random::Random, scenario::Scenario};

/// Seconds for which packets are scheduled in advance.
const HORIZON: usize = 64;
/// Seconds until the outcome of a sampled flow is known, seconds for which it is kept, and outcomes
/// per member.
const OUTCOME_AFTER: u64 = 4;
const KEPT_FOR: u64 = 60;
const KEPT: usize = 32;
/// Sampled flows of a VIP per second, about.
const SAMPLED_PER_S: f64 = 20.0;
/// Seconds after which an unanswered SYN is repeated.
const REPEATS: [usize; 5] = [1, 3, 7, 15, 31];

/// Behaviour of the client of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Sends a request, gets a reply and closes.
    Browse,
    /// Sends a request, gets the reply after 20 to 50 s, and repeats, ten times on average.
    Poll,
    /// Opens a connection in advance; one request per half minute, for five minutes.
    Keep,
    /// Receives data and acknowledges it every two seconds, for ten minutes.
    Listen,
    /// Vanishes after its request, like a mobile that changes its network.
    Vanish,
    /// Never completes the handshake and repeats its SYN.
    HalfOpen,
    /// Sends a request, gets the reply after 5 to 30 s and closes.
    Wait,
    /// Sends one SYN and nothing else.
    Scan,
}

/// How a member fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Sends nothing: clients repeat their SYNs.
    Dead,
    /// Accepts connections but never replies: clients close after ten seconds.
    Mute,
}

/// The clients of a VIP.
#[derive(Clone, Debug)]
pub(super) struct Clients {
    behaviours: &'static [(Behaviour, f64)],
    states: Vec<MemberState>,
    sampled: f64,
    second: u64,
    failure: Option<(usize, Failure)>,
    samples: Samples,
}

/// Scheduled packets and open flows of a member.
#[derive(Clone, Debug)]
struct MemberState {
    packets: [f64; HORIZON],
    syns: [f64; HORIZON],
    polls: [f64; HORIZON],
    kept: f64,
    listening: f64,
    outcomes: VecDeque<(u64, bool)>,
}

impl Default for MemberState {
    fn default() -> Self {
        Self {
            packets: [0.0; HORIZON],
            syns: [0.0; HORIZON],
            polls: [0.0; HORIZON],
            kept: 0.0,
            listening: 0.0,
            outcomes: VecDeque::new(),
        }
    }
}

/// Share of the flows by behaviour.
fn behaviours(scenario: Scenario) -> Option<&'static [(Behaviour, f64)]> {
    use Behaviour as B;
    Some(match scenario {
        Scenario::LongPolling => &[(B::Poll, 0.7), (B::Browse, 0.3)],
        Scenario::IdleKeepAlive | Scenario::KeepAliveDeploy => &[(B::Keep, 0.8), (B::Browse, 0.2)],
        Scenario::ServerPush => &[(B::Listen, 0.6), (B::Browse, 0.4)],
        Scenario::HalfOpenMobiles => &[(B::Browse, 0.85), (B::HalfOpen, 0.05), (B::Vanish, 0.1)],
        Scenario::SlowAnswers => &[(B::Wait, 0.9), (B::Browse, 0.1)],
        Scenario::Scanned => &[(B::Scan, 0.65), (B::Browse, 0.35)],
        Scenario::Browsing => &[(B::Browse, 1.0)],
        _ => return None,
    })
}

impl Clients {
    pub(super) fn new(scenario: Scenario, members: usize, flows_per_s: f64) -> Option<Self> {
        Some(Self {
            behaviours: behaviours(scenario)?,
            states: vec![MemberState::default(); members],
            sampled: (SAMPLED_PER_S / flows_per_s).min(1.0),
            second: 0,
            failure: None,
            samples: Samples::default(),
        })
    }

    pub(super) fn set_failure(&mut self, failure: (usize, Failure)) {
        let state = &mut self.states[failure.0];
        let outcomes = std::mem::take(&mut state.outcomes);
        *state = MemberState {
            outcomes,
            ..MemberState::default()
        };
        self.failure = Some(failure);
    }

    /// Ends the connections of a member.
    pub(super) fn close_connections(&mut self, member: usize) {
        self.states[member] = MemberState::default();
    }

    /// Advances to `now_s` and delivers the scheduled packets.
    pub(super) fn advance_to(&mut self, now_s: f64, members: &mut [Member], random: &mut Random) {
        while self.second < now_s as u64 {
            self.second += 1;
            let cell = self.second as usize % HORIZON;
            for (state, member) in self.states.iter_mut().zip(&mut *members) {
                state.deliver(cell, member, random);
            }
        }
    }

    /// Opens new flows of a member: `mean` on average.
    pub(super) fn open(
        &mut self,
        place: usize,
        mean: f64,
        member: &mut Member,
        random: &mut Random,
    ) {
        let failure = self.failure.filter(|(member, _)| *member == place);
        for (behaviour, part) in self.behaviours {
            let flows = random.poisson(mean * part);
            if flows == 0.0 {
                continue;
            }
            member.new_flows += flows as u64;
            member.packets += flows as u64;
            let state = &mut self.states[place];
            let second = self.second as usize;
            match failure {
                Some((_, failure)) => state.fail(failure, flows, second, member),
                None => state.open(*behaviour, flows, second, member, random),
            }
            let sampled = if self.sampled < 1.0 {
                random.poisson(flows * self.sampled).min(flows)
            } else {
                flows
            };
            for _ in 0..sampled as usize {
                let unanswered = failure.is_some() || random.unit() < unanswered(*behaviour);
                state
                    .outcomes
                    .push_back((self.second + OUTCOME_AFTER, unanswered));
            }
        }
    }

    /// Updates the outcomes of sampled flows.
    pub(super) fn sample(&mut self, members: &[Member]) {
        let now = self.second;
        let sampled_flows = self.states.iter_mut().zip(members).map(|(state, member)| {
            let is_old = |(at, _): &(u64, bool)| at + KEPT_FOR < now;
            while state.outcomes.front().is_some_and(is_old) {
                state.outcomes.pop_front();
            }
            let due = state.outcomes.iter().rev().filter(|(at, _)| *at <= now);
            let due = due.take(KEPT);
            let (flows, unanswered) = due.fold((0, 0), |(flows, bad), (_, unanswered)| {
                (flows + 1, bad + u32::from(*unanswered))
            });
            SampledFlows {
                member: Arc::clone(&member.name),
                flows,
                unanswered,
            }
        });
        self.samples.flows_by_member = sampled_flows.collect();
    }

    pub(super) fn samples(&self) -> &Samples {
        &self.samples
    }
}

/// Probability that nothing follows the request or SYN within three seconds.
fn unanswered(behaviour: Behaviour) -> f64 {
    match behaviour {
        Behaviour::Browse => 0.005,
        Behaviour::Keep => 0.9,
        Behaviour::Listen => 0.48,
        Behaviour::Poll
        | Behaviour::Vanish
        | Behaviour::HalfOpen
        | Behaviour::Wait
        | Behaviour::Scan => 1.0,
    }
}

impl MemberState {
    fn deliver(&mut self, cell: usize, member: &mut Member, random: &mut Random) {
        let syns = std::mem::take(&mut self.syns[cell]);
        let polls = std::mem::take(&mut self.polls[cell]);
        let mut packets = std::mem::take(&mut self.packets[cell]) + syns;
        if polls > 0.0 {
            // An ACK and the next request, or the FIN.
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
        // Up to thirty groups with equal parts of the polls, at different times.
        let groups = polls.min(30.0);
        for group in 0..groups as usize {
            let size = ((group + 1) as f64 * polls / groups).floor()
                - (group as f64 * polls / groups).floor();
            self.polls[(second + 20 + random.below(30)) % HORIZON] += size;
        }
    }

    fn open(
        &mut self,
        behaviour: Behaviour,
        flows: f64,
        second: usize,
        member: &mut Member,
        random: &mut Random,
    ) {
        let mut planned =
            |after: usize, packets: f64| self.packets[(second + after) % HORIZON] += packets;
        let at_once = match behaviour {
            Behaviour::Browse => {
                planned(1, 2.0 * flows);
                2.0
            }
            Behaviour::Poll => {
                self.plan_polls(flows, second, random);
                2.0
            }
            Behaviour::Keep => {
                self.kept += flows;
                1.0
            }
            Behaviour::Listen => {
                self.listening += flows;
                2.0
            }
            Behaviour::Vanish => 2.0,
            Behaviour::Wait => {
                for _ in 0..flows.min(30.0) as usize {
                    planned(5 + random.below(25), 3.0 * flows / flows.min(30.0));
                }
                2.0
            }
            Behaviour::HalfOpen => {
                for after in REPEATS {
                    self.syns[(second + after) % HORIZON] += flows;
                }
                0.0
            }
            Behaviour::Scan => 0.0,
        };
        member.packets += (at_once * flows) as u64;
    }

    fn fail(&mut self, failure: Failure, flows: f64, second: usize, member: &mut Member) {
        match failure {
            Failure::Dead => {
                for after in REPEATS {
                    self.syns[(second + after) % HORIZON] += flows;
                }
            }
            Failure::Mute => {
                member.packets += 2 * flows as u64;
                self.packets[(second + 10) % HORIZON] += flows;
            }
        }
    }
}
