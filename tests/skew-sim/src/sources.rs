//! Clients of which each goes to one member as a whole: `affinity = "source"`.

use super::{random::Random, scenario::Scenario};

/// How long a client is there, and away, seconds.
const SESSION_S: f64 = 1200.0;

/// The clients that are large enough to be seen one by one; all others are spread like the table.
#[derive(Clone, Debug)]
pub(super) struct Sources {
    clients: Vec<Client>,
}

#[derive(Clone, Debug)]
struct Client {
    /// Part of all flows while it is there.
    share: f64,
    /// Where its hash is in the ring, 0 to 1.
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
            // Sessions of one packet in five hundred and less.
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

    /// Lets clients come and go; whether any did.
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

    /// Changes the odds of the members from those of the table to those with these clients.
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
