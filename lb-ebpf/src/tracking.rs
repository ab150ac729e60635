//! Looks up flows in the tracking table: those in slots that changed, and all flows of VIPs that
//! always track. `docs/adr/0001-connection-consistency.md` explains the decisions.

use core::hint::black_box;

use lb_common::{
    proto,
    ring::{MemberIndex, NO_MEMBER},
    trace::decision,
    track::{Bucket, Cell, FREE, Place, WAYS, eviction_rank},
};

use crate::{
    clock,
    counters::count_vip,
    headers::tcp,
    maps::{self, TRACK, TRACK_MASK, Tables, below},
    route::is_serving,
    trace,
};

/// Inputs of a lookup.
pub(crate) struct Query {
    pub(crate) flow_hash: u64,
    pub(crate) vip: u16,
    /// The slot's member.
    pub(crate) current: MemberIndex,
    /// The slot's member in its last clean state.
    pub(crate) previous: MemberIndex,
    /// Whether the VIP tracks all its flows.
    pub(crate) always: bool,
    pub(crate) protocol: u8,
    /// TCP flags; 0 for UDP.
    pub(crate) tcp_flags: u8,
    /// Whether the table may be modified.
    pub(crate) record: bool,
}

/// Result of a lookup: member index in bits 0–15; bit 16: the flow is new.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Selection(u32);

impl Selection {
    #[inline(always)]
    pub(crate) const fn new(member: MemberIndex, new_flow: bool) -> Self {
        Self(member as u32 | (new_flow as u32) << 16)
    }

    #[inline(always)]
    pub(crate) const fn member(self) -> MemberIndex {
        self.0 as MemberIndex
    }

    #[inline(always)]
    pub(crate) const fn new_flow(self) -> bool {
        self.0 >> 16 != 0
    }
}

/// Returns the member if the flow is in one of its first two cells and the table needs no update:
/// the common case, without a function call. `None`: use [`look_up`].
///
/// If the ring has the same member, the ring's value is returned: the processor predicts that and
/// continues with the packet while the cell is still being loaded from memory.
#[inline(always)]
pub(crate) fn find_confirmed(tables: Tables, query: &Query) -> Option<MemberIndex> {
    let place = Place::of(query.flow_hash);
    let bucket = TRACK.get_ptr_mut(place.bucket & TRACK_MASK.load())?;
    let (first, second) = (load(bucket, place.way(0)), load(bucket, place.way(1)));
    // All bits set if the first cell matches, otherwise 0. Branch-free: in a half-full table one
    // flow in four is not in its first cell, which cannot be predicted, but only one in twelve is
    // in neither.
    let is_first = ((((first >> 32) ^ u64::from(place.tag)) as i64 - 1) >> 63) as u64;
    let word = first & is_first | second & !is_first;
    let cell = Cell::unpack(word);
    let unchanged = Cell {
        tag: place.tag,
        member: cell.member,
        confirmed: true,
        closed: false,
        seen_s: clock::now_s() as u16,
    };
    if word != unchanged.pack() || query.tcp_flags & (tcp::SYN | tcp::FIN | tcp::RST) != 0 {
        return None;
    }
    let member = if cell.member != query.current {
        cell.member
    } else if query.always || query.current != query.previous {
        black_box(query.current)
    } else {
        return None;
    };
    if !is_serving(tables, member) {
        return None;
    }
    count_vip(query.vip, |counters| counters.track_hits += 1);
    trace::member(member, decision::TRACKED);
    Some(member)
}

/// Finds the member of a flow, and records the flow if the ring alone cannot determine its member.
#[inline(always)]
pub(crate) fn look_up(query: &Query) -> Selection {
    let members = u32::from(query.current) | u32::from(query.previous) << 16;
    let packet = u32::from(query.tcp_flags)
        | u32::from(query.protocol) << 8
        | u32::from(query.always) << 16
        | u32::from(query.record) << 17;
    Selection(black_box(track_flow(
        query.flow_hash,
        members,
        u32::from(query.vip),
        packet,
    )))
}

/// [`look_up`] as a global function that takes the query as numbers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn track_flow(flow_hash: u64, members: u32, vip: u32, packet: u32) -> u32 {
    select(&Query {
        flow_hash,
        vip: vip as u16,
        current: members as u16,
        previous: (members >> 16) as u16,
        tcp_flags: packet as u8,
        protocol: (packet >> 8) as u8,
        always: packet >> 16 & 1 != 0,
        record: packet >> 17 & 1 != 0,
    })
    .0
}

