//! Clients with `affinity = "source"`: all flows of a client go to one member.

use super::{random::Random, scenario::Scenario};

/// Mean time that a client is active, and inactive, seconds.
const SESSION_S: f64 = 1200.0;

/// Large clients, simulated one by one; all others are distributed like the table.
#[derive(Clone, Debug)]
pub(super) struct Sources {
    clients: Vec<Client>,
}

#[derive(Clone, Debug)]
struct Client {
    /// Share of all flows while active.
    share: f64,
    /// Position of its hash in the ring, 0 to 1.
    place: f64,
    here: bool,
    until_s: f64,
}

impl Sources {
    pub(super) fn new(scenario: Scenario, random: &mut Random) -> Option<Self> {
        let shares: Vec<f64> = match scenario {
            // Zipf with exponent 0.6 over 20,000 clients: the largest has 0.8 %.
            Scenario::ZipfSource => {
                let odds = (1..=20_000).map(|rank| f64::from(rank).powf(-0.6));
                let sum: f64 = odds.clone().sum();
                odds.take(300).map(|odd| odd / sum).collect()
            }
            // Twenty NATs with a quarter of the flows.
            Scenario::NatSource => (0..20).map(|_| 0.005 + 0.015 * random.unit()).collect(),
            // Sessions with at most one packet in 500.
            Scenario::UntrackedUdp => (0..200).map(|_| 0.002 * random.unit()).collect(),
            _ => return None,
        };
        let clients = shares.into_iter().map(|share| Client {
            share,
            place: random.unit(),
            here: random.unit() < 0.5,
            until_s: random.exponential(SESSION_S),
        });
        Some(Self {
            clients: clients.collect(),
        })
    }

    /// Starts and ends clients. Returns whether any changed.
    pub(super) fn pass(&mut self, now_s: f64, random: &mut Random) -> bool {
        let mut any = false;
        for client in &mut self.clients {
            if client.until_s <= now_s {
                client.here = !client.here;
                client.until_s = now_s + random.exponential(SESSION_S);
                any = true;
            }
        }
        any
    }

    /// Adds the active clients to the odds of the members, which are table shares before.
    pub(super) fn weigh(&self, odds: &mut [f64]) {
        let here = || self.clients.iter().filter(|client| client.here);
        let theirs: f64 = here().map(|client| client.share).sum();
        let table = odds.to_vec();
        odds.iter_mut().for_each(|odd| *odd *= 1.0 - theirs);
        for client in here() {
            let mut rest = client.place;
            let member = table.iter().position(|share| {
                rest -= share;
                rest < 0.0
            });
            if let Some(member) = member {
                odds[member] += client.share;
            }
        }
    }
}
