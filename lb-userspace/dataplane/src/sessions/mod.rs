//! The session tables of `nat`: counting, expiring and removing sessions.
//!
//! An established session has two entries, one per direction, and ends as a whole: it is idle since
//! the later of the two was seen. The entry for the backend's packets has the state of the connection.

mod ended;
mod lookup;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::offset_of,
    sync::atomic::Ordering,
};

use bytemuck::Pod;
use lb_common::{
    nat::{
        FREE_CELLS_LOW, NatFlow, NatKey, NatRecord, NatReply, REPLY, WAYS, bucket_of, idle_s,
        state, way,
    },
    ring::MemberIndex,
};

pub use ended::SessionLimits;
use ended::{States, is_same};
pub use lookup::SessionEntry;

use super::{
    catalog::name,
    error::{DataplaneError, Result},
    mapping::Mapped,
};

/// Byte offset of the word of a cell that names its session; 0 if the cell is free.
const NAME: usize = NatRecord::NAME * size_of::<u64>();
const _: () = assert!(offset_of!(NatRecord, client_be) == NAME);

/// Byte offset of the word of a cell whose bits 16–31 are the time when it was last seen, or freed.
const SEEN: usize = offset_of!(NatRecord, seen_s) - 2;
const _: () = assert!(SEEN.is_multiple_of(size_of::<u64>()) && cfg!(target_endian = "little"));

#[derive(Debug)]
pub struct Sessions {
    /// Entries of established sessions for clients' packets, in buckets of cells. The data path reads
    /// and writes them at any time.
    pub(super) requests: Mapped<NatRecord>,
    /// The same for backends' packets.
    pub(super) replies: Mapped<NatReply>,
    /// Embryonic sessions: one entry each, for backends' packets.
    pub(super) embryonic: Mapped<NatReply>,
    /// Index of the embryonic sessions by flow.
    pub(super) index: Mapped<u64>,
}

/// A cell of either table: both begin with a record.
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

/// Numbers of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionCounts {
    /// Entries of established sessions, two per session.
    pub flows: usize,
    pub embryonic: usize,
}

/// Established sessions: the entries for backends' packets, which occupy the ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Established {
    pub total: u32,
    pub vips: BTreeMap<u16, u32>,
    pub members: BTreeMap<MemberIndex, u32>,
    pub ports: BTreeMap<PortPool, PortCounts>,
}

/// Each port can have one session of a pool. Pools of members with the same backend address and
/// protocol are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortPool {
    /// Index of the member's VIP.
    pub vip: u16,
    pub member: MemberIndex,
    /// Index of the NAT source.
    pub source: u16,
    /// Port of the backend.
    pub backend_port: u16,
}

/// Ports with an established session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounts {
    /// The connection is not over: no other session can use the port.
    pub in_use: u32,
    /// The connection is over: a new session can use the port if the backend accepts its SYN.
    pub over: u32,
}

impl Established {
    fn of(sessions: impl Iterator<Item = NatRecord>) -> Self {
        let mut all = Self::default();
        for session in sessions {
            let pool = PortPool {
                vip: session.vip(),
                member: session.member(),
                source: session.nat_source(),
                backend_port: u16::from_be(session.path_or_port),
            };
            let ports = all.ports.entry(pool).or_default();
            if state::is_over(session.state()) {
                ports.over += 1;
            } else {
                ports.in_use += 1;
            }
        }
        // Summed here: one lookup per session is enough.
        for (pool, PortCounts { in_use, over }) in &all.ports {
            all.total += in_use + over;
            *all.vips.entry(pool.vip).or_default() += in_use + over;
            *all.members.entry(pool.member).or_default() += in_use + over;
        }
        all
    }
}

/// Result of a pass over the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Number of removed entries.
    pub entries: usize,
    /// The sessions that remain.
    pub established: Established,
}

/// Indexes that sessions refer to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionNames {
    pub members: BTreeSet<MemberIndex>,
    pub sources: BTreeSet<u16>,
}

impl Sessions {
    /// Counts the entries.
    pub fn count(&self) -> Result<SessionCounts> {
        Ok(SessionCounts {
            flows: taken(&self.requests).count() + taken(&self.replies).count(),
            embryonic: taken(&self.embryonic).count(),
        })
    }

    /// Counts the established sessions, as [`Self::expire`] does in its pass.
    #[must_use]
    pub fn established(&self) -> Established {
        Established::of(taken(&self.replies).map(|(_, cell)| cell.session))
    }

    /// Adds or replaces one of a session's two entries. Only while no packets flow: the data path
    /// allocates cells too.
    ///
    /// # Errors
    ///
    /// Both buckets of the key are full.
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

