//! Votes: what this node and the other nodes of its fleet say of the health of backends.
//!
//! [`lb_fleet::votes`] decides what follows from them. Here they get names, hurry the checks, and become part
//! of the published state. The rings follow the node's own checks only.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use lb_fleet::votes::{Ballots, Opinion, Standing, Vote, Votes};
use lb_fleet::{FleetDisagreement, FleetDown, FleetHealth, FleetOpinion, FleetSuspect};
use tokio::sync::watch;
use tracing::warn;

use super::{actor::Actor, health_intake::HealthIntake, reports::Heard};
use crate::{
    clock::later,
    events::Entry,
    health::HealthStatus,
    reconciler::{ServiceId, VipReport, reported},
};
use lb_model::{
    MemberRef,
    config::{Config, Vip},
    ring::Identity,
    text::excerpt,
};

/// A member, as all nodes of a fleet know it.
pub(crate) type SharedMember = (ServiceId, Identity);

/// Characters of a reason that other nodes are told.
const LONGEST_WHY: usize = 200;

/// What the checks say is told this much later, with what they say meanwhile.
pub(super) const VOTE_AFTER: Duration = Duration::from_millis(10);

/// Votes take at most one part in so many of the engine's time, unless the machine is so busy that this would
/// take longer.
const VOTE_PAUSE: u32 = 10;
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// How long routers are kept away from a suspect node without another verdict: the controller may die.
const SUSPECT_S: u64 = 10;

/// What this node says, for the other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OwnVotes {
    /// All members of the configuration.
    pub(crate) members: Vec<SharedMember>,
    /// The votes on those that are not plainly up, by position.
    pub(crate) votes: BTreeMap<usize, Vote>,
}

/// The votes of the fleet, as this node has heard them.
pub(super) struct FleetVotes {
    /// Name of this node; empty if it exchanges nothing with others.
    node: String,
    began: Instant,
    ballots: Ballots<SharedMember>,
    names: BTreeMap<SharedMember, MemberRef>,
    own: watch::Sender<Arc<OwnVotes>>,
    standing: Option<Standing<SharedMember>>,
    /// Members that are down for the fleet, in the journal.
    noted: BTreeSet<SharedMember>,
}

impl FleetVotes {
    /// The channel is for the other nodes.
    pub(super) fn new(config: &Config) -> (Self, watch::Receiver<Arc<OwnVotes>>) {
        let (own, receiver) = watch::channel(Arc::default());
        let fleet = config.fleet.as_ref();
        let fleet = fleet.filter(|fleet| fleet.exchange.is_some());
        let votes = Self {
            node: fleet.map(|fleet| fleet.node.clone()).unwrap_or_default(),
            began: Instant::now(),
            ballots: Ballots::default(),
            names: BTreeMap::new(),
            own,
            standing: None,
            noted: BTreeSet::new(),
        };
        (votes, receiver)
    }

    /// The name of this node; none if it exchanges nothing with others.
    pub(super) fn node(&self) -> Option<&str> {
        self.is_wanted().then_some(&*self.node)
    }

    /// What a member is called here.
    pub(super) fn name_of(&self, member: &SharedMember) -> Option<&MemberRef> {
        self.names.get(member)
    }

    /// Whether nodes see any member of a VIP differently.
    pub(super) fn is_disputed(&self, service: &ServiceId) -> bool {
        let mut disputed = self.ballots.disputed();
        disputed.any(|(of, _)| of == service)
    }

    /// Whether anybody wants to know.
    const fn is_wanted(&self) -> bool {
        !self.node.is_empty()
    }

    /// Votes by what the checks say now.
    fn vote(&mut self, config: &Config, report: &[VipReport], health: &HealthIntake) {
        let statuses = health.statuses();
        let (mut names, mut votes) = (BTreeMap::new(), Votes::new());
        let mut own = OwnVotes::default();
        for (vip, reported) in reported(&config.vips, report) {
            for (member, proven) in members_of(vip, reported) {
                let shared = (reported.service, member.1);
                let name = MemberRef::new(&vip.name, member.0);
                let status = statuses.get(&name);
                let is_contested = self.ballots.is_contested(&shared);
                let vote =
                    status.map_or_else(Vote::default, |status| vote(status, proven, is_contested));
                let is_plain = vote == Vote::up();
                if votes.insert(shared, vote.clone()).is_some() {
                    continue;
                }
                if !is_plain {
                    own.votes.insert(own.members.len(), vote);
                }
                own.members.push(shared);
                names.insert(shared, name);
            }
        }
        self.names = names;
        self.ballots.set_own(votes);
        self.own.send_if_modified(|before| {
            let is_new = **before != own;
            if is_new {
                *before = Arc::new(own);
            }
            is_new
        });
    }

    fn judge(&mut self) {
        let now = self.began.elapsed();
        self.standing = Some(self.ballots.judge(&self.node, now));
    }

    /// What came to be, or is over, for the fleet: for the journal.
    fn news(&mut self) -> Vec<Entry> {
        let Some(standing) = &self.standing else {
            return Vec::new();
        };
        let mut entries = Vec::new();
        let mut down = BTreeSet::new();
        let mut note = |member: &SharedMember, words: String| {
            if let Some(name) = self.names.get(member) {
                let words = format!("{} {words}", name.backend);
                let entry = Entry::new("fleet", words).vip(&name.vip);
                entries.push(entry.backend(&name.backend));
            }
        };
        for found in &standing.down {
            down.insert(found.member);
            if !self.noted.contains(&found.member) {
                let (nodes, of) = (found.nodes, found.of);
                note(
                    &found.member,
                    format!("is down for the fleet: {nodes} of {of} nodes see it down"),
                );
            }
        }
        for member in self.noted.difference(&down) {
            note(member, "is no longer down for the fleet".to_owned());
        }
        self.noted = down;
        entries
    }

