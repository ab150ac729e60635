//! Sessions of `nat`: counted, and cleared of those that ended.
//!
//! A session is two entries, one for each direction, and ends as a whole: it has been silent since
//! the later of the two was seen, and is closed when both have seen a FIN or either an RST.

use std::collections::{self, BTreeSet};

use aya::maps::{HashMap, MapData, MapError};
use lb_common::{
    nat::{NatFlow, NatKey, REPLY, state},
    proto,
    ring::MemberIndex,
};

use super::{
    catalog::name,
    error::{DataplaneError, PRIVILEGE_HINT, Result},
    is_missing,
    mapping::Plain,
};

type Table = HashMap<MapData, Plain<NatKey>, Plain<NatFlow>>;

/// The tables of sessions.
#[derive(Debug)]
pub struct Sessions {
    pub(super) flows: Table,
    pub(super) embryonic: Table,
}

/// How long a session may be silent, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// TCP, open.
    pub tcp_s: u32,
    /// TCP, closed by both sides or reset: the last segments may be on their way.
    pub closed_s: u32,
    /// Everything else.
    pub udp_s: u32,
    /// Not answered and followed yet.
    pub embryonic_s: u32,
}

impl Default for SessionLimits {
    /// What RFC 5382 and RFC 4787 ask of a NAT: two hours and four minutes for open TCP, five
    /// minutes for UDP.
    fn default() -> Self {
        Self {
            tcp_s: 7440,
            closed_s: 60,
            udp_s: 300,
            embryonic_s: 60,
        }
    }
}

/// Entries in both tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionCounts {
    /// Entries of sessions, two for each.
    pub flows: usize,
    /// Entries of embryonic sessions.
    pub embryonic: usize,
}

/// What sessions name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionNames {
    /// Members.
    pub members: BTreeSet<MemberIndex>,
    /// Source addresses, by index.
    pub sources: BTreeSet<u16>,
}

impl Sessions {
    /// How many entries there are.
    pub fn count(&self) -> Result<SessionCounts> {
        Ok(SessionCounts {
            flows: entries(&self.flows, name::NAT_FLOWS)?.len(),
            embryonic: entries(&self.embryonic, name::NAT_NEW)?.len(),
        })
    }

    /// Removes sessions that ended or were silent for too long; returns how many entries went.
    pub fn expire(&mut self, now_s: u64, limits: SessionLimits) -> Result<usize> {
        let now_s = now_s as u32;
        let young_s = limits.embryonic_s;
        let young = SessionLimits {
            tcp_s: young_s,
            closed_s: young_s,
            udp_s: young_s,
            ..limits
        };
        Ok(expire(&mut self.flows, name::NAT_FLOWS, now_s, limits)?
            + expire(&mut self.embryonic, name::NAT_NEW, now_s, young)?)
    }

    /// The members and the source addresses that sessions name: their indexes are taken.
    pub fn names(&self) -> Result<SessionNames> {
        let mut names = SessionNames::default();
        for (table, name) in [
            (&self.flows, name::NAT_FLOWS),
            (&self.embryonic, name::NAT_NEW),
        ] {
            for (_, flow) in entries(table, name)? {
                names.members.insert(flow.member);
                names.sources.insert(flow.nat_source);
            }
        }
        Ok(names)
    }

    /// Removes the sessions of a member; returns how many entries went.
    pub fn remove_member(&mut self, member: MemberIndex) -> Result<usize> {
        self.remove_members(&BTreeSet::from([member]))
    }

    /// Removes the sessions of some members; returns how many entries went.
    pub fn remove_members(&mut self, members: &BTreeSet<MemberIndex>) -> Result<usize> {
        let mut removed = 0;
        for (table, name) in [
            (&mut self.flows, name::NAT_FLOWS),
            (&mut self.embryonic, name::NAT_NEW),
        ] {
            for (key, flow) in entries(table, name)? {
                if members.contains(&flow.member) {
                    removed += usize::from(remove(table, name, &key)?);
                }
            }
        }
        Ok(removed)
    }
}

fn map_error(name: &'static str, error: &MapError) -> DataplaneError {
    DataplaneError::map("read or clear", name, error, PRIVILEGE_HINT)
}

fn entries(table: &Table, name: &'static str) -> Result<Vec<(NatKey, NatFlow)>> {
    let mut entries = Vec::new();
    for entry in table.iter() {
        match entry {
            Ok((key, flow)) => entries.push((key.0, flow.0)),
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(map_error(name, &error)),
        }
    }
    Ok(entries)
}

fn remove(table: &mut Table, name: &'static str, key: &NatKey) -> Result<bool> {
    match table.remove(&Plain(*key)) {
        Ok(()) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(map_error(name, &error)),
    }
}