    /// The cells that may hold a key, in the data path's search order.
    pub(super) fn places(&self, key: &NatKey) -> impl Iterator<Item = u32> + use<> {
        let (hash, ways) = (key.hash(), WAYS as u32);
        let buckets = self.requests.len() / ways;
        let halves = [(hash >> 32) as u32, hash as u32];
        halves.into_iter().flat_map(move |half| {
            let first = bucket_of(half, buckets) * ways;
            (0..WAYS).map(move |step| first + way(hash, step) as u32)
        })
    }

    /// Removes sessions that ended or timed out, and counts the others.
    pub fn expire(&mut self, now_s: u64, limits: SessionLimits) -> Result<Expired> {
        let now_s = now_s as u32;
        let mut expired = self.expire_established(now_s, limits)?;
        expired.entries += self.expire_embryonic(now_s, limits.embryonic_s)?;
        Ok(expired)
    }

    fn expire_established(&self, now_s: u32, limits: SessionLimits) -> Result<Expired> {
        let requests: Vec<_> = taken(&self.requests).collect();
        let replies: Vec<_> = taken(&self.replies).collect();
        let all = (requests.iter().map(|(_, cell)| cell))
            .chain(replies.iter().map(|(_, cell)| &cell.session));
        let states = States::of(all, now_s);
        let (mut entries, mut remaining) = (0, Vec::new());
        for (place, cell) in &requests {
            let ended = states.has_ended(cell, limits);
            entries += usize::from(ended && free(&self.requests, *place, cell, now_s)?);
        }
        for (place, cell) in &replies {
            let ended = states.has_ended(&cell.session, limits);
            if ended && free(&self.replies, *place, cell, now_s)? {
                entries += 1;
            } else {
                remaining.push(cell.session);
            }
        }
        Ok(Expired {
            entries,
            established: Established::of(remaining.into_iter()),
        })
    }

    fn expire_embryonic(&self, now_s: u32, limit_s: u32) -> Result<usize> {
        let cells: Vec<_> = taken(&self.embryonic).collect();
        let mut removed = 0;
        for (place, cell) in &cells {
            let is_over = u32::from(idle_s(cell.session.seen_s, now_s)) >= limit_s;
            removed += usize::from(is_over && free(&self.embryonic, *place, cell, now_s)?);
        }
        Ok(removed)
    }

    /// The members and source addresses that sessions refer to: their indexes are in use.
    pub fn names(&self) -> Result<SessionNames> {
        let mut names = SessionNames::default();
        let requests = taken(&self.requests).map(|(_, cell)| cell);
        let replies = taken(&self.replies).chain(taken(&self.embryonic));
        for session in requests.chain(replies.map(|(_, cell)| cell.session)) {
            names.members.insert(session.member());
            names.sources.insert(session.nat_source());
        }
        Ok(names)
    }

    /// Removes the sessions of some members; returns the number of removed entries.
    pub fn remove_members(&mut self, members: &BTreeSet<MemberIndex>) -> Result<usize> {
        Ok(remove_from(&self.requests, members)?
            + remove_from(&self.replies, members)?
            + remove_from(&self.embryonic, members)?)
    }
}

/// Writes a cell over its session's, else where the data path would put a new one.
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
    let in_first = first.len() > FREE_CELLS_LOW as usize || first.len() >= second.len();
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
            // The cell may be reused at once: nothing is sent to a member that is gone.
            removed += usize::from(free(table, *place, cell, session.seen_s.into())?);
        }
    }
    Ok(removed)
}

/// The cells in use, with their places.
fn taken<T: Cell>(table: &Mapped<T>) -> impl Iterator<Item = (u32, T)> + '_ {
    let words = size_of::<T>() / size_of::<u64>();
    let cells = table.words().chunks_exact(words).zip(0..);
    cells.filter_map(|(words, place)| {
        // A single load for each free cell: most are free.
        let name = words.get(NatRecord::NAME)?;
        if name.load(Ordering::Acquire) == 0 {
            return None;
        }
        let cell = table.read(place).ok()?;
        // It may have been freed while it was read.
        (cell.session().name() != 0).then_some((place, cell))
    })
}

/// Frees a cell, unless a packet was seen or another entry was written since `read`.
fn free<T: Cell>(table: &Mapped<T>, place: u32, read: &T, now_s: u32) -> Result<bool> {
    let (now, read) = (table.read(place)?, read.session());
    if !is_same(now.session(), read) || now.session().seen_s != read.seen_s {
        return Ok(false);
    }
    // The data path reuses the cell only some time after this.
    let word = table.load_word(place, SEEN)? & !(u64::from(u16::MAX) << 16);
    table.store_word(place, SEEN, word | u64::from(now_s as u16) << 16)?;
    table.exchange_word(place, NAME, read.name(), 0)
}
