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
use bytemuck::Pod;
use lb_common::{
    nat::{
        NatFlow, NatKey, NatRecord, NatReply, REPLY, ROOM, WAYS, bucket_of, silent_s, state, way,
    },
    ring::MemberIndex,
};

use super::{
    catalog::name,
    error::{DataplaneError, PRIVILEGE_HINT, Result},
    is_missing,
    mapping::{Mapped, Plain},
};

type Table = HashMap<MapData, Plain<NatKey>, Plain<NatFlow>>;

/// The word of a cell that names its session, and says whether it is taken, by its offset in bytes.
const NAME: usize = NatRecord::NAME * size_of::<u64>();
const _: () = assert!(offset_of!(NatRecord, client_be) == NAME);

/// The word of a cell with the time that it was last seen, or freed, in bits 16–31.
const SEEN: usize = offset_of!(NatRecord, seen_s) - 2;
const _: () = assert!(SEEN.is_multiple_of(size_of::<u64>()) && cfg!(target_endian = "little"));

/// The tables of sessions.
#[derive(Debug)]
pub struct Sessions {
    /// Established ones, as clients' packets find them: a table of buckets, mapped into memory. The data
    /// path reads and writes it at any time.
    pub(super) requests: Mapped<NatRecord>,
    /// The same, as backends' packets find them.
    pub(super) replies: Mapped<NatReply>,
    pub(super) embryonic: Table,
}

/// What the cells of both tables have: a record first, whose words are at the same places.
trait Cell: Pod {
    fn session(&self) -> &NatRecord;
}

impl Cell for NatRecord {
    fn session(&self) -> &NatRecord {
        self
    }
}

