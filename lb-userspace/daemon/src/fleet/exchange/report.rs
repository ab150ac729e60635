//! What nodes say of their backends, as it is told.

use std::{sync::Arc, time::Instant};

use lb_fleet::{
    exchange::{Ballot, Member, Report, ToldVote, Update, address_bytes},
    votes::{Opinion, Vote, Votes},
};

use super::{CALM_PERIOD, Keeper};
use crate::{
    engine::{OwnVotes, SharedMember},
    fleet::told::{identity_of, service_of, service_told},
};

/// What this node says. `all`: also which members it has.
pub(super) fn report_told(own: &OwnVotes, all: bool) -> Report {
    let members = (0..)
        .zip(&own.members)
        .take(if all { usize::MAX } else { 0 });
    let members = members.map(|(index, (service, identity))| Member {
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
        members: members.collect(),
        ballot: Some(Ballot {
            votes: votes.collect(),
        }),
    }
}

/// The members of another node, by position; none where it is not understood.
pub(super) type Roster = Vec<Option<SharedMember>>;

pub(super) fn roster_of(members: &[Member]) -> Roster {
    let shared = |member: &Member| Some((service_of(&member.service)?, identity_of(member)?));
    members.iter().map(shared).collect()
}

/// The votes of another node on all its members.
pub(super) fn votes_of(roster: &Roster, ballot: &Ballot) -> Votes<SharedMember> {
    let members = roster.iter().flatten();
    let mut votes: Votes<_> = members.map(|member| (*member, Vote::up())).collect();
    for told in &ballot.votes {
        let member = roster.get(told.member as usize).copied().flatten();
        let Some(member) = member else { continue };
        let vote = Vote {
            opinion: match told.opinion {
                1 => Opinion::Up,
                2 => Opinion::Down,
                _ => Opinion::Unjudged,
            },
            is_uncertain: told.is_uncertain,
            why: told.why.clone(),
        };
        votes.insert(member, vote);
    }
    votes
}

impl Keeper {
    /// Passes what another node says of its backends.
    pub(super) async fn hear(&mut self, from: &str, report: &Report) {
        let peer = self.peers.entry(from.to_owned()).or_default();
        if !report.members.is_empty() {
            peer.roster = roster_of(&report.members);
        }
        let ballot = report.ballot.as_ref();
        let votes = ballot.map(|ballot| votes_of(&peer.roster, ballot));
        self.engine.hear_votes(from.to_owned(), votes).await;
    }

    /// Tells what this node says of its backends, at once.
    pub(super) fn vote(&mut self) {
        let own = Arc::clone(&self.own_votes.borrow_and_update());
        let all = own.members != self.voted.0.members;
        let report = report_told(&own, all);
        self.voted = (own, Instant::now());
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

    /// Says now and then that the votes told last still count.
    pub(super) fn stay_heard(&mut self) {
        if self.voted.1.elapsed() >= CALM_PERIOD {
            self.voted.1 = Instant::now();
            self.tell_report(Report::default());
        }
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
        let roster = roster_of(&told.members);
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
        assert_eq!(report_told(&own, false).members, []);
    }
}