fn expire(
    table: &mut Table,
    name: &'static str,
    now_s: u32,
    limits: SessionLimits,
) -> Result<usize> {
    let entries = entries(table, name)?;
    let by_key: collections::HashMap<[u8; 24], NatFlow> = entries
        .iter()
        .map(|(key, flow)| (bytemuck::cast(*key), *flow))
        .collect();
    let mut removed = 0;
    for (key, flow) in &entries {
        let other = by_key.get(&bytemuck::cast::<_, [u8; 24]>(other_direction(key, flow)));
        if !ended(key, flow, other, now_s, limits) {
            continue;
        }
        // Seen again since the table was read?
        let fresh = table
            .get(&Plain(*key), 0)
            .is_ok_and(|now| now.0.seen_s != flow.seen_s);
        if !fresh {
            removed += usize::from(remove(table, name, key)?);
        }
    }
    Ok(removed)
}

/// Key of the entry for the other direction.
fn other_direction(key: &NatKey, flow: &NatFlow) -> NatKey {
    let scope = if key.scope & REPLY == 0 {
        flow.nat_source | REPLY
    } else {
        flow.vip
    };
    NatKey {
        address: flow.dest,
        source_be: flow.dest_be,
        dest_be: flow.source_be,
        scope,
        ..*key
    }
}

fn ended(
    key: &NatKey,
    flow: &NatFlow,
    other: Option<&NatFlow>,
    now_s: u32,
    limits: SessionLimits,
) -> bool {
    let other_bits = other.map_or(0, |other| other.state);
    let closed =
        (flow.state | other_bits) & state::RST != 0 || flow.state & other_bits & state::FIN != 0;
    let limit_s = match (key.protocol == u16::from(proto::TCP), closed) {
        (true, true) => limits.closed_s,
        (true, false) => limits.tcp_s,
        (false, _) => limits.udp_s,
    };
    // The other direction may have been seen later; a time ahead of ours is fresh.
    let silent_s = |flow: &NatFlow| {
        let silent_s = now_s.wrapping_sub(flow.seen_s);
        if silent_s > u32::MAX / 2 { 0 } else { silent_s }
    };
    let silent_s = other.map_or(silent_s(flow), |other| silent_s(flow).min(silent_s(other)));
    silent_s >= limit_s
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::*;

    const LIMITS: SessionLimits = SessionLimits {
        tcp_s: 1000,
        closed_s: 10,
        udp_s: 100,
        embryonic_s: 5,
    };

    fn session(protocol: u8) -> [(NatKey, NatFlow); 2] {
        let (client, vip, node, backend) = ([1; 2], [2; 2], [3; 2], [4; 2]);
        let flow = NatFlow {
            vip: 6,
            nat_source: 5,
            nat_port_be: 30,
            ..NatFlow::zeroed()
        };
        let protocol = u16::from(protocol);
        let forth = NatKey {
            address: client,
            source_be: 10,
            dest_be: 20,
            scope: 6,
            protocol,
        };
        let back = NatKey {
            address: backend,
            source_be: 40,
            dest_be: 30,
            scope: 5 | REPLY,
            protocol,
        };
        [
            (
                forth,
                NatFlow {
                    source: node,
                    dest: backend,
                    source_be: 30,
                    dest_be: 40,
                    ..flow
                },
            ),
            (
                back,
                NatFlow {
                    source: vip,
                    dest: client,
                    source_be: 20,
                    dest_be: 10,
                    ..flow
                },
            ),
        ]
    }

    #[test]
    fn each_direction_names_the_other() {
        let [(forth, there), (back, here)] = session(proto::TCP);
        assert_eq!(other_direction(&forth, &there), back);
        assert_eq!(other_direction(&back, &here), forth);
    }

    #[test]
    fn a_session_ends_as_a_whole() {
        let [(key, flow), (_, back)] = session(proto::TCP);
        let seen = |flow: NatFlow, seen_s, state| NatFlow {
            seen_s,
            state,
            ..flow
        };
        let check = |flow, back, now_s| ended(&key, &flow, Some(&back), now_s, LIMITS);
        // Open: silent since the later of the two.
        assert!(!check(seen(flow, 0, 0), seen(back, 500, 0), 1400));
        assert!(check(seen(flow, 0, 0), seen(back, 500, 0), 1500));
        // One FIN leaves it half open; two, or a reset, close it.
        assert!(!check(seen(flow, 0, state::FIN), seen(back, 0, 0), 20));
        assert!(check(
            seen(flow, 0, state::FIN),
            seen(back, 0, state::FIN),
            20
        ));
        assert!(!check(
            seen(flow, 0, state::FIN),
            seen(back, 0, state::FIN),
            9
        ));
        assert!(check(seen(flow, 0, 0), seen(back, 0, state::RST), 20));
        // The next second, seen by another CPU first.
        assert!(!check(seen(flow, 21, state::RST), seen(back, 0, 0), 20));
    }

    #[test]
    fn other_protocols_have_their_own_limit() {
        let [(key, flow), _] = session(proto::UDP);
        assert!(!ended(&key, &flow, None, 99, LIMITS));
        assert!(ended(&key, &flow, None, 100, LIMITS));
    }
}
