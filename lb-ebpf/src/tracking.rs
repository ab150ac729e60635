//! Looks up flows in the tracking table: those in slots that changed, and all flows of VIPs that
//! always track. `docs/adr/0001-connection-consistency.md` explains the decisions.

use core::hint::black_box;

use lb_common::{
    proto,
    reason::Reason,
    ring::{MemberIndex, NO_MEMBER},
    trace::decision,
    track::{Bucket, Cell, FREE, Newcomer, Place, REPLACE_UNCONFIRMED_S, WAYS, idle_s},
    vip::track,
};

use crate::{
    clock,
    counters::count_vip,
    headers::tcp,
    maps::{TRACK, TRACK_MASK, below},
    route::is_serving,
    spilled::note_spilled,
    tables, trace,
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
    /// Whether limits have to be asked before a flow without start begins ([`ASK_LIMITS`]).
    pub(crate) is_limited: bool,
}

/// No reason: the packet begins a flow, and its VIP has limits of new flows.
pub(crate) const ASK_LIMITS: Reason = Reason::SourceFlowLimit;
/// No reason: the packet's cell is unproven ([`Cell::unproven`]).
pub(crate) const ASK_PROOF: Reason = Reason::FirstSyn;

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
pub(crate) fn find_confirmed(query: &Query) -> Option<MemberIndex> {
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
        redundant: cell.redundant,
        unproven: false,
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
    if !is_serving(member) {
        return None;
    }
    count_vip(query.vip, |counters| counters.track_hits += 1);
    trace::member(member, decision::TRACKED);
    Some(member)
}

/// Finds the member of a flow, and records the flow if the ring alone cannot determine its member.
#[inline(always)]
pub(crate) fn look_up(query: &Query) -> Result<Selection, Reason> {
    let members = u32::from(query.current) | u32::from(query.previous) << 16;
    let packet = u32::from(query.tcp_flags)
        | u32::from(query.protocol) << 8
        | u32::from(query.always) << 16
        | u32::from(query.record) << 17;
    let vip = u32::from(query.vip);
    let known = black_box(track_known(query.flow_hash, members, vip, packet));
    if known == UNPROVEN {
        return Err(ASK_PROOF);
    }
    if known != UNKNOWN {
        return Ok(Selection(known));
    }
    if query.is_limited && query.has_no_start() {
        return Err(ASK_LIMITS);
    }
    let choice = Choice::unpack(black_box(track_unknown(members, vip, packet)));
    let (mut member, mut how) = (choice.member, choice.how);
    if query.record && choice.is_recorded && member != NO_MEMBER {
        let cell = u32::from(member)
            | u32::from(member == choice.later) << 16
            | u32::from(tcp::closes(query.tcp_flags)) << 17;
        let flow = vip | u32::from(query.ring_suffices()) << 16;
        let is_stored = black_box(track_insert(query.flow_hash, cell, flow)) != 0;
        if !is_stored && member != choice.later {
            // The next packet will not find the flow either: start it where that one will go.
            (member, how) = (choice.later, decision::PREVIOUS);
        }
    }
    trace::member(member, how);
    Ok(Selection::new(member, query.is_new_if_unknown()))
}

/// Result of [`track_known`] for a flow without a usable cell.
const UNKNOWN: u32 = u32::MAX;
/// The same for one with an unproven cell.
const UNPROVEN: u32 = u32::MAX - 1;

// The steps of a lookup are global functions that take the query as numbers. They are called one
// after another, and not by one another: a call chain has 512 bytes of stack.

/// Returns the [`Selection`] of a flow that has a cell.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn track_known(flow_hash: u64, members: u32, vip: u32, packet: u32) -> u32 {
    find_known(&Query::from_numbers(flow_hash, members, vip, packet)).map_or(UNKNOWN, |it| it.0)
}

/// Returns the packed [`Choice`] for a flow that has none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn track_unknown(members: u32, vip: u32, packet: u32) -> u64 {
    count_vip(vip as u16, |counters| counters.track_misses += 1);
    decide(&Query::from_numbers(0, members, vip, packet)).pack()
}

impl Query {
    #[inline(always)]
    fn from_numbers(flow_hash: u64, members: u32, vip: u32, packet: u32) -> Self {
        Self {
            flow_hash,
            vip: vip as u16,
            current: members as u16,
            previous: (members >> 16) as u16,
            tcp_flags: packet as u8,
            protocol: (packet >> 8) as u8,
            always: packet >> 16 & 1 != 0,
            record: packet >> 17 & 1 != 0,
            is_limited: false,
        }
    }

    /// Whether an untracked flow is new: the packet starts it, or the protocol has no start flag
    /// (UDP, if all flows are tracked).
    #[inline(always)]
    fn is_new_if_unknown(&self) -> bool {
        tcp::opens(self.tcp_flags) || self.has_no_start()
    }

    /// Whether every packet of an untracked flow starts it.
    #[inline(always)]
    fn has_no_start(&self) -> bool {
        self.always && self.protocol != proto::TCP
    }

    /// Whether, with this ring, an untracked flow gets the slot's member from now on.
    #[inline(always)]
    fn ring_suffices(&self) -> bool {
        self.current == self.previous || self.has_no_start()
    }
}