impl Cell for NatReply {
    fn session(&self) -> &NatRecord {
        &self.session
    }
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
            flows: taken(&self.requests).count() + taken(&self.replies).count(),
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
        let places = self.places(key);
        if key.scope & REPLY == 0 {
            put(
                &self.requests,
                name::NAT_REQUESTS,
                places,
                &NatRecord::new(key, flow),
            )
        } else {
            put(
                &self.replies,
                name::NAT_REPLIES,
                places,
                &NatReply::new(key, flow),
            )
        }
    }

    /// The cells where a key may be, in the order in which the data path looks.
    pub(super) fn places(&self, key: &NatKey) -> impl Iterator<Item = u32> + use<> {
        let (hash, ways) = (key.hash(), WAYS as u32);
        let buckets = self.requests.len() / ways;
        let halves = [(hash >> 32) as u32, hash as u32];
        halves.into_iter().flat_map(move |half| {
            let first = bucket_of(half, buckets) * ways;
            (0..WAYS).map(move |step| first + way(hash, step) as u32)
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
        let requests: Vec<_> = taken(&self.requests).collect();
        let replies: Vec<_> = taken(&self.replies).collect();
        let all = (requests.iter().map(|(_, cell)| cell))
            .chain(replies.iter().map(|(_, cell)| &cell.session));
        let states = States::of(all, now_s);
        let mut removed = 0;
        for (place, cell) in &requests {
            let ended = states.has_ended(cell, limits);
            removed += usize::from(ended && free(&self.requests, *place, cell, now_s)?);
        }
        for (place, cell) in &replies {
            let ended = states.has_ended(&cell.session, limits);
            removed += usize::from(ended && free(&self.replies, *place, cell, now_s)?);
        }
        Ok(removed)
    }

    fn expire_embryonic(&mut self, now_s: u32, limits: SessionLimits) -> Result<usize> {
        let entries = entries(&self.embryonic)?;
        let records: Vec<_> = (entries.iter())
            .map(|(key, flow)| NatRecord::new(key, flow))
            .collect();
        let states = States::of(&records, now_s);
        let mut removed = 0;
        for ((key, flow), record) in entries.iter().zip(&records) {
            if !states.has_ended(record, limits) {
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
        let requests = taken(&self.requests).map(|(_, cell)| cell);
        let replies = taken(&self.replies).map(|(_, cell)| cell.session);
        for session in requests.chain(replies) {
            names.members.insert(session.member());
            names.sources.insert(session.nat_source());
        }
        for (_, flow) in entries(&self.embryonic)? {
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
        let mut removed =
            remove_from(&self.requests, members)? + remove_from(&self.replies, members)?;
        for (key, flow) in entries(&self.embryonic)? {
            if members.contains(&flow.member) {
                removed += usize::from(remove(&mut self.embryonic, &key)?);
            }
        }
        Ok(removed)
    }
}

/// Writes a cell where its session is, else where the data path would write it.
fn put<T: Cell>(
    table: &Mapped<T>,
    name: &'static str,
    places: impl Iterator<Item = u32>,
    cell: &T,
) -> Result<()> {
    let mut free = [Vec::new(), Vec::new()];
    for (step, place) in places.enumerate() {
        let there = *table.read(place)?.session();
        if is_same(&there, cell.session()) {
            return table.write(place, cell);
        }
        if there.name() == 0 {
            free[step / WAYS].push(place);
        }
    }
    let [first, second] = free;
    let in_first = first.len() > ROOM as usize || first.len() >= second.len();
    let chosen = if in_first { first } else { second };
    let place = chosen.first().ok_or_else(|| DataplaneError::Full {
        table: name,
        what: "another session".into(),
        limit: format!("{} entries", table.len()),
        hint: "raise node.nat_sessions",
    })?;
    table.write(*place, cell)
}

fn remove_from<T: Cell>(table: &Mapped<T>, members: &BTreeSet<MemberIndex>) -> Result<usize> {
    let cells: Vec<_> = taken(table).collect();
    let mut removed = 0;
    for (place, cell) in &cells {
        let session = cell.session();
        if members.contains(&session.member()) {
            // Stamped with what it was last seen at: nothing is sent to a member that is gone, so nobody
            // waits for its cells.
            removed += usize::from(free(table, *place, cell, session.seen_s.into())?);
        }
    }
    Ok(removed)
}

/// The cells that are taken, by their place.
fn taken<T: Cell>(table: &Mapped<T>) -> impl Iterator<Item = (u32, T)> + '_ {
    let words = size_of::<T>() / size_of::<u64>();
    let cells = table.words().chunks_exact(words).zip(0..);
    cells.filter_map(|(words, place)| {
        // One load for each of the many that are free.
        let name = words.get(NatRecord::NAME)?;
        if name.load(Ordering::Acquire) == 0 {
            return None;
        }
        let cell = table.read(place).ok()?;
        // Freed while it was read?
        (cell.session().name() != 0).then_some((place, cell))
    })
}

/// Frees a cell, unless a packet was seen or another entry was written since it was read.
fn free<T: Cell>(table: &Mapped<T>, place: u32, read: &T, now_s: u32) -> Result<bool> {
    let (now, read) = (table.read(place)?, read.session());
    if !is_same(now.session(), read) || now.session().seen_s != read.seen_s {
        return Ok(false);
    }
    // The data path gives it away only some time after this.
    let word = table.load_word(place, SEEN)? & !(u64::from(u16::MAX) << 16);
    table.store_word(place, SEEN, word | u64::from(now_s as u16) << 16)?;
    table.exchange_word(place, NAME, read.name(), 0)
}

/// Whether two records are of one session.
fn is_same(a: &NatRecord, b: &NatRecord) -> bool {
    name_of(a) == name_of(b)
}

/// What both entries of a session have, and no other's.
fn name_of(session: &NatRecord) -> (lb_common::Address, u64, MemberIndex, bool) {
    let is_udp = session.state() & state::UDP != 0;
    (session.client, session.name(), session.member(), is_udp)
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

/// What the entries of each session say together.
struct States(collections::HashMap<(lb_common::Address, u64, MemberIndex, bool), State>);

/// What the entries of a session say together.
#[derive(Clone, Copy)]
struct State {
    /// Bits that any has, and bits that all have.
    any: u32,
    all: u32,
    entries: u32,
    /// Since a packet was seen in either direction, seconds.
    silent_s: u16,
}

impl States {
    fn of<'a>(sessions: impl IntoIterator<Item = &'a NatRecord>, now_s: u32) -> Self {
        let mut states = collections::HashMap::new();
        for session in sessions {
            let silent_s = silent_s(session.seen_s, now_s);
            let state = states.entry(name_of(session)).or_insert(State {
                any: 0,
                all: u32::MAX,
                entries: 0,
                silent_s,
            });
            state.any |= session.state();
            state.all &= session.state();
            state.entries += 1;
            state.silent_s = state.silent_s.min(silent_s);
        }
        Self(states)
    }

    fn has_ended(&self, session: &NatRecord, limits: SessionLimits) -> bool {
        let Some(state) = self.0.get(&name_of(session)) else {
            return false;
        };
        let both_closed = state.entries > 1 && state.all & state::FIN != 0;
        let closed = both_closed || state.any & state::RST != 0;
        let is_udp = session.state() & state::UDP != 0;
        let limit_s = match (is_udp, closed) {
            (false, true) => limits.closed_s,
            (false, false) => limits.tcp_s,
            (true, _) => limits.udp_s,
        };
        u32::from(state.silent_s) >= limit_s
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use lb_common::proto;

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
            member: 7,
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

    /// Whether both entries of a session agree that it ended at `now_s`, if they were seen then and have
    /// these bits.
    fn has_ended(protocol: u8, entries: &[(u32, u32)], now_s: u32) -> bool {
        let records: Vec<_> = (session(protocol).iter().zip(entries))
            .map(|((key, flow), &(seen_s, state))| {
                let flow = NatFlow {
                    seen_s,
                    state,
                    ..*flow
                };
                NatRecord::new(key, &flow)
            })
            .collect();
        let states = States::of(&records, now_s);
        let mut ended = records.iter().map(|one| states.has_ended(one, LIMITS));
        let first = ended.next().unwrap();
        assert!(ended.all(|ended| ended == first));
        first
    }

    #[test]
    fn both_entries_have_the_name_of_their_session() {
        let [request, reply] = session(proto::TCP).map(|(key, flow)| NatRecord::new(&key, &flow));
        assert!(is_same(&request, &reply));
        let [other, _] = session(proto::UDP).map(|(key, flow)| NatRecord::new(&key, &flow));
        assert!(!is_same(&request, &other));
    }

    #[test]
    fn a_session_ends_as_a_whole() {
        let check = |a, b, now_s| has_ended(proto::TCP, &[a, b], now_s);
        // Open: silent since the later of the two.
        assert!(!check((0, 0), (500, 0), 1400));
        assert!(check((0, 0), (500, 0), 1500));
        // One FIN leaves it half open; two, or a reset, close it.
        assert!(!check((0, state::FIN), (0, 0), 20));
        assert!(check((0, state::FIN), (0, state::FIN), 20));
        assert!(!check((0, state::FIN), (0, state::FIN), 9));
        assert!(check((0, 0), (0, state::RST), 20));
        // The next second, seen by another CPU first.
        assert!(!check((21, state::RST), (0, 0), 20));
        // An entry that is left alone.
        assert!(!has_ended(proto::TCP, &[(0, state::FIN)], 20));
    }

    #[test]
    fn other_protocols_have_their_own_limit() {
        assert!(!has_ended(proto::UDP, &[(0, 0)], 99));
        assert!(has_ended(proto::UDP, &[(0, 0)], 100));
    }

    #[test]
    fn the_clock_may_wrap_and_other_bits_stay() {
        let (at, now) = (65_530, 65_536 + 20);
        assert!(!has_ended(
            proto::TCP,
            &[(at, state::RST), (at + 20, 0)],
            now
        ));
        assert!(has_ended(
            proto::TCP,
            &[(at, state::RST), (at + 10, 0)],
            now
        ));
    }
}