impl Query {
    /// Whether an untracked flow is new: the packet starts it, or the protocol has no start flag
    /// (UDP, if all flows are tracked).
    #[inline(always)]
    fn is_new_if_unknown(&self) -> bool {
        tcp::opens(self.tcp_flags) || self.always && self.protocol != proto::TCP
    }
}

#[inline(always)]
fn select(query: &Query) -> Selection {
    let tables = maps::tables();
    let place = Place::of(query.flow_hash);
    let Some(bucket) = TRACK.get_ptr_mut(place.bucket & TRACK_MASK.load()) else {
        return Selection::new(query.current, false);
    };
    let now_s = clock::now_s() as u16;
    if let Some((way, cell)) = find(bucket, place) {
        let another = tcp::opens(query.tcp_flags) && cell.closed;
        if !another && is_serving(tables, cell.member) {
            count_vip(query.vip, |counters| counters.track_hits += 1);
            refresh(query, bucket, way, cell, now_s);
            trace::member(cell.member, decision::TRACKED);
            return Selection::new(cell.member, false);
        }
        // The member is gone, or the client has closed the flow and reuses the port: free the cell
        // and start again.
        store(bucket, way, FREE);
    }
    count_vip(query.vip, |counters| counters.track_misses += 1);
    let (member, ring_agrees, how) = decide(tables, query);
    trace::member(member, how);
    if query.record && !ring_agrees && member != NO_MEMBER {
        let cell = Cell {
            tag: place.tag,
            member,
            confirmed: false,
            closed: tcp::closes(query.tcp_flags),
            seen_s: now_s,
        };
        insert(query.vip, bucket, place, cell);
    }
    Selection::new(member, query.is_new_if_unknown())
}

/// Returns the member of an untracked flow, whether the ring alone gives the next packet the same
/// member, and the decision.
#[inline(always)]
fn decide(tables: Tables, query: &Query) -> (MemberIndex, bool, u32) {
    let settled = query.current == query.previous;
    let ring_agrees = settled && !query.always;
    if query.is_new_if_unknown() {
        return (query.current, ring_agrees, decision::OPENED);
    }
    if is_serving(tables, query.previous) {
        (query.previous, ring_agrees, decision::PREVIOUS)
    } else {
        (query.current, false, decision::TAKEN_OVER)
    }
}

/// Updates the cell of a flow, or frees it if the ring gives the same member.
#[inline(always)]
fn refresh(query: &Query, bucket: *mut Bucket, way: usize, cell: Cell, now_s: u16) {
    if !query.record {
        return;
    }
    let redundant = query.current == query.previous && cell.member == query.current;
    if redundant && !query.always {
        store(bucket, way, FREE);
        return;
    }
    let kept = Cell {
        confirmed: cell.confirmed || !tcp::opens(query.tcp_flags),
        closed: tcp::closes(query.tcp_flags)
            || cell.closed && !tcp::shows_activity(query.tcp_flags),
        seen_s: now_s,
        ..cell
    };
    if kept != cell {
        store(bucket, way, kept.pack());
    }
}

#[inline(always)]
fn find(bucket: *mut Bucket, place: Place) -> Option<(usize, Cell)> {
    for step in 0..WAYS {
        let way = place.way(step);
        let word = load(bucket, way);
        if (word >> 32) as u32 == place.tag && word != FREE {
            return Some((way, Cell::unpack(word)));
        }
    }
    None
}

/// Stores a new cell in place of the one with the highest eviction rank, if any may be evicted.
#[inline(always)]
fn insert(vip: u16, bucket: *mut Bucket, place: Place, cell: Cell) {
    let (mut best, mut best_way) = (0, 0);
    for step in 0..WAYS {
        let way = place.way(step);
        let eviction_rank = eviction_rank(load(bucket, way), cell.seen_s);
        if eviction_rank > best {
            (best, best_way) = (eviction_rank, way);
        }
    }
    if best == 0 {
        count_vip(vip, |counters| counters.track_full += 1);
        return;
    }
    count_vip(vip, |counters| counters.track_inserts += 1);
    store(bucket, best_way, cell.pack());
}

/// A cell is one word: other CPUs read and write it atomically.
#[inline(always)]
fn load(bucket: *mut Bucket, way: usize) -> u64 {
    // SAFETY: in bounds of the bucket.
    unsafe { bucket.cast::<u64>().add(below::<WAYS>(way)).read_volatile() }
}

#[inline(always)]
fn store(bucket: *mut Bucket, way: usize, word: u64) {
    // SAFETY: as in `load`.
    unsafe {
        bucket
            .cast::<u64>()
            .add(below::<WAYS>(way))
            .write_volatile(word);
    }
}
