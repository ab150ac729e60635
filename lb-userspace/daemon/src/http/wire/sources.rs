//! Sources of members.

use lb_api::{MemberIntent, NewMember, SourceMember, SourceStatus};
use lb_model::{
    config::BackendState,
    membership::{Families, Known, Member, name_of},
};

use crate::node::SourceState;

/// Weight of a member that has none, as of a configured backend.
const WEIGHT: u32 = 100;

impl From<&SourceState> for SourceStatus {
    fn from(state: &SourceState) -> Self {
        Self {
            source: state.source.to_string(),
            families: match state.families {
                Families::V4 => "ipv4",
                Families::V6 => "ipv6",
                Families::Both => "both",
            }
            .to_owned(),
            vips: state.vips.clone(),
            members: state.members.iter().map(member).collect(),
            answered_at: state.answered_at,
            failures: state.failures,
            error: state.error.clone(),
            failing: state.is_failing,
            held: state.held.clone(),
        }
    }
}

fn member(known: &Known) -> SourceMember {
    let member = &known.member;
    SourceMember {
        name: member.name.clone(),
        address: member.address,
        port: member.port,
        weight: member.weight,
        state: match member.state {
            BackendState::Up => MemberIntent::Up,
            BackendState::Drain => MemberIntent::Drain,
            BackendState::Disabled => MemberIntent::Disabled,
        },
        leaving: known.is_leaving(),
    }
}

/// A member that somebody sets.
pub(in crate::http) fn new_member(new: NewMember) -> Member {
    let NewMember {
        name,
        address,
        port,
        weight,
        state,
    } = new;
    Member {
        name: name.unwrap_or_else(|| name_of(address, port)),
        address,
        port,
        weight: weight.unwrap_or(WEIGHT),
        state: match state {
            MemberIntent::Up => BackendState::Up,
            MemberIntent::Drain => BackendState::Drain,
            MemberIntent::Disabled => BackendState::Disabled,
        },
    }
}