    fn is_suspect(&self) -> bool {
        let suspect = self.standing.as_ref().and_then(|it| it.suspect.as_ref());
        suspect.is_some_and(|(node, ..)| *node == self.node)
    }

    /// What is published.
    pub(super) fn shown(&self, now: Timestamp) -> Option<FleetHealth> {
        let standing = self.standing.as_ref()?;
        let at = |since: Duration| {
            let ago = self.began.elapsed().saturating_sub(since);
            later(now, -SignedDuration::try_from(ago).unwrap_or_default())
        };
        let down = standing.down.iter().filter_map(|down| {
            let name = self.names.get(&down.member)?;
            Some(FleetDown {
                vip: name.vip.clone(),
                backend: name.backend.clone(),
                nodes: down.nodes,
                of: down.of,
                since: at(down.since),
            })
        });
        let opinions = |side: &[(String, String)]| {
            let side = side.iter();
            side.map(|(node, why)| FleetOpinion {
                node: node.clone(),
                why: why.clone(),
            })
            .collect()
        };
        let disagreements = standing.disagreements.iter().filter_map(|found| {
            let name = self.names.get(&found.member)?;
            Some(FleetDisagreement {
                vip: name.vip.clone(),
                backend: name.backend.clone(),
                down: opinions(&found.down),
                up: opinions(&found.up),
                since: at(found.since),
            })
        });
        Some(FleetHealth {
            nodes: standing.nodes,
            down: down.collect(),
            disagreements: disagreements.collect(),
            suspect: standing
                .suspect
                .as_ref()
                .map(|(node, backends, of)| FleetSuspect {
                    node: node.clone(),
                    backends: *backends,
                    of: *of,
                }),
        })
    }
}

/// The configured members of a VIP: name and identity, and whether the checks have had a verdict.
fn members_of<'a>(
    vip: &'a Vip,
    reported: &'a VipReport,
) -> impl Iterator<Item = ((&'a str, Identity), bool)> {
    let members = reported.members.iter().filter(|member| !member.leaving);
    let proven: BTreeMap<Identity, bool> = members
        .map(|member| (member.identity, member.proven))
        .collect();
    vip.backends.iter().map(move |backend| {
        let identity = backend.identity();
        let proven = proven.get(&identity).copied().unwrap_or_default();
        ((backend.name.as_str(), identity), proven)
    })
}

fn vote(status: &HealthStatus, proven: bool, is_contested: bool) -> Vote {
    let opinion = match (status.healthy, proven) {
        // Its checks are inconclusive.
        (true, _) if status.inconclusive.is_some() || status.last_ok.is_none() => Opinion::Unjudged,
        (true, _) => Opinion::Up,
        (false, true) => Opinion::Down,
        (false, false) => Opinion::Unjudged,
    };
    // The text must not differ from check to check: every changed vote is sent to all nodes.
    let why = match opinion {
        Opinion::Down if status.damped => "held down because it is flapping".to_owned(),
        Opinion::Down => status.last_error.clone().unwrap_or_default(),
        Opinion::Up if !is_contested => String::new(),
        Opinion::Up if status.last_ok == Some(true) => "its checks succeed".to_owned(),
        Opinion::Up => "its checks have not failed often enough".to_owned(),
        Opinion::Unjudged => String::new(),
    };
    Vote {
        opinion,
        is_uncertain: status.uncertain || status.damped,
        why: excerpt(&why, LONGEST_WHY),
    }
}

impl Actor {
    /// The checks, or other nodes, say something new; or time has passed. Returns how long to wait at least
    /// before the next time.
    pub(super) fn vote(&mut self) -> Duration {
        if !self.votes.is_wanted() {
            return VOTE_AFTER;
        }
        let began = Instant::now();
        for (node, heard) in self.reports.take() {
            self.hear(&node, heard);
        }
        let report = self.data_path.reconciler.report();
        self.votes
            .vote(&self.changes.running.config, &report, &self.health);
        self.votes.judge();
        for entry in self.votes.news() {
            self.note(entry);
        }
        (began.elapsed() * VOTE_PAUSE).clamp(VOTE_AFTER, LONGEST_PAUSE)
    }

    /// Takes what another node has said since the last time.
    fn hear(&mut self, node: &str, heard: Heard) {
        let fleet = &mut self.votes;
        let now = fleet.began.elapsed();
        match heard.votes {
            None => fleet.ballots.note_alive(node, now),
            Some(votes) => {
                for member in fleet.ballots.hear(node, votes, now) {
                    if let Some(name) = fleet.names.get(&member) {
                        self.health.hurry(name);
                    }
                }
            }
        }
        for traffic in &heard.traffic {
            self.hear_traffic(node, traffic);
        }
    }

    /// Runs every second.
    pub(super) fn tick_votes(&mut self) {
        if !self.votes.is_wanted() {
            return;
        }
        self.vote();
        let dataplane = &self.data_path.dataplane;
        let until_s = match self.votes.is_suspect() {
            true => dataplane.now_s().map(|now_s| now_s + SUSPECT_S),
            false => Ok(0),
        };
        if let Err(error) = until_s.and_then(|until_s| dataplane.set_suspect(until_s)) {
            warn!(%error, "can't tell the announcer whether other nodes disagree");
        }
    }
}
