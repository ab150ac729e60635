//! What nodes say of their backends, as it is told.

use std::{collections::HashMap, sync::Arc};

use lb_fleet::{
    exchange::{
        Ballot, Member, Report, Roster, ToldFlow, ToldTraffic, ToldVote, Update, address_bytes,
    },
    votes::{Opinion, Vote, Votes},
};

use lb_common::{ring::MAX_MEMBERS, vip::MAX_VIPS};
use lb_model::text::excerpt;

use super::Keeper;
use crate::{
    engine::{Counts, OwnTraffic, OwnVotes, SharedMember, VipTraffic},
    fleet::told::{identity_of, service_of, service_told},
};

/// Characters of a reason that are kept, and bytes of a flow.
const LONGEST_WHY: usize = 200;
const LONGEST_FLOW: usize = 128;

/// Flows that are compared in a second, of each node.
const MOST_FLOWS: usize = 64;

/// What this node says. `all`: also which members it has.
pub(super) fn report_told(own: &OwnVotes, all: bool) -> Report {
    let members = (0..)
        .zip(&own.members)
        .map(|(index, (service, identity))| Member {
            index,
            service: service_told(*service),
            address: address_bytes(identity.address),
            port: identity.port.into(),
        });
    let votes = own.votes.iter().map(|(position, vote)| ToldVote {
        member: *position as u32,
        opinion: match vote.opinion {
            Opinion::Unjudged => 0,
            Opinion::Up => 1,
            Opinion::Down => 2,
        },
        is_uncertain: vote.is_uncertain,
        why: vote.why.clone(),
    });
    Report {
        roster: all.then(|| Roster {
            members: members.collect(),
        }),
        ballot: Some(Ballot {
            votes: votes.collect(),
        }),
        ..Report::default()
    }
}

/// The members of another node, by position; none where it is not understood.
pub(super) type Members = Vec<Option<SharedMember>>;

fn members_of(roster: &Roster) -> Members {
    let shared = |member: &Member| Some((service_of(&member.service)?, identity_of(member)?));
    let members = roster.members.iter().take(MAX_MEMBERS as usize);
    members.map(shared).collect()
}

/// The votes of another node on all its members.
fn votes_of(members: &Members, ballot: &Ballot) -> Votes<SharedMember> {
    let all = members.iter().flatten();
    let mut votes: Votes<_> = all.map(|member| (*member, Vote::up())).collect();
    for told in &ballot.votes {
        let member = members.get(told.member as usize).copied().flatten();
        let Some(member) = member else { continue };
        let vote = Vote {
            opinion: match told.opinion {
                1 => Opinion::Up,
                2 => Opinion::Down,
                _ => Opinion::Unjudged,
            },
            is_uncertain: told.is_uncertain,
            why: excerpt(&told.why, LONGEST_WHY),
        };
        votes.insert(member, vote);
    }
    votes
}

impl Keeper {
    /// Passes what another node says of its backends.
    pub(super) fn hear(&mut self, from: &str, report: &Report) {
        let peer = self.peers.entry(from.to_owned()).or_default();
        if let Some(roster) = &report.roster {
            peer.voters = members_of(roster);
        }
        let ballot = report.ballot.as_ref();
        let votes = ballot.map(|ballot| votes_of(&peer.voters, ballot));
        let has_traffic = !report.flows.is_empty() || !report.traffic.is_empty();
        let traffic = has_traffic.then(|| traffic_of(&peer.voters, report));
        self.engine.reports().add(from, votes, traffic);
    }

    /// All that this node says, for a node that asks; nothing before the first votes.
    pub(super) fn report(&mut self) -> Option<Update> {
        if self.own_votes.has_changed().unwrap_or(false) {
            self.vote();
        }
        let report = (*self.voted != OwnVotes::default()).then(|| report_told(&self.voted, true));
        report.map(|report| Update {
            report: Some(report),
            ..Update::default()
        })
    }

    /// Tells what this node says of its backends, at once.
    pub(super) fn vote(&mut self) {
        let own = Arc::clone(&self.own_votes.borrow_and_update());
        let all = own.members != self.voted.members;
        let report = report_told(&own, all);
        self.voted = own;
        self.tell_report(report);
    }

    fn tell_report(&self, report: Report) {
        let update = Update {
            report: Some(report),
            ..Update::default()
        };
        // Nobody listens.
        let _ = self.changes.send(Arc::new(update));
    }

    /// Tells what this node forwarded in the last second; so the votes told before still count.
    pub(super) fn tell_traffic(&mut self) {
        let own = Arc::clone(&self.own_traffic.borrow_and_update());
        let report = traffic_told(&own, &self.voted.members);
        self.tell_report(report);
    }
}