/// Finds the cell of a flow whose member serves, and updates it. Frees the cell of another.
#[inline(always)]
fn find_known(query: &Query) -> Option<Selection> {
    let place = Place::of(query.flow_hash);
    let bucket = TRACK.get_ptr_mut(place.bucket & TRACK_MASK.load())?;
    let (way, cell) = find(bucket, place)?;
    let another = tcp::opens(query.tcp_flags) && cell.closed && !cell.unproven;
    if another || !is_serving(cell.member) {
        // The member is gone, or the client has closed the flow and reuses the port: free the cell
        // and start again.
        store(bucket, way, FREE);
        return None;
    }
    if cell.unproven {
        return query.record.then_some(Selection(UNPROVEN));
    }
    count_vip(query.vip, |counters| counters.track_hits += 1);
    refresh(query, bucket, way, cell, clock::now_s());
    trace::member(cell.member, decision::TRACKED);
    Some(Selection::new(cell.member, false))
}

/// The member of an untracked flow.
struct Choice {
    member: MemberIndex,
    /// The member of its next packet if the flow remains untracked.
    later: MemberIndex,
    /// Whether to enter it into the table.
    is_recorded: bool,
    how: u32,
}

impl Choice {
    #[inline(always)]
    fn pack(&self) -> u64 {
        u64::from(self.member)
            | u64::from(self.later) << 16
            | u64::from(self.is_recorded) << 32
            | u64::from(self.how) << 40
    }

    #[inline(always)]
    const fn unpack(word: u64) -> Self {
        Self {
            member: word as MemberIndex,
            later: (word >> 16) as MemberIndex,
            is_recorded: word >> 32 & 1 != 0,
            how: (word >> 40) as u32,
        }
    }
}

#[inline(always)]
fn decide(query: &Query) -> Choice {
    let is_new = query.is_new_if_unknown();
    let keeps_previous = !query.has_no_start() && is_serving(query.previous);
    let later = if keeps_previous {
        query.previous
    } else {
        query.current
    };
    let is_taken_over = !is_new && !keeps_previous;
    let (member, how) = if is_new {
        (query.current, decision::OPENED)
    } else if keeps_previous {
        (later, decision::PREVIOUS)
    } else {
        (later, decision::TAKEN_OVER)
    };
    Choice {
        member,
        later,
        is_recorded: query.always || query.current != query.previous || is_taken_over,
        how,
    }
}

/// Updates the cell of a flow, or frees it if the ring gives the same member.
#[inline(always)]
fn refresh(query: &Query, bucket: *mut Bucket, way: usize, cell: Cell, now_s: u64) {
    if !query.record {
        return;
    }
    if cell.member != query.current {
        note_spilled(query.current, now_s);
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
        redundant: query.ring_suffices() && cell.member == query.current,
        seen_s: now_s as u16,
        ..cell
    };
    if kept != cell {
        store(bucket, way, kept.pack());
    }
}

#[inline(always)]
pub(crate) fn find(bucket: *mut Bucket, place: Place) -> Option<(usize, Cell)> {
    for step in 0..WAYS {
        let way = place.way(step);
        let word = load(bucket, way);
        if (word >> 32) as u32 == place.tag && word != FREE {
            return Some((way, Cell::unpack(word)));
        }
    }
    None
}

/// Stores a new cell if the bucket has room for it; returns 1 if it has. `new`: member in bits 0–15;
/// bit 16: losing the cell changes nothing; bit 17: closed. `flow`: VIP in bits 0–15; bit 16: the ring
/// suffices.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn track_insert(flow_hash: u64, new: u32, flow: u32) -> u32 {
    let place = Place::of(flow_hash);
    let (vip, now_s) = (flow as u16, clock::now_s() as u16);
    let cell = Cell {
        tag: place.tag,
        member: new as u16,
        confirmed: false,
        closed: new >> 17 & 1 != 0,
        redundant: new >> 16 & 1 != 0,
        unproven: false,
        seen_s: now_s,
    };
    let newcomer = Newcomer {
        place,
        vip,
        redundant: flow >> 16 & 1 != 0,
        now_s,
    };
    let Some(bucket) = TRACK.get_ptr_mut(place.bucket & TRACK_MASK.load()) else {
        return 0;
    };
    let Some(way) = newcomer.way(|way| load(bucket, way), tables::vip_of) else {
        count_vip(vip, |counters| counters.track_full += 1);
        return 0;
    };
    count_vip(vip, |counters| counters.track_inserts += 1);
    count_displaced(load(bucket, way), now_s);
    store(bucket, way, cell.pack());
    1
}

/// Counts a flow that loses its cell before its second packet may have come. For VIPs that always
/// track, that changes nothing.
#[inline(always)]
fn count_displaced(word: u64, now_s: u16) {
    let cell = Cell::unpack(word);
    if word == FREE || cell.confirmed || idle_s(cell.seen_s, now_s) >= REPLACE_UNCONFIRMED_S {
        return;
    }
    let vip = tables::vip_of(cell.member);
    if tables::vip(vip).track != track::ALWAYS {
        count_vip(vip, |counters| counters.track_full += 1);
    }
}

/// A cell is one word: other CPUs read and write it atomically.
#[inline(always)]
pub(crate) fn load(bucket: *mut Bucket, way: usize) -> u64 {
    // SAFETY: in bounds of the bucket.
    unsafe { bucket.cast::<u64>().add(below::<WAYS>(way)).read_volatile() }
}

#[inline(always)]
pub(crate) fn store(bucket: *mut Bucket, way: usize, word: u64) {
    // SAFETY: as in `load`.
    unsafe {
        bucket
            .cast::<u64>()
            .add(below::<WAYS>(way))
            .write_volatile(word);
    }
}
