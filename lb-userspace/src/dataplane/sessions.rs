//! Sessions of `nat`: counted, and cleared of those that ended.
//!
//! A session is two entries, one for each direction, and ends as a whole: it has been silent since
//! the later of the two was seen, and is closed when both have seen a FIN or either an RST.

use std::{
    collections::{self, BTreeSet},
    mem::offset_of,
    sync::atomic::Ordering,
};

use aya::maps::{HashMap, MapData, MapError};
use lb_common::{
    nat::{NatCell, NatFlow, NatKey, REPLY, ROOM, WAYS, bucket_of, silent_s, state},
    proto,
    ring::MemberIndex,
};

use super::{
    catalog::name,
    error::{DataplaneError, PRIVILEGE_HINT, Result},
    is_missing,
    mapping::{Mapped, Plain},
};

type Table = HashMap<MapData, Plain<NatKey>, Plain<NatFlow>>;

/// The word of a cell that says whether it is taken, by its offset in bytes.
const LAST_WORD: usize = offset_of!(NatCell, key.source_be);

/// The word of a cell with the time that it was last seen, or freed: the upper half.
const SEEN: usize = offset_of!(NatCell, flow.seen_s) - 4;
const _: () = assert!(LAST_WORD.is_multiple_of(8) && SEEN.is_multiple_of(8));