/// What this node forwarded: members that were not told are left out.
fn traffic_told(own: &OwnTraffic, members: &[SharedMember]) -> Report {
    let positions: HashMap<&SharedMember, u32> = members.iter().zip(0..).collect();
    let flows = own.flows.iter().filter_map(|(flow, member)| {
        let member = *positions.get(member)?;
        let flow = flow.clone();
        Some(ToldFlow { flow, member })
    });
    let traffic = own.vips.iter().map(|vip| {
        let mut told = ToldTraffic {
            service: service_told(vip.service),
            ring: vip.ring,
            rank: vip.rank,
            ..ToldTraffic::default()
        };
        for (identity, counts) in &vip.members {
            if let Some(position) = positions.get(&(vip.service, *identity)) {
                told.members.push(*position);
                told.counts.extend(counts);
            }
        }
        told
    });
    Report {
        flows: flows.collect(),
        traffic: traffic.collect(),
        ..Report::default()
    }
}

/// What another node forwarded; what is not understood is left out.
fn traffic_of(members: &Members, report: &Report) -> OwnTraffic {
    let member = |position: u32| members.get(position as usize).copied().flatten();
    let flows = report
        .flows
        .iter()
        .filter(|it| it.flow.len() <= LONGEST_FLOW);
    let flows = flows.filter_map(|it| Some((it.flow.clone(), member(it.member)?)));
    let vips = report.traffic.iter().take(MAX_VIPS as usize);
    let vips = vips.filter_map(|told| {
        let counts = told.counts.as_chunks().0;
        let members = told.members.iter().zip(counts);
        let members = members
            .filter_map(|(position, counts): (_, &Counts)| Some((member(*position)?.1, *counts)));
        Some(VipTraffic {
            service: service_of(&told.service)?,
            ring: told.ring,
            rank: told.rank,
            members: members.collect(),
        })
    });
    OwnTraffic {
        flows: flows.take(MOST_FLOWS).collect(),
        vips: vips.collect(),
    }
}

#[cfg(test)]
mod tests {
    use lb_model::{config::Protocol, ring::Identity};

    use super::*;
    use crate::reconciler::ServiceId;

    fn member(number: u8) -> SharedMember {
        let service = ServiceId {
            address: [203, 0, 113, number].into(),
            port: 443,
            protocol: Protocol::Udp,
        };
        let address = std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into());
        let identity = Identity {
            address: address.into(),
            port: 8443,
        };
        (service, identity)
    }

    #[test]
    fn votes_are_read_as_they_were_told() {
        let down = Vote {
            opinion: Opinion::Down,
            is_uncertain: true,
            why: "no reply".to_owned(),
        };
        let own = OwnVotes {
            members: vec![member(1), member(2), member(3)],
            votes: [(1, down.clone()), (2, Vote::default())].into(),
        };
        let told = report_told(&own, true);
        let roster = members_of(&told.roster.unwrap());
        let mut ballot = told.ballot.unwrap();
        // Of a member that it does not have.
        ballot.votes.push(ToldVote {
            member: 3,
            ..ToldVote::default()
        });
        let votes = votes_of(&roster, &ballot);
        let wanted = [
            (member(1), Vote::up()),
            (member(2), down),
            (member(3), Vote::default()),
        ];
        assert_eq!(votes, wanted.into());
        assert_eq!(report_told(&own, false).roster, None);
    }

    #[test]
    fn traffic_is_read_as_it_was_told() {
        let vip = |number, counts: Counts| VipTraffic {
            service: member(number).0,
            ring: 7,
            rank: (number == 1).then_some(0),
            members: vec![(member(number).1, counts)],
        };
        let own = OwnTraffic {
            flows: vec![("tcp".to_owned(), member(1)), ("udp".to_owned(), member(9))],
            vips: vec![vip(1, [1, 2]), vip(2, [5, u64::MAX])],
        };
        let members = [member(1), member(2)];
        let told = traffic_told(&own, &members);
        let roster: Members = members.into_iter().map(Some).collect();
        let read = traffic_of(&roster, &told);
        assert_eq!(read.flows, own.flows[..1], "of a member that was not told");
        assert_eq!(read.vips, own.vips);
        // Torn counts, and positions of no member.
        let mut torn = told;
        torn.traffic[0].counts.pop();
        torn.traffic[1].members[0] = 2;
        torn.flows[0].member = u32::MAX;
        let read = traffic_of(&roster, &torn);
        assert!(read.flows.is_empty());
        assert!(read.vips.iter().all(|vip| vip.members.is_empty()));
    }
}