/// The tables of sessions.
#[derive(Debug)]
pub struct Sessions {
    /// Established ones: a table of buckets, mapped into memory. The data path reads and writes it at any
    /// time.
    pub(super) flows: Mapped<NatCell>,
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
            flows: self.taken().count(),
            embryonic: entries(&self.embryonic)?.len(),
        })
    }

    /// Adds or replaces an entry of a session. A session needs two, one for each direction. Only while no
    /// packets flow: the data path gives cells away as well.
    ///
    /// # Errors
    ///
    /// When both buckets of the key are full.
    pub fn insert(&mut self, key: &NatKey, flow: &NatFlow) -> Result<()> {
        let place = self.place_for(key)?.ok_or_else(|| DataplaneError::Full {
            table: name::NAT_FLOWS,
            what: "another session".into(),
            limit: format!("{} entries", self.flows.len()),
            hint: "raise node.nat_sessions",
        })?;
        let cell = NatCell {
            key: *key,
            flow: *flow,
            _pad: [0; 3],
        };
        self.flows.write(place, &cell)
    }

    /// Where an entry goes: where it is, else where the data path would write it.
    fn place_for(&self, key: &NatKey) -> Result<Option<u32>> {
        let mut free = [Vec::new(), Vec::new()];
        for (step, place) in self.places(key).enumerate() {
            let cell = self.flows.read(place)?;
            if cell.key == *key {
                return Ok(Some(place));
            }
            if cell.key.last_word() == 0 {
                free[step / WAYS].push(place);
            }
        }
        let [first, second] = free;
        let in_first = first.len() > ROOM as usize || first.len() >= second.len();
        let chosen = if in_first { first } else { second };
        Ok(chosen.first().copied())
    }

    /// The cells where a key may be, in the order in which the data path looks.
    pub(super) fn places(&self, key: &NatKey) -> impl Iterator<Item = u32> + use<> {
        let (hash, ways) = (key.hash(), WAYS as u32);
        let buckets = self.flows.len() / ways;
        let halves = [(hash >> 32) as u32, hash as u32];
        halves.into_iter().flat_map(move |half| {
            let first = bucket_of(half, buckets) * ways;
            (0..ways).map(move |step| first + (hash as u32).wrapping_add(step) % ways)
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
        Ok(self.expire_established(now_s, limits)? + self.expire_embryonic(now_s, young)?)
    }

    fn expire_established(&self, now_s: u32, limits: SessionLimits) -> Result<usize> {
        let cells: Vec<_> = self.taken().collect();
        let entries: Vec<_> = (cells.iter())
            .map(|(_, cell)| (cell.key, cell.flow))
            .collect();
        let mut removed = 0;
        for ((place, cell), ended) in cells.iter().zip(ended(&entries, now_s, limits)) {
            removed += usize::from(ended && self.free(*place, cell, now_s)?);
        }
        Ok(removed)
    }

    fn expire_embryonic(&mut self, now_s: u32, limits: SessionLimits) -> Result<usize> {
        let entries = entries(&self.embryonic)?;
        let mut removed = 0;
        for ((key, flow), ended) in entries.iter().zip(ended(&entries, now_s, limits)) {
            if !ended {
                continue;
            }
            // Seen again since the table was read?
            let now = self.embryonic.get(&Plain(*key), 0);
            let fresh = now.is_ok_and(|now| now.0.seen_s != flow.seen_s);
            if !fresh {
                removed += usize::from(remove(&mut self.embryonic, key)?);
            }
        }
        Ok(removed)
    }

    /// The members and the source addresses that sessions name: their indexes are taken.
    pub fn names(&self) -> Result<SessionNames> {
        let mut names = SessionNames::default();
        let embryonic = entries(&self.embryonic)?;
        let established = self.taken().map(|(_, cell)| cell.flow);
        for flow in established.chain(embryonic.into_iter().map(|(_, flow)| flow)) {
            names.members.insert(flow.member);
            names.sources.insert(flow.nat_source);
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
        let cells: Vec<_> = self.taken().collect();
        for (place, cell) in &cells {
            if members.contains(&cell.flow.member) {
                // Stamped with what it was last seen at: nothing is sent to a member that is gone, so
                // nobody waits for its cells.
                removed += usize::from(self.free(*place, cell, cell.flow.seen_s)?);
            }
        }
        for (key, flow) in entries(&self.embryonic)? {
            if members.contains(&flow.member) {
                removed += usize::from(remove(&mut self.embryonic, &key)?);
            }
        }
        Ok(removed)
    }

    /// The cells that are taken, by their place.
    fn taken(&self) -> impl Iterator<Item = (u32, NatCell)> + '_ {
        let words = size_of::<NatCell>() / size_of::<u64>();
        let cells = self.flows.words().chunks_exact(words).zip(0..);
        cells.filter_map(|(words, place)| {
            // One load for each of the many that are free.
            let last = words.get(LAST_WORD / size_of::<u64>())?;
            if last.load(Ordering::Acquire) == 0 {
                return None;
            }
            let cell = self.flows.read(place).ok()?;
            // Freed while it was read?
            (cell.key.last_word() != 0).then_some((place, cell))
        })
    }

    /// Frees a cell, unless a packet was seen or another entry was written since it was read.
    fn free(&self, place: u32, read: &NatCell, now_s: u32) -> Result<bool> {
        let now = self.flows.read(place)?;
        if now.key != read.key || now.flow.seen_s != read.flow.seen_s {
            return Ok(false);
        }
        // The data path gives it away only some time after this.
        let word = self.flows.load_word(place, SEEN)? & u64::from(u32::MAX);
        self.flows
            .store_word(place, SEEN, word | u64::from(now_s) << 32)?;
        self.flows
            .exchange_word(place, LAST_WORD, read.key.last_word(), 0)
    }
}

fn map_error(error: &MapError) -> DataplaneError {
    DataplaneError::map("read or clear", name::NAT_NEW, error, PRIVILEGE_HINT)
}

fn entries(table: &Table) -> Result<Vec<(NatKey, NatFlow)>> {
    let mut entries = Vec::new();
    for entry in table.iter() {
        match entry {
            Ok((key, flow)) => entries.push((key.0, flow.0)),
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(map_error(&error)),
        }
    }
    Ok(entries)
}

fn remove(table: &mut Table, key: &NatKey) -> Result<bool> {
    match table.remove(&Plain(*key)) {
        Ok(()) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(map_error(&error)),
    }
}

/// For each entry of a table, whether its session ended.
fn ended(entries: &[(NatKey, NatFlow)], now_s: u32, limits: SessionLimits) -> Vec<bool> {
    let by_key: collections::HashMap<[u8; 24], NatFlow> = entries
        .iter()
        .map(|(key, flow)| (bytemuck::cast(*key), *flow))
        .collect();
    let ended = entries.iter().map(|(key, flow)| {
        let other = by_key.get(&bytemuck::cast::<_, [u8; 24]>(other_direction(key, flow)));
        has_ended(key, flow, other, now_s, limits)
    });
    ended.collect()
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

fn has_ended(
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
    // The other direction may have been seen later.
    let silent_s = |flow: &NatFlow| silent_s(flow.seen_s, now_s);
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
        let check = |flow, back, now_s| has_ended(&key, &flow, Some(&back), now_s, LIMITS);
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
        assert!(!has_ended(&key, &flow, None, 99, LIMITS));
        assert!(has_ended(&key, &flow, None, 100, LIMITS));
    }
}
